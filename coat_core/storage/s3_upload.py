"""Upload of a folder to a prefix of a bucket: complete once its last object, the record, exists."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from coat_core.errors import StorageError, StorageUnavailableError
from coat_core.storage.s3 import WORKERS, Location, list_objects
from coat_core.storage.s3_errors import explained


def check_replaceable(client: Any, location: Location, record: str) -> None:
    """Check that a prefix is empty, or holds an earlier upload with this record.

    Args:
        client: see `open_client`.
        location: the prefix.
        record: name of the file that marks an upload as complete.

    Raises:
        StorageError: the location is a whole bucket, or holds something else, or cannot be listed.
    """
    if not location.prefix:
        raise StorageError("an upload needs a prefix of its own", field="--to", value=location.uri, allowed=f"{location.uri}/NAME")
    keys = [item.key for item in list_objects(client, location)]
    if keys and not {*keys} & {*_marks(location, record)}:
        raise StorageError(
            "the prefix holds something that is not an earlier upload",
            field="--to",
            value=f"{location.uri}, object {keys[0]}",
            allowed="an empty prefix, or an earlier export",
            next_step="choose another prefix",
        )


def upload_folder(client: Any, folder: Path, location: Location, record: str) -> int:
    """Upload all files of a folder in parallel, the record last, and remove the objects of an earlier upload. Return the bytes.

    The record of an earlier upload is removed first and `<record>.partial` stands in its place, so an interrupted upload is never taken
    for a complete one, and the same command replaces it. The SDK sends a checksum with each part, which the server verifies.

    Args:
        client: see `open_client`.
        folder: its files become objects below the prefix, by their relative paths.
        location: the prefix; see `check_replaceable`.
        record: name of the file in the folder that marks an upload as complete.

    Raises:
        StorageError: the server refused a request.
        StorageUnavailableError: the server cannot be reached, or an object does not have the size of its file.
    """
    check_replaceable(client, location, record)
    files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    final, partial = _marks(location, record)
    with explained(location.uri):
        client.put_object(Bucket=location.bucket, Key=partial, Body=b"")
        client.delete_object(Bucket=location.bucket, Key=final)
    with ThreadPoolExecutor(WORKERS, thread_name_prefix="s3") as pool:
        running = [pool.submit(_upload, client, path, location, name) for name, path in files.items() if name != record]
        try:
            for future in running:
                future.result()
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    kept = {f"{location.prefix}/{name}" for name in files}
    for item in list_objects(client, location):
        if item.key not in kept | {partial}:
            _delete(client, location, item.key)
    _upload(client, files[record], location, record)
    # `list_objects` leaves out only empty objects that end in a slash, so the mark would be found by the next upload.
    _delete(client, location, partial)
    return sum(path.stat().st_size for path in files.values())


def _marks(location: Location, record: str) -> tuple[str, str]:
    return f"{location.prefix}/{record}", f"{location.prefix}/{record}.partial"


def _upload(client: Any, path: Path, location: Location, name: str) -> None:
    key, size = f"{location.prefix}/{name}", path.stat().st_size
    with explained(f"{location.uri}/{name}"):
        with path.open("rb") as stream:
            client.upload_fileobj(stream, location.bucket, key)
        stored = client.head_object(Bucket=location.bucket, Key=key)["ContentLength"]
    if stored != size:
        raise StorageUnavailableError(
            "an object does not have the size of its file", field="s3", value=f"{location.uri}/{name}: {stored} of {size} bytes",
            next_step="run the same command again",
        )  # fmt: skip


def _delete(client: Any, location: Location, key: str) -> None:
    with explained(f"s3://{location.bucket}/{key}"):
        client.delete_object(Bucket=location.bucket, Key=key)
