"""Objects of an S3 bucket: listed in bounded memory, fetched in parallel, verified, and never visible in part.

Credentials, region and endpoint come from the standard chain of the AWS SDKs alone (environment, profile, role of the host), never from
params. Requests are repeated by the SDK; a body that ends early or is damaged is fetched again here.
"""

from __future__ import annotations

import hashlib
import random
import re
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coat_core.errors import StorageError
from coat_core.storage.local import new_file
from coat_core.storage.s3_errors import explained, transient_errors

SCHEME = "s3://"
WORKERS = 8
_ATTEMPTS = 5
_FIRST_PAUSE_S = 0.5
_CHUNK = 1 << 20
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_MD5 = re.compile(r"[0-9a-f]{32}")
_PARTS = re.compile(r"[0-9a-f]{32}-(\d+)")


@dataclass(frozen=True)
class Location:
    """A prefix of a bucket."""

    bucket: str
    prefix: str
    """Without a slash at the end; empty: the whole bucket."""

    @property
    def uri(self) -> str:
        """The location as `s3://bucket/prefix`."""
        return f"{SCHEME}{self.bucket}/{self.prefix}".rstrip("/")


@dataclass(frozen=True)
class StoredObject:
    """An object as listed.

    Attributes:
        key: its key.
        size: bytes.
        etag: entity tag without quotes: it changes with the content.
    """

    key: str
    size: int
    etag: str


def parse_uri(uri: str) -> Location:
    """Return the location of `s3://bucket/prefix`.

    Raises:
        StorageError: it has another form.
    """
    bucket, _, prefix = uri[len(SCHEME) :].partition("/")
    prefix = prefix.rstrip("/")
    if not uri.startswith(SCHEME) or not _BUCKET.fullmatch(bucket) or "//" in prefix or prefix.startswith("/"):
        raise StorageError("this is not an S3 location", field="s3", value=uri, allowed="s3://bucket or s3://bucket/prefix")
    return Location(bucket, prefix)


def open_client() -> Any:
    """Return a client of S3 for all threads. `AWS_ENDPOINT_URL` or `AWS_ENDPOINT_URL_S3` selects a server that is not Amazon's."""
    import boto3
    from botocore.config import Config

    with explained(SCHEME):
        retries = {"mode": "standard", "total_max_attempts": _ATTEMPTS}
        return boto3.session.Session().client(
            "s3", config=Config(retries=retries, connect_timeout=10, read_timeout=60, max_pool_connections=2 * WORKERS)
        )


def list_objects(client: Any, location: Location) -> Iterator[StoredObject]:
    """Yield the objects at or below a location in the order of their keys, page by page. Empty objects that end in `/` are left out.

    Raises:
        StorageError: the bucket cannot be listed.
    """
    with explained(location.uri):
        pages = client.get_paginator("list_objects_v2").paginate(
            Bucket=location.bucket, Prefix=f"{location.prefix}/" if location.prefix else ""
        )
        for page in pages:
            for entry in page.get("Contents", ()):
                if not entry["Key"].endswith("/") or entry["Size"]:
                    yield StoredObject(entry["Key"], entry["Size"], entry["ETag"].strip('"'))


def fetch_all(
    client: Any, bucket: str, wanted: Iterable[tuple[StoredObject, Path]], *, done: Callable[[StoredObject], object] = lambda _: None
) -> None:
    """Fetch objects in parallel. Memory does not grow with their number or size; files that are complete stay if one fails.

    Args:
        client: see `open_client`.
        bucket: the bucket.
        wanted: objects and their target files.
        done: called after each.

    Raises:
        StorageError: see `fetch`.
    """
    running: dict[Future[None], StoredObject] = {}
    with ThreadPoolExecutor(WORKERS, thread_name_prefix="s3") as pool:
        try:
            for item, target in wanted:
                if len(running) >= 4 * WORKERS:
                    _collect(running, done)
                running[pool.submit(fetch, client, bucket, item, target)] = item
            while running:
                _collect(running, done)
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def _collect(running: dict[Future[None], StoredObject], done: Callable[[StoredObject], object]) -> None:
    for future in wait(running, return_when=FIRST_COMPLETED).done:
        item = running.pop(future)
        future.result()
        done(item)


