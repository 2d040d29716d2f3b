"""Atomic writes, hashes and JSON Lines."""

from __future__ import annotations

from pathlib import Path

import pytest

from coat_core.errors import CoatError
from coat_core.storage import copy_tree, new_folder, read_jsonl, sha256_json, sha256_tree, write_bytes, write_json, write_jsonl


def test_a_failed_folder_keeps_the_old_one(tmp_path: Path) -> None:
    with new_folder(tmp_path / "a") as folder:
        (folder / "x").write_text("old")

    def fail() -> None:
        with new_folder(tmp_path / "a") as folder:
            (folder / "x").write_text("new")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert (tmp_path / "a/x").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_new_folder_replaces_the_old_one_completely(tmp_path: Path) -> None:
    for name in ("x", "y"):
        with new_folder(tmp_path / "a") as folder:
            (folder / name).write_text(name)
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["y"]


def test_a_failed_write_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(TypeError):
        write_bytes(tmp_path / "x", "text")  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_nan_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Out of range"):
        write_json(tmp_path / "x.json", {"a": float("nan")})
    assert not (tmp_path / "x.json").exists()


def test_jsonl_names_the_bad_line(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", [{"a": 1}, {"b": "é\u2028x\x85"}])
    assert read_jsonl(tmp_path / "a.jsonl") == [{"a": 1}, {"b": "é\u2028x\x85"}]
    (tmp_path / "a.jsonl").write_text('{"a": 1}\nnot json\n')
    with pytest.raises(CoatError, match="line 2"):
        read_jsonl(tmp_path / "a.jsonl")


def test_the_hash_of_a_tree_covers_names_and_bytes_but_no_caches(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a/x.py").write_text("1")
    first = sha256_tree(tmp_path / "a")
    (tmp_path / "a/__pycache__").mkdir()
    (tmp_path / "a/__pycache__/x.pyc").write_text("1")
    assert sha256_tree(tmp_path / "a") == first
    copy_tree(tmp_path / "a", tmp_path / "b")
    assert sha256_tree(tmp_path / "a/x.py") == sha256_tree(tmp_path / "b/x.py")
    (tmp_path / "a/x.py").rename(tmp_path / "a/y.py")
    assert sha256_tree(tmp_path / "a") != first


def test_json_hash_is_canonical() -> None:
    assert sha256_json({"a": 1, "b": [1, 2]}) == sha256_json({"b": [1, 2], "a": 1})
    assert sha256_json({"a": 1}) != sha256_json({"a": 1.5})
