"""Sources of a checkpoint: a folder, the cache, the hub; and every error on the way."""

from __future__ import annotations

import errno
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from coat_core import hub
from coat_core.errors import CheckpointError, HubUnreachableError
from coat_core.hub import checkpoint_folder
from tests.testing.hub_server import FakeHub, serve

COMMIT = "0123456789abcdef0123456789abcdef01234567"
FIELD = "backbones.qwen2_audio.base"
INDEX = {"weight_map": {"thinker.a": "model-00001-of-00003.safetensors", "thinker.b": "model-00002-of-00003.safetensors",
                        "talker.a": "model-00003-of-00003.safetensors"}}  # fmt: skip
FILES = {
    "config.json": b'{"model_type": "x"}',
    "tokenizer.json": b"{}",
    "LICENSE": b"terms",
    "README.md": b"no",
    "spk_dict.pt": b"no",
    "model.safetensors.index.json": json.dumps(INDEX).encode(),
    **{f"model-0000{i}-of-00003.safetensors": bytes([i]) * 10 for i in (1, 2, 3)},
}


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_PROGRESS_BARS", True)
    return tmp_path / "hub"


@pytest.fixture
def remote(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    from huggingface_hub import constants

    with serve(FakeHub("owner/name", COMMIT, dict(FILES))) as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.url + "/{repo_id}/resolve/{revision}/{filename}")
        yield server


def _names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_folder_is_returned_unchanged(tmp_path: Path) -> None:
    assert checkpoint_folder(str(tmp_path), None, field=FIELD) == tmp_path


def test_the_files_for_loading_are_fetched_once(remote: FakeHub) -> None:
    folder = checkpoint_folder("owner/name", COMMIT, field=FIELD)
    assert _names(folder) == set(FILES) - {"README.md", "spk_dict.pt"}
    assert (folder / "model-00002-of-00003.safetensors").read_bytes() == FILES["model-00002-of-00003.safetensors"]
    remote.requests.clear()
    assert checkpoint_folder("owner/name", COMMIT, field=FIELD) == folder
    assert remote.requests == [], "a complete commit in the cache needs no request"


def test_only_the_shards_with_a_prefix_are_fetched(remote: FakeHub) -> None:
    folder = checkpoint_folder("owner/name", COMMIT, field=FIELD, prefix="thinker.")
    assert {name for name in _names(folder) if name.endswith(".safetensors")} == {
        "model-00001-of-00003.safetensors",
        "model-00002-of-00003.safetensors",
    }
    whole = checkpoint_folder("owner/name", COMMIT, field=FIELD)
    assert "model-00003-of-00003.safetensors" in _names(whole), "the other shards are fetched when they are needed"


def test_safetensors_are_preferred_to_the_older_format(remote: FakeHub) -> None:
    remote.files = {"config.json": b"{}", "pytorch_model.bin": b"x", "model.safetensors": b"y"}
    assert _names(checkpoint_folder("owner/name", COMMIT, field=FIELD)) == {"config.json", "model.safetensors"}


def test_the_older_format_is_fetched_when_it_is_the_only_one(remote: FakeHub) -> None:
    remote.files = {"config.json": b"{}", "pytorch_model.bin": b"x"}
    assert _names(checkpoint_folder("owner/name", COMMIT, field=FIELD)) == {"config.json", "pytorch_model.bin"}


