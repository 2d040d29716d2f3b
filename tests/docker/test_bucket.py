"""The MLflow server's start makes its bucket once, and reports an endpoint that refuses it; the trial stores a corpus in a bucket."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import boto3
import pytest
from botocore.exceptions import ClientError
from moto import mock_aws

from coat_core.corpus.examples import read_manifest
from coat_core.corpus.generated.corpus import generate_corpus
from coat_core.settings import CorpusSettings
from tests.testing.manifests import import_text

FOLDER = Path(__file__).resolve().parents[2] / "docker"
SCRIPT = str(FOLDER / "bin/make-bucket")


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


def test_a_corpus_in_a_bucket_is_a_manifest_with_audio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = CorpusSettings.model_validate(
        {"kind": "generated", "path": None, "clips_per_family": {"train": 1, "validation": 1, "test": 1}, "max_duration_s": 4.0}
    )
    generate_corpus(settings, tmp_path / "corpus")
    monkeypatch.setattr("sys.argv", ["corpus_to_bucket.py", str(tmp_path / "corpus"), "s3://corpora/small"])
    with mock_aws():
        runpy.run_path(str(FOLDER / "corpus_to_bucket.py"), run_name="__main__")
        client = boto3.client("s3")
        keys = [entry["Key"] for entry in client.list_objects_v2(Bucket="corpora")["Contents"]]
        for key in keys:
            target = tmp_path / "read" / key
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(client.get_object(Bucket="corpora", Key=key)["Body"].read())
    imported = import_text(tmp_path / "read/small", (tmp_path / "read/small/rows.jsonl").read_bytes())
    expected = read_manifest(tmp_path / "corpus/manifest.jsonl")
    assert len(expected) == 30
    chosen = ("question", "answer", "choices", "split", "group", "family", "task")
    rows = [{json.dumps([getattr(row, name) for name in chosen]) for row in rows} for rows in (imported, expected)]
    assert rows[0] == rows[1]
