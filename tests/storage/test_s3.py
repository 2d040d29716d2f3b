"""Objects of a bucket are complete and as listed, or not there at all."""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import Any

import pytest
from botocore import exceptions as aws

from coat_core.errors import StorageError, StorageUnavailableError
from coat_core.storage.s3 import Location, StoredObject, fetch, fetch_all, list_objects, open_client, parse_uri
from coat_core.storage.s3_errors import explained
from tests.testing.s3_server import KEY_ID, SECRET, FaultyProxy, use_server

PART = 5 << 20


def put(client: Any, bucket: str, key: str, data: bytes) -> StoredObject:
    client.put_object(Bucket=bucket, Key=key, Body=data)
    return next(item for item in list_objects(client, Location(bucket, "")) if item.key == key)


@pytest.mark.parametrize(
    ("uri", "location"),
    [
        ("s3://audio", Location("audio", "")),
        ("s3://audio/", Location("audio", "")),
        ("s3://audio.of-us/a/b c/ü/", Location("audio.of-us", "a/b c/ü")),
    ],
)
def test_a_uri_is_a_bucket_and_a_prefix(uri: str, location: Location) -> None:
    assert parse_uri(uri) == location
    assert parse_uri(location.uri) == location


@pytest.mark.parametrize(
    "uri", ["s3://", "s3:///a", "s3://A", "S3://audio/a", "s3://a/b", "s3://audio//a", "s3://audio/a//b", "gs://audio/a"]
)
def test_another_form_is_refused(uri: str) -> None:
    with pytest.raises(StorageError, match="allowed: s3://bucket"):
        parse_uri(uri)


def test_a_listing_has_the_objects_below_the_prefix_in_order(client: Any, bucket: str) -> None:
    for number in range(1203):
        client.put_object(Bucket=bucket, Key=f"set/{number:04d}.flac", Body=b"x" * (number % 7))
    for key in ("set/", "setting/1", "set", "sea"):
        client.put_object(Bucket=bucket, Key=key, Body=b"")
    found = list(list_objects(client, Location(bucket, "set")))
    assert [item.key for item in found] == [f"set/{number:04d}.flac" for number in range(1203)]
    assert [item.size for item in found] == [number % 7 for number in range(1203)]
    assert len({item.etag for item in found}) == 7


def test_objects_are_fetched_as_they_are(client: Any, bucket: str, tmp_path: Path) -> None:
    data = {f"k/{number}": bytes([number]) * number * 1000 for number in range(60)}
    items = [put(client, bucket, key, value) for key, value in data.items()]
    done: list[str] = []
    fetch_all(client, bucket, ((item, tmp_path / item.key) for item in items), done=lambda item: done.append(item.key))
    assert {key: (tmp_path / key).read_bytes() for key in data} == data
    assert sorted(done) == sorted(data)


def test_an_object_in_parts_is_compared_with_their_md5s(client: Any, bucket: str, proxy: FaultyProxy, tmp_path: Path) -> None:
    upload = client.create_multipart_upload(Bucket=bucket, Key="long")["UploadId"]
    parts = [b"a" * PART, b"b" * PART, b"c" * 1000]
    tags = [
        client.upload_part(Bucket=bucket, Key="long", UploadId=upload, PartNumber=number, Body=part)["ETag"]
        for number, part in enumerate(parts, 1)
    ]
    listed = [{"PartNumber": number, "ETag": tag} for number, tag in enumerate(tags, 1)]
    client.complete_multipart_upload(Bucket=bucket, Key="long", UploadId=upload, MultipartUpload={"Parts": listed})
    (item,) = list_objects(client, Location(bucket, ""))
    assert item.etag.endswith("-3")
    proxy.faults[f"/{bucket}/long"] = ["damaged", "half"]
    fetch(client, bucket, item, tmp_path / "long")
    assert (tmp_path / "long").read_bytes() == b"".join(parts)
    assert proxy.gets[f"/{bucket}/long"] == 3


@pytest.mark.parametrize("fault", ["half", "damaged", "busy", "closed"])
def test_a_fault_of_the_network_is_repeated(client: Any, bucket: str, proxy: FaultyProxy, tmp_path: Path, fault: Any) -> None:
    item = put(client, bucket, "clip", b"0123456789" * 1000)
    proxy.faults[f"/{bucket}/clip"] = [fault, fault]
    fetch(client, bucket, item, tmp_path / "clip")
    assert (tmp_path / "clip").read_bytes() == b"0123456789" * 1000