def test_an_unreachable_hub_and_an_empty_cache(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
    with pytest.raises(HubUnreachableError, match=rf"cannot be reached.*owner/name at {COMMIT}.*hf download owner/name") as caught:
        checkpoint_folder("owner/name", COMMIT, field=FIELD)
    assert caught.value.retryable


def test_the_offline_variable_is_named(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(HubUnreachableError, match="HF_HUB_OFFLINE is set"):
        checkpoint_folder("owner/name", COMMIT, field=FIELD)


def test_an_incomplete_cache_is_an_error(remote: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    folder = checkpoint_folder("owner/name", COMMIT, field=FIELD)
    (folder / "model-00002-of-00003.safetensors").unlink()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(HubUnreachableError, match="not complete"):
        checkpoint_folder("owner/name", COMMIT, field=FIELD)


def test_a_gated_repository(remote: FakeHub) -> None:
    remote.gated = True
    with pytest.raises(CheckpointError, match=r"gated.*accept the terms on the page of owner/name.*hf auth login") as caught:
        checkpoint_folder("owner/name", COMMIT, field=FIELD)
    assert not caught.value.retryable


def test_no_such_repository(remote: FakeHub) -> None:
    with pytest.raises(CheckpointError, match="no such repository"):
        checkpoint_folder("owner/other", COMMIT, field=FIELD)


def test_no_such_revision(remote: FakeHub) -> None:
    with pytest.raises(CheckpointError, match=r"no such revision.*backbones\.qwen2_audio\.revision"):
        checkpoint_folder("owner/name", "f" * 40, field=FIELD)


@pytest.mark.parametrize(
    ("revision", "message"), [(None, "a hub id needs a commit"), ("main", "the revision may move"), (COMMIT[:7], "the revision may move")]
)
def test_a_commit_must_be_named(cache: Path, revision: str | None, message: str) -> None:
    with pytest.raises(CheckpointError, match=rf"{message}.*backbones\.qwen2_audio\.revision"):
        checkpoint_folder("owner/name", revision, field=FIELD)


@pytest.mark.parametrize("source", ["/nowhere/at/all", "./bases/x", "nowhere", "a/b/c"])
def test_a_missing_folder_is_not_requested_from_the_hub(cache: Path, source: str) -> None:
    with pytest.raises(CheckpointError, match=r"no such folder.*backbones\.qwen2_audio\.base"):
        checkpoint_folder(source, COMMIT, field=FIELD)


def test_a_full_disk_is_found_before_the_download(remote: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    remote.sizes = {name: 8 * 10**9 for name in FILES if name.endswith(".safetensors")}
    monkeypatch.setattr(hub, "free_bytes", lambda folder: 20 * 10**9)
    with pytest.raises(CheckpointError, match=r"24\.0 GB must be downloaded, 20\.0 GB are free.*HF_HOME"):
        checkpoint_folder("owner/name", COMMIT, field=FIELD)
    assert not [path for path in remote.requests if path.startswith("GET") and path.endswith(".safetensors")]


@pytest.mark.parametrize(
    ("raised", "kind", "message"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), CheckpointError, "disk is too small.*No space left"),
        (RuntimeError("Data processing error: No space left on device (os error 28)"), CheckpointError, "disk is too small.*No space left"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), CheckpointError, "disk is too small.*quota"),
        (PermissionError(errno.EACCES, "Permission denied"), CheckpointError, "cache cannot be written.*Permission denied.*HF_HOME"),
        (RuntimeError("I/O error: Permission denied (os error 13)"), CheckpointError, "cache cannot be written.*os error 13"),
        (RuntimeError("Network error: connection reset"), HubUnreachableError, "cannot be reached.*connection reset.*hf download"),
    ],
)
def test_errors_of_the_hubs_client_during_a_download(
    remote: FakeHub, monkeypatch: pytest.MonkeyPatch, raised: Exception, kind: type[CheckpointError], message: str
) -> None:
    import huggingface_hub

    def fail(*arguments: Any, **options: Any) -> Any:
        raise raised

    monkeypatch.setattr(hub._Repository, "cached", lambda self, prefix: None)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(CheckpointError, match=message) as caught:
        checkpoint_folder("owner/name", COMMIT, field=FIELD)
    assert type(caught.value) is kind


def test_a_connection_that_breaks_in_the_middle_of_a_file(remote: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda seconds: None)
    remote.broken = "model-00002-of-00003.safetensors"
    with pytest.raises(HubUnreachableError, match="cannot be reached") as caught:
        checkpoint_folder("owner/name", COMMIT, field=FIELD)
    assert caught.value.retryable
    remote.broken = None
    folder = checkpoint_folder("owner/name", COMMIT, field=FIELD)
    assert (folder / "model-00002-of-00003.safetensors").read_bytes() == FILES["model-00002-of-00003.safetensors"]


def test_a_moving_revision_moves_only_when_allowed(remote: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    answer = remote.answer
    monkeypatch.setattr(remote, "answer", lambda path: answer(path.replace("/revision/main", f"/revision/{remote.commit}")))
    first = checkpoint_folder("owner/name", "main", field=FIELD, allow_moving=True)
    assert first.name == COMMIT
    remote.commit = "f" * 40
    assert checkpoint_folder("owner/name", "main", field=FIELD, allow_moving=True).name == "f" * 40
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert checkpoint_folder("owner/name", "main", field=FIELD, allow_moving=True).name == "f" * 40