def fetch(client: Any, bucket: str, item: StoredObject, target: Path) -> None:
    """Fetch one object to a file, which appears when it is complete and verified.

    Verified are the size, the checksum that is stored with the object (by the SDK), and the entity tag where it is an MD5, of the object
    or of its parts.

    Raises:
        StorageError: the object is not as listed, or the server refused the request.
        StorageUnavailableError: the data are incomplete or damaged at every attempt.
    """
    transient = transient_errors()
    with explained(f"{SCHEME}{bucket}/{item.key}"):
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                _fetch_once(client, bucket, item, target)
                return
            except transient:
                if attempt == _ATTEMPTS:
                    raise
                time.sleep(_FIRST_PAUSE_S * 2 ** (attempt - 1) * random.uniform(0.5, 1.0))


def _fetch_once(client: Any, bucket: str, item: StoredObject, target: Path) -> None:
    from botocore.exceptions import FlexibleChecksumError, IncompleteReadError

    part_bytes = _part_bytes(client, bucket, item)
    response = client.get_object(Bucket=bucket, Key=item.key, IfMatch=f'"{item.etag}"', ChecksumMode="ENABLED")
    tag = _EntityTag(part_bytes)
    with new_file(target) as stream:
        for chunk in response["Body"].iter_chunks(_CHUNK):
            tag.update(chunk)
            stream.write(chunk)
        if tag.size != item.size:
            raise IncompleteReadError(actual_bytes=tag.size, expected_bytes=item.size)
        encrypted = str(response.get("ServerSideEncryption", "")).startswith("aws:kms") or response.get("SSECustomerAlgorithm")
        if part_bytes is not None and not encrypted and tag.value() != item.etag:
            raise FlexibleChecksumError(error_msg="the MD5 of the data differs from the entity tag")


def _part_bytes(client: Any, bucket: str, item: StoredObject) -> int | None:
    """Return the size of the parts that the entity tag is made of; 0: it is the MD5 of the object; None: neither is known."""
    if _MD5.fullmatch(item.etag):
        return 0
    if (parts := _PARTS.fullmatch(item.etag)) is None:
        return None
    count = int(parts[1])
    sizes = {_part_size(client, bucket, item, number) for number in {1, max(1, count - 1)}}
    size = sizes.pop()
    # Parts of different sizes, or a server that ignores the part number and returns the size of the object.
    return size if not sizes and size and -(-item.size // size) == count else None


def _part_size(client: Any, bucket: str, item: StoredObject, number: int) -> int:
    # Without IfMatch: some servers compare it with the tag of the part. The GET that follows has it.
    head = client.head_object(Bucket=bucket, Key=item.key, PartNumber=number)
    return int(head["ContentLength"])


class _EntityTag:
    """The entity tag of data in chunks: their MD5, or that of the MD5s of their parts."""

    def __init__(self, part_bytes: int | None) -> None:
        self.size = 0
        self._part_bytes, self._parts = part_bytes or 0, b""
        self._md5 = hashlib.md5(usedforsecurity=False)
        self._in_part = 0

    def update(self, chunk: bytes) -> None:
        self.size += len(chunk)
        while self._part_bytes and self._in_part + len(chunk) >= self._part_bytes:
            head, chunk = chunk[: self._part_bytes - self._in_part], chunk[self._part_bytes - self._in_part :]
            self._md5.update(head)
            self._end_part()
        self._md5.update(chunk)
        self._in_part += len(chunk)

    def _end_part(self) -> None:
        self._parts += self._md5.digest()
        self._md5, self._in_part = hashlib.md5(usedforsecurity=False), 0

    def value(self) -> str:
        if not self._part_bytes:
            return self._md5.hexdigest()
        if self._in_part:
            self._end_part()
        return f"{hashlib.md5(self._parts, usedforsecurity=False).hexdigest()}-{len(self._parts) // 16}"