@pytest.mark.parametrize("fault", ["half", "damaged", "busy", "closed"])
def test_a_fault_that_stays_leaves_no_file_and_may_be_tried_later(
    client: Any, bucket: str, proxy: FaultyProxy, tmp_path: Path, fault: Any
) -> None:
    item = put(client, bucket, "clip", b"0123456789" * 1000)
    proxy.faults[f"/{bucket}/clip"] = [fault] * 100
    with pytest.raises(StorageUnavailableError, match=f"s3://{bucket}/clip") as caught:
        fetch(client, bucket, item, tmp_path / "clip")
    assert caught.value.retryable
    assert not list(tmp_path.iterdir())


def test_what_is_complete_stays_when_another_object_fails(client: Any, bucket: str, proxy: FaultyProxy, tmp_path: Path) -> None:
    items = [put(client, bucket, f"{number:03d}", b"x" * (1 + number)) for number in range(100)]
    proxy.faults[f"/{bucket}/050"] = ["half"] * 100
    with pytest.raises(StorageUnavailableError, match="/050"):
        fetch_all(client, bucket, ((item, tmp_path / item.key) for item in items))
    found = sorted(path.name for path in tmp_path.iterdir())
    assert {"000", "001"} <= set(found)
    assert "050" not in found
    assert all((tmp_path / name).read_bytes() == b"x" * (1 + int(name)) for name in found)


def test_an_object_that_is_not_as_listed_is_refused(client: Any, bucket: str, tmp_path: Path) -> None:
    item = put(client, bucket, "clip", b"old")
    client.put_object(Bucket=bucket, Key="clip", Body=b"new")
    with pytest.raises(StorageError, match=r"has changed since it was listed.*coat source") as caught:
        fetch(client, bucket, item, tmp_path / "clip")
    assert not caught.value.retryable
    client.delete_object(Bucket=bucket, Key="clip")
    with pytest.raises(StorageError, match=r"no such object any more.*coat source"):
        fetch(client, bucket, item, tmp_path / "clip")
    assert not list(tmp_path.iterdir())


def test_a_missing_bucket_and_missing_credentials_are_named(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StorageError, match=r"no such bucket; field: s3; value: 's3://nobody-has-this/a'"):
        list(list_objects(client, Location("nobody-has-this", "a")))
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(StorageError, match=r"no complete credentials.*AWS_PROFILE"):
        list(list_objects(open_client(), Location("nobody-has-this", "a")))
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(StorageError, match="names no profile"):
        open_client()


def test_a_server_that_is_not_there_may_be_tried_later(proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch) -> None:
    use_server(monkeypatch, "http://127.0.0.1:9")
    with pytest.raises(StorageUnavailableError, match="AWS_ENDPOINT_URL"):
        list(list_objects(open_client(), Location("audio", "")))


@pytest.mark.parametrize(
    ("code", "words", "retryable"),
    [
        ("AccessDenied", "s3:GetObject", False),
        ("403", "access denied", False),
        ("InvalidAccessKeyId", "access key", False),
        ("SignatureDoesNotMatch", "secret access key", False),
        ("ExpiredToken", "sign in again", False),
        ("PermanentRedirect", "AWS_DEFAULT_REGION", False),
        ("AuthorizationHeaderMalformed", "AWS_DEFAULT_REGION", False),
        ("RequestTimeTooSkewed", "set the clock", False),
        ("SlowDown", "too busy", True),
        ("InternalError", "too busy", True),
        ("SomethingNew", "SomethingNew", False),
    ],
)
def test_errors_of_the_server_say_what_to_do_and_nothing_that_it_sent(code: str, words: str, retryable: bool) -> None:
    sent = f"{KEY_ID} {SECRET}"
    with pytest.raises(StorageError, match=words) as caught, explained("s3://audio/a"):
        raise aws.ClientError({"Error": {"Code": code, "Message": sent, "AWSAccessKeyId": KEY_ID}}, "GetObject")
    assert caught.value.retryable is retryable
    assert KEY_ID not in str(caught.value)
    assert SECRET not in str(caught.value)
    assert SECRET not in "".join(traceback.format_exception_only(caught.value))
