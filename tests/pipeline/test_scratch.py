"""What `coat prune` finds in a workspace's own folders."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from coat_core.pipeline.cache_users import FOLDER, cache_folder, record_user, recorded_users
from coat_core.pipeline.scratch import leftovers, remove
from coat_core.storage import new_file, new_folder, write_text

NOW = datetime.now(UTC)


def age(path: Path, days: float) -> None:
    """Set the time of the last change of a file, or of a folder with everything in it."""
    for file in [*(path.rglob("*") if path.is_dir() else ()), path]:
        os.utime(file, (NOW.timestamp() - days * 86_400,) * 2)


def found(workspace: Path, days: int = 30) -> dict[str, str]:
    return {str(item.path.relative_to(workspace)): item.what for item in leftovers(workspace, NOW - timedelta(days=days))}


def test_scratch_of_a_stage_is_old_when_nothing_in_it_has_changed(tmp_path: Path) -> None:
    for key, days in (("aa", 31), ("bb", 31), ("cc", 29)):
        write_text(tmp_path / f".scratch/{key}/stage.txt", f"train@{key}")
        write_text(tmp_path / f".scratch/{key}/checkpoints/1/model.pt", "x" * 100)
        age(tmp_path / f".scratch/{key}", days)
    age(tmp_path / ".scratch/bb/checkpoints/1/model.pt", 1)
    assert found(tmp_path) == {".scratch/aa": "unfinished train@aa"}
    (item,) = leftovers(tmp_path, NOW - timedelta(days=30))
    assert item.size == 108
    remove(item)
    assert sorted(path.name for path in (tmp_path / ".scratch").iterdir()) == ["bb", "cc"]


def test_what_a_run_needs_is_no_leftover(tmp_path: Path) -> None:
    for name in ("run.lock", "registry.lock", "prefect/prefect.db", "bucket/objects/aa/b", "judgements/x.json", "outcomes/corpus.json"):
        write_text(tmp_path / ".scratch" / name, "x")
    write_text(tmp_path / ".scratch/logs/corpus.log", "x")
    write_text(tmp_path / "data/accepted.jsonl", "{}")
    write_text(tmp_path / "data/.gitignore", "x")
    age(tmp_path, 100)
    assert found(tmp_path) == {".scratch/logs/corpus.log": "log of corpus"}


def test_copies_that_a_kill_left_half_written_are_found(tmp_path: Path) -> None:
    """The names are those that `coat_core.storage` gives them. Here the blocks have not ended; after a kill they never do."""
    write_text(tmp_path / "params.yaml", "x")
    write_text(tmp_path / ".mine.abcdefgh", "a file of the user's")
    write_text(tmp_path / "data/.keep.me", "x")
    with (
        new_file(tmp_path / "params.yaml") as params,
        new_file(tmp_path / "data/accepted.jsonl"),
        new_folder(tmp_path / "models/trial") as folder,
    ):
        params.write(b"half")
        params.flush()
        write_text(folder / "nested/a.txt", "abc")
        with new_file(folder / "adapter.safetensors"):
            age(tmp_path, 31)
            items = leftovers(tmp_path, NOW - timedelta(days=30))
            assert [item.what for item in items] == ["unfinished copy"] * 3
            assert sorted(item.path.parent.relative_to(tmp_path).as_posix() for item in items) == [".", "data", "models"]
            assert sorted(item.size for item in items) == [0, 3, 4]


def test_decoded_audio_is_old_when_none_of_it_was_read(tmp_path: Path) -> None:
    for decoder in ("a-16000", "b-16000"):
        for name in ("1", "2"):
            write_text(tmp_path / ".scratch/waveforms" / decoder / name, "x")
    age(tmp_path, 31)
    age(tmp_path / ".scratch/waveforms/b-16000/2", 2)
    assert found(tmp_path) == {".scratch/waveforms/a-16000": "decoded audio"}


@pytest.mark.parametrize("value", [None, "../../shared", "/absolute"])
def test_the_folder_of_the_cache(tmp_path: Path, value: str | None) -> None:
    expected = {None: tmp_path / "w/.dvc/cache", "../../shared": tmp_path / "shared", "/absolute": Path("/absolute")}[value]
    assert cache_folder({"cache.dir": value} if value else {}, tmp_path / "w") == expected


def test_workspaces_are_recorded_once_and_forgotten_when_they_are_gone(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    for name in ("one", "two"):
        write_text(tmp_path / name / "dvc.yaml", "")
        record_user(cache, tmp_path / name)
        record_user(cache, tmp_path / name)
    assert sorted(recorded_users(cache)) == [tmp_path / "one", tmp_path / "two"]
    (tmp_path / "one").rename(tmp_path / "moved")
    assert recorded_users(cache) == [tmp_path / "two"]
    assert len(list((cache / FOLDER).iterdir())) == 1
