"""A full disk is one message, whichever library reports it; every other error stays as it is."""

from __future__ import annotations

import errno
import os
import sqlite3
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from coat_core.cli import main
from coat_core.errors import CheckpointError, Interrupted, RegistryError, StageError
from coat_core.full_disk import DiskFullError, full_disk, full_disk_in, nearly_full


def _by_number(number: int, *names: str) -> OSError:
    return OSError(number, os.strerror(number), *names)


def _by_sqlite() -> Exception:
    """Return what SQLite raises when its file cannot grow."""
    with closing(sqlite3.connect(":memory:")) as database:
        database.execute("PRAGMA max_page_count = 2")
        database.execute("CREATE TABLE one (x)")
        with pytest.raises(sqlite3.OperationalError) as caught:
            database.execute("INSERT INTO one VALUES (zeroblob(100000))")
    return caught.value


def _raised(error: Exception, cause: Exception | None, *, handled: bool = False) -> Exception:
    """Return an error that was raised from another one, or while that was handled."""
    try:
        try:
            raise cause or error
        except Exception:
            if cause is None:
                raise
            if handled:
                raise error  # noqa: B904
            raise error from cause
    except Exception as raised:
        return raised


FULL: dict[str, Callable[[], Exception]] = {
    "number": lambda: _by_number(errno.ENOSPC),
    "quota": lambda: _by_number(errno.EDQUOT),
    "sqlite": _by_sqlite,
    "rust": lambda: RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"),
    "cause": lambda: _raised(RegistryError("the files are missing"), _by_number(errno.ENOSPC)),
    "context": lambda: _raised(KeyError("x"), _by_number(errno.ENOSPC), handled=True),
    "dvc": lambda: StageError("dvc pull failed: ERROR: [Errno 28] No space left on device: 'x'"),
}


@pytest.mark.parametrize("kind", FULL)
def test_the_command_line_says_what_is_full_and_how_much_is_free(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise FULL[kind]()

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("coat_core.pipeline.runner.run_stage", fail)
    monkeypatch.setattr(sys, "argv", ["coat", "corpus"])
    with pytest.raises(SystemExit) as caught:
        main()
    printed = capsys.readouterr().err
    assert caught.value.code == 1
    assert printed.startswith("coat: the disk is full: ")
    assert printed.count("\n") == 1
    for part in ("B are free at ", str(tmp_path), "; next step: free space there", "coat prune"):
        assert part in printed


def test_the_file_is_named_where_it_is_known(tmp_path: Path) -> None:
    missing = tmp_path / "data/new/x.bin"
    found = full_disk(_by_number(errno.ENOSPC, str(missing)))
    assert found is not None
    assert found.value == str(missing)
    assert found.retryable


def test_one_folder_is_named_on_each_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    found = full_disk(_by_number(errno.ENOSPC), tmp_path)
    assert str(found).count("are free at") == 1
    other = Path("/dev/shm")
    if not other.is_dir() or other.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("this host has one file system")
    monkeypatch.setattr("tempfile.tempdir", str(other))
    assert f"are free at {other};" in str(full_disk(_by_number(errno.ENOSPC), tmp_path))


@pytest.mark.parametrize(
    "error",
    [
        _by_number(errno.EACCES, "x"),
        ValueError("the size differs"),
        KeyboardInterrupt(),
        _raised(Interrupted("stopped"), _by_number(errno.ENOSPC)),
        CheckpointError("the disk is too small for the checkpoint: No space left on device"),
        StageError("2 stages failed:\n  corpus: DiskFullError: the disk is full: 1 MB of 2 MB are free; No space left on device"),
    ],
    ids=["permission", "value", "interrupt", "interrupted", "checkpoint", "stages"],
)
def test_any_other_error_and_one_that_says_it_are_kept(error: BaseException) -> None:
    assert full_disk(error) is None


def test_the_output_of_another_program(tmp_path: Path) -> None:
    assert isinstance(full_disk_in("ERROR: failed: [Errno 28] No space left on device", tmp_path), DiskFullError)
    assert full_disk_in("ERROR: failed to reproduce 'corpus'", tmp_path) is None


def test_a_failure_without_a_cause_is_a_full_disk_only_where_nothing_is_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "ERROR: failed to reproduce 'score': No possible cache link types for 'metrics.json'."
    assert full_disk_in(text, tmp_path) is None
    assert nearly_full(tmp_path) is None
    monkeypatch.setattr("coat_core.full_disk.NEARLY_FULL_BYTES", 1 << 60)
    for found in (full_disk_in(text, tmp_path), nearly_full(tmp_path / "missing")):
        assert isinstance(found, DiskFullError)
        assert "the disk is full" in str(found)
