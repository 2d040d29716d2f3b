"""Hashing, atomic writes of files and folders, JSON and JSON Lines.

Every file is written under a temporary name on the same file system, flushed to disk and renamed, so that it is either complete or
absent.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from coat_core.errors import CoatError

_CHUNK = 1 << 20


def sha256_bytes(data: bytes) -> str:
    """Return the hex SHA-256 of `data`."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """Return the hex SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def sha256_tree(path: Path) -> str:
    """Return one SHA-256 over the relative names and bytes of a file or of every file below a folder.

    Byte-code caches are ignored.

    Raises:
        CoatError: `path` does not exist.
    """
    if not path.exists():
        raise CoatError("a file or folder is missing", field="path", value=str(path), next_step="run the stage that creates it")
    if path.is_file():
        return sha256_file(path)
    files = (p for p in path.rglob("*") if p.is_file() and "__pycache__" not in p.parts)
    lines = (f"{p.relative_to(path).as_posix()}\0{sha256_file(p)}\n" for p in sorted(files, key=lambda p: p.relative_to(path).as_posix()))
    return sha256_bytes("".join(lines).encode())


def sha256_json(value: Any) -> str:
    """Return the SHA-256 of a value's canonical JSON form (sorted keys, no spaces)."""
    return sha256_bytes(json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode())


@contextmanager
def new_file(path: Path) -> Iterator[BinaryIO]:
    """Yield a stream to a temporary file that replaces `path` when the block succeeds and is removed when it raises."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        Path(name).chmod(0o644)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file atomically: temporary name, fsync, rename."""
    with new_file(path) as stream:
        stream.write(data)


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file atomically."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    """Write indented JSON with sorted keys.

    Raises:
        ValueError: a value is NaN or infinite, which JSON does not allow.
    """
    write_text(path, json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        CoatError: the file is missing or is not JSON.
    """
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise CoatError(f"cannot read JSON: {error}", field="path", value=str(path), next_step="run the stage that creates it") from error


def write_jsonl(path: Path, rows: Iterable[Any]) -> None:
    """Write JSON Lines, one object a line, keys in the given order, atomically; one row at a time is in memory."""
    with new_file(path) as stream:
        for row in rows:
            stream.write((json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n").encode())


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """Read JSON Lines; see `iterate_jsonl`."""
    return list(iterate_jsonl(path))


def iterate_jsonl(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the objects of JSON Lines; one row at a time is in memory.

    Raises:
        CoatError: the file is missing, or a line is not a JSON object; the message names the line.
    """
    if not path.is_file():
        raise CoatError("a JSON Lines file is missing", field="path", value=str(path), next_step="run the stage that creates it")
    with path.open(encoding="utf-8") as stream:
        for number, line in enumerate(stream, 1):
            text = line.removesuffix("\n")
            if not text.strip():
                continue
            try:
                row = json.loads(text)
            except ValueError as error:
                raise CoatError(f"line {number} is not JSON: {error}", field=str(path), value=text[:80]) from error
            if not isinstance(row, dict):
                raise CoatError(f"line {number} is not a JSON object", field=str(path), value=text[:80])
            yield row


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder that replaces `path` when the block succeeds and is removed when it raises."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    try:
        yield temporary
        temporary.chmod(0o755)
        for directory, _, files in os.walk(temporary):
            for name in files:
                with (Path(directory) / name).open("rb") as stream:
                    os.fsync(stream.fileno())
                    os.fchmod(stream.fileno(), 0o644)
        if path.is_symlink() or path.is_file():
            path.unlink()
        elif path.exists():
            shutil.rmtree(path)
        temporary.replace(path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def copy_tree(source: Path, target: Path) -> None:
    """Copy a folder or a file to `target` atomically."""
    if source.is_file():
        write_bytes(target, source.read_bytes())
        return
    with new_folder(target) as temporary:
        shutil.copytree(source, temporary, dirs_exist_ok=True)
