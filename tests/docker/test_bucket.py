"""The MLflow server's start makes its bucket once, and reports an endpoint that refuses it."""

from __future__ import annotations

import runpy
from pathlib import Path

import boto3
import pytest
from botocore.exceptions import ClientError
from moto import mock_aws

SCRIPT = str(Path(__file__).resolve().parents[2] / "docker/bin/make-bucket")


@pytest.fixture(autouse=True)
def account(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("COAT_BUCKET", "mlflow")
    monkeypatch.delenv("MLFLOW_S3_ENDPOINT_URL", raising=False)


def test_the_bucket_is_made_once() -> None:
    with mock_aws():
        client = boto3.client("s3")
        for _ in range(2):
            runpy.run_path(SCRIPT)
            assert [bucket["Name"] for bucket in client.list_buckets()["Buckets"]] == ["mlflow"]
            client.put_object(Bucket="mlflow", Key="kept", Body=b"1")


def test_a_refusal_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: object, operation: str, arguments: object) -> None:
        raise ClientError({"Error": {"Code": "403", "Message": "Forbidden"}}, operation)

    monkeypatch.setattr("botocore.client.BaseClient._make_api_call", refuse)
    with pytest.raises(ClientError, match="403"):
        runpy.run_path(SCRIPT)
