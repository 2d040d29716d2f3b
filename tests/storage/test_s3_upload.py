"""Uploads: complete or marked as partial, an earlier one replaced, anything else untouched."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from coat_core.errors import CoatError, StorageError
from coat_core.storage import s3_upload
from coat_core.storage.s3 import Location
from coat_core.storage.s3_upload import check_replaceable, upload_folder
from tests.testing.s3_server import FaultyProxy

RECORD = "export.json"


def _folder(path: Path, **files: bytes) -> Path:
    for name, data in {"export.json": b"{}", **files}.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return path


def _objects(client: Any, bucket: str) -> dict[str, bytes]:
    found = client.list_objects_v2(Bucket=bucket).get("Contents", ())
    return {entry["Key"]: client.get_object(Bucket=bucket, Key=entry["Key"])["Body"].read() for entry in found}


def test_a_folder_replaces_an_earlier_upload(client: Any, bucket: str, tmp_path: Path) -> None:
    location = Location(bucket, "models/one")
    client.put_object(Bucket=bucket, Key="models/one-b/other", Body=b"other")
    first = _folder(tmp_path / "first", **{"a.bin": b"a" * 9_000_000, "base/config.json": b"old", "unused": b"x"})
    assert upload_folder(client, first, location, RECORD) == 9_000_000 + 3 + 1 + 2
    second = _folder(tmp_path / "second", **{"a.bin": b"b", "base/config.json": b"new"})
    upload_folder(client, second, location, RECORD)
    assert _objects(client, bucket) == {
        "models/one-b/other": b"other", "models/one/a.bin": b"b", "models/one/base/config.json": b"new", "models/one/export.json": b"{}",
    }  # fmt: skip


def test_an_interrupted_upload_has_no_record_and_is_replaced(
    client: Any, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    location, folder = Location(bucket, "models/one"), _folder(tmp_path / "export", a=b"a", b=b"b")
    upload_folder(client, folder, location, RECORD)
    whole = s3_upload._upload

    def failing(client: Any, path: Path, location: Location, name: str) -> None:
        if name == "b":
            raise StorageError("the network is gone")
        whole(client, path, location, name)

    monkeypatch.setattr(s3_upload, "_upload", failing)
    with pytest.raises(StorageError, match="network"):
        upload_folder(client, folder, location, RECORD)
    assert {"models/one/export.json"} & {*_objects(client, bucket)} == set()
    monkeypatch.undo()
    upload_folder(client, folder, location, RECORD)
    assert _objects(client, bucket) == {f"models/one/{name}": data for name, data in (("a", b"a"), ("b", b"b"), ("export.json", b"{}"))}


def test_anything_else_is_left_alone(client: Any, bucket: str, tmp_path: Path) -> None:
    client.put_object(Bucket=bucket, Key="data/rows.jsonl", Body=b"rows")
    for location in (Location(bucket, "data"), Location(bucket, "")):
        with pytest.raises(CoatError, match=f"s3://{bucket}"):
            upload_folder(client, _folder(tmp_path / "export"), location, RECORD)
    assert _objects(client, bucket) == {"data/rows.jsonl": b"rows"}
    check_replaceable(client, Location(bucket, "new"), RECORD)


def test_a_missing_bucket_is_named(client: Any, proxy: FaultyProxy, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="no such bucket"):
        upload_folder(client, _folder(tmp_path / "export"), Location("bucket-that-is-missing", "a"), RECORD)
