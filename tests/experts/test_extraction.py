from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coat_core.corpus.examples import Example
from coat_core.errors import AudioError, ExpertError, OutOfMemoryError
from coat_core.experts import catalogue
from coat_core.experts.store import plan, waveforms
from coat_core.experts.store.extraction import extract_features
from coat_core.experts.store.store import ExpertStore
from coat_core.settings import ExpertSettings
from coat_core.shards.layout import shard_name
from tests.testing import batch_marker_expert
from tests.testing.clips import file_hashes, make_clip
from tests.testing.kills import Killed, killed_at

SECONDS = 2.0
HANG_S = 1800.0


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Example]]:
    corpus = tmp_path_factory.mktemp("corpus")
    return corpus, [make_clip(corpus, seed) for seed in range(24)]


@pytest.fixture(autouse=True)
def calls(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """Register the expert, with few shards and small groups; return the lengths of the clips of each call."""
    monkeypatch.setitem(catalogue.NEURAL, "batch_marker", batch_marker_expert.__name__)
    monkeypatch.setattr("coat_core.shards.layout.PREFIX_LENGTH", 1)
    monkeypatch.setattr(plan, "GROUP_BATCHES", 2)
    batch_marker_expert.CALLS.clear()
    return batch_marker_expert.CALLS


def _run(corpus: Path, examples: list[Example], target: Path, seconds: float = SECONDS, **settings: Any) -> Path:
    extract_features("speech", ExpertSettings(implementation="batch_marker", batch_seconds=seconds, **settings), examples, corpus, target)
    return target


def _threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("prefetch")]


def test_clips_share_batches_and_are_stored_separately(clips: tuple[Path, list[Example]], tmp_path: Path, calls: list[list[int]]) -> None:
    corpus, examples = clips
    store = ExpertStore.open(_run(corpus, examples, tmp_path / "store"))
    assert len(calls) <= len(examples) / 2
    assert sorted(length for batch in calls for length in batch) == sorted(4000 + 531 * seed for seed in range(24))
    assert all(len(batch) * max(batch) <= SECONDS * 16000 for batch in calls if len(batch) > 1)
    for example in examples:
        features, mask = store.get(example.sha256)
        # The frames after a clip's own ones, NaN here, are not stored.
        assert len(features) == -(-round(example.duration_s * 16000) // batch_marker_expert.HOP)
        assert mask.all()
        assert 0.06 < features[0, 0] < 0.1
    assert not (tmp_path / "store" / "plan.json").exists()


def test_killed_at_any_write_and_resumed_gives_the_same_bytes(
    clips: tuple[Path, list[Example]], tmp_path: Path, calls: list[list[int]]
) -> None:
    corpus, examples = clips
    whole = file_hashes(_run(corpus, examples, tmp_path / "whole"))
    first_calls = len(calls)
    shard_count = sum(name.startswith("shard-") for name in whole)
    again = []
    for at in range(1, len(whole) + 1):
        with pytest.raises(Killed), killed_at(at):
            _run(corpus, examples, tmp_path / str(at))
        assert not _threads()
        with pytest.raises(ExpertError, match="missing or unfinished"):
            ExpertStore.open(tmp_path / str(at))
        calls.clear()
        assert file_hashes(_run(corpus, examples, tmp_path / str(at))) == whole, at
        again.append(len(calls))
    # The later the kill, the fewer batches are computed again; none once all shards are written.
    assert again == sorted(again, reverse=True)
    assert again[0] == first_calls
    assert again[shard_count // 2] < 0.75 * first_calls
    assert again[shard_count:] == [0] * (len(whole) - shard_count)


def test_killed_twice(clips: tuple[Path, list[Example]], tmp_path: Path) -> None:
    corpus, examples = clips
    whole = file_hashes(_run(corpus, examples, tmp_path / "whole"))
    for at in (3, 2, 4):
        with pytest.raises(Killed), killed_at(at):
            _run(corpus, examples, tmp_path / "store")
    assert file_hashes(_run(corpus, examples, tmp_path / "store")) == whole


def test_one_new_clip_costs_one_clip(clips: tuple[Path, list[Example]], tmp_path: Path, calls: list[list[int]]) -> None:
    corpus, examples = clips
    store = _run(corpus, examples[:-1], tmp_path / "store")
    before = {path.name: path.stat().st_ino for path in store.iterdir()}
    calls.clear()
    _run(corpus, examples, store)
    assert calls == [[4000 + 531 * 23]]
    changed = {path.name for path in store.iterdir() if before.get(path.name) != path.stat().st_ino}
    assert {name for name in changed if name.startswith("shard-")} == {shard_name(examples[-1].sha256[:1])}
    calls.clear()
    _run(corpus, examples[:20], store)
    assert calls == []
    assert set(ExpertStore.open(store)) == {example.sha256 for example in examples[:20]}


def test_new_clips_after_a_kill_are_computed_as_without_it(clips: tuple[Path, list[Example]], tmp_path: Path) -> None:
    corpus, examples = clips
    first = _run(corpus, examples[:12], tmp_path / "first")
    undisturbed = file_hashes(_run(corpus, examples, shutil.copytree(first, tmp_path / "undisturbed")))
    assert undisturbed != file_hashes(_run(corpus, examples, tmp_path / "new"))
    for at in range(1, 12, 2):
        store = shutil.copytree(first, tmp_path / f"killed-{at}")
        with pytest.raises(Killed), killed_at(at):
            _run(corpus, examples, store)
        assert file_hashes(_run(corpus, examples, store)) == undisturbed, at


def test_a_plan_of_another_extraction_or_an_invalid_one_is_ignored(clips: tuple[Path, list[Example]], tmp_path: Path) -> None:
    corpus, examples = clips
    for n, (content, seconds) in enumerate(((b"{", SECONDS), (b"[]", SECONDS), (None, 3.0))):
        with pytest.raises(Killed), killed_at(1):
            _run(corpus, examples, tmp_path / str(n))
        if content is not None:
            (tmp_path / str(n) / "plan.json").write_bytes(content)
        expected = _run(corpus, examples, tmp_path / f"whole-{n}", seconds)
        assert file_hashes(_run(corpus, examples, tmp_path / str(n), seconds)) == file_hashes(expected)


def test_an_unreadable_file_is_named_and_nothing_hangs(clips: tuple[Path, list[Example]], tmp_path: Path) -> None:
    source, examples = clips
    corpus = shutil.copytree(source, tmp_path / "corpus")
    whole = file_hashes(_run(source, examples, tmp_path / "whole"))
    bad = corpus / examples[11].audio
    kept = bad.read_bytes()
    for damage, error, message in (
        (lambda: bad.write_bytes(kept[: len(kept) // 2]), AudioError, "11.flac"),
        (lambda: bad.unlink(), AudioError, "11.flac"),
        (lambda: shutil.copy(corpus / examples[3].audio, bad), ExpertError, "11.flac.*SHA-256 of the audio differs from the manifest"),
    ):
        damage()
        with pytest.raises(error, match=message):
            _run(corpus, examples, tmp_path / "store")
        assert not _threads()
        assert not (tmp_path / "store" / "index.json").exists()
        assert not (tmp_path / "store" / shard_name(examples[11].sha256[:1])).exists()
        assert not [path for path in (tmp_path / "store").iterdir() if path.name.startswith(".")]
        bad.write_bytes(kept)
    assert file_hashes(_run(corpus, examples, tmp_path / "store")) == whole


def _in_call(monkeypatch: pytest.MonkeyPatch, act: Callable[[int], None]) -> None:
    """Call `act(n)` in the expert's call number n (1 = first)."""
    call = batch_marker_expert.BatchMarkerExpert.__call__

    def acting(self: batch_marker_expert.BatchMarkerExpert, *arrays: np.ndarray) -> Any:
        self.calls += 1
        act(self.calls)
        return call(self, *arrays)

    monkeypatch.setattr(batch_marker_expert.BatchMarkerExpert, "__call__", acting)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_ctrl_c_ends_the_threads_and_the_next_run_resumes(
    device: str, clips: tuple[Path, list[Example]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus, examples = clips

    def interrupt(call: int) -> None:
        if call == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        _in_call(patch, interrupt)
        with pytest.raises(KeyboardInterrupt):
            _run(corpus, examples, tmp_path / "store", device=device)
    assert not _threads()
    whole = file_hashes(_run(corpus, examples, tmp_path / "whole", device=device))
    assert file_hashes(_run(corpus, examples, tmp_path / "store", device=device)) == whole


def test_on_an_accelerator_a_limited_number_of_batches_is_read_during_a_call(
    clips: tuple[Path, list[Example]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus, examples = clips
    _run(corpus, examples, tmp_path / "first", seconds=1.5)
    sizes = np.cumsum([len(batch) for batch in batch_marker_expert.CALLS])
    assert len(sizes) > 6
    computing, was_read = threading.Event(), threading.Event()
    read: list[str] = []
    late: list[str] = []
    at_call: list[int] = []
    decode = waveforms.decode

    def decoding(path: Path, **more: Any) -> np.ndarray:
        # The second batch is not read before the first call starts...
        if len(read) == sizes[0] and not computing.wait(HANG_S):
            late.append("the call did not begin before the second batch was read")
        read.append(path.name)
        if len(read) == sizes[1]:
            was_read.set()
        return decode(path, **more)

    def look(call: int) -> None:
        # ... and the first call waits until the second batch is read.
        computing.set()
        if call == 1 and not was_read.wait(HANG_S):
            late.append("the second batch was not read during the first call")
        time.sleep(0.1)
        at_call.append(len(read))

    monkeypatch.setattr(waveforms, "decode", decoding)
    _in_call(monkeypatch, look)
    _run(corpus, examples, tmp_path / "store", seconds=1.5, device="cuda")
    assert late == []
    assert len(at_call) == len(sizes)
    # During the first call two batches are waiting, and the next is not begun.
    assert at_call[0] <= sizes[3]


def test_an_out_of_memory_error_of_the_device_names_the_settings_to_change(
    clips: tuple[Path, list[Example]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    def full(call: int) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    _in_call(monkeypatch, full)
    with pytest.raises(OutOfMemoryError, match=r"clips padded to.*2\.00 GiB.*experts\.speech\.batch_seconds.*halve.*dtype: bfloat16"):
        _run(clips[0], clips[1], tmp_path / "store", device="cuda")


def test_an_out_of_memory_error_of_the_host_names_the_settings_to_change(
    clips: tuple[Path, list[Example]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    _in_call(monkeypatch, lambda call: torch.empty(1 << 50))
    with pytest.raises(OutOfMemoryError, match=r"clips padded to.*can't allocate.*experts\.speech\.batch_seconds.*halve.*runtime\.threads"):
        _run(clips[0], clips[1], tmp_path / "store")


def test_wrong_shapes_and_values_that_are_not_finite_are_refused(
    clips: tuple[Path, list[Example]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus, examples = clips
    call = batch_marker_expert.BatchMarkerExpert.__call__

    def poisoned(self: Any, padded: np.ndarray, lengths: np.ndarray) -> Any:
        features, mask = call(self, padded, lengths)
        features[lengths == 4000 + 531 * 5, 2, 1] = np.inf
        return features, mask

    with monkeypatch.context() as patch:
        patch.setattr(batch_marker_expert.BatchMarkerExpert, "__call__", poisoned)
        with pytest.raises(ExpertError, match=r"5\.flac.*frame 2 \(0\.10 s\), dimension 1 \(marker\)"):
            _run(corpus, examples, tmp_path / "store")
    with monkeypatch.context() as patch:
        patch.setattr(batch_marker_expert.BatchMarkerExpert, "__call__", lambda self, padded, lengths: call(self, padded[:1], lengths[:1]))
        with pytest.raises(ExpertError, match="wrong shape"):
            _run(corpus, examples, tmp_path / "store")


def test_the_expert_gets_its_section_of_params_and_the_fingerprint_includes_its_weights(
    clips: tuple[Path, list[Example]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, calls: list[list[int]]
) -> None:
    corpus, examples = clips
    weights = tmp_path / "weights"
    weights.mkdir()
    (weights / "model.safetensors").write_bytes(b"1")
    built: list[ExpertSettings] = []
    build = batch_marker_expert.build
    monkeypatch.setattr(batch_marker_expert, "build", lambda settings: built.append(settings) or build(settings))
    store = _run(corpus, examples, tmp_path / "store", checkpoint=str(weights), layers=(2, 3))
    assert (built[0].checkpoint, built[0].layers, built[0].batch_seconds) == (str(weights), (2, 3), SECONDS)
    once = len(calls)
    _run(corpus, examples, store, checkpoint=str(weights), layers=(2, 3))
    assert len(calls) == once
    # The same weights in another folder are the same expert; other weights in the same folder are not.
    moved = shutil.copytree(weights, tmp_path / "moved")
    _run(corpus, examples, store, checkpoint=str(moved), layers=(2, 3))
    assert len(calls) == once
    (moved / "model.safetensors").write_bytes(b"2")
    _run(corpus, examples, store, checkpoint=str(moved), layers=(2, 3))
    assert len(calls) == 2 * once
    _run(corpus, examples, store, checkpoint="owner/name", revision="a" * 40)
    _run(corpus, examples, store, checkpoint="owner/name", revision="b" * 40)
    assert len(calls) == 4 * once
