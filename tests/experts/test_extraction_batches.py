from __future__ import annotations

import itertools
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
from coat_core.experts.store import batching, shard_job, waveforms
from coat_core.experts.store import extraction as extract
from coat_core.experts.store.batching import Plan, batches
from coat_core.experts.store.extraction import extract_features
from coat_core.experts.store.shard import shard_name
from coat_core.experts.store.store import ExpertStore
from coat_core.settings import ExpertSettings
from tests.testing import company_expert
from tests.testing.clips import file_hashes, make_clip

SECONDS = 2.0


class Killed(BaseException):
    pass


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Example]]:
    corpus = tmp_path_factory.mktemp("corpus")
    return corpus, [make_clip(corpus, seed) for seed in range(24)]


@pytest.fixture(autouse=True)
def company(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """Make the expert known, with few shards and small groups; return what it hears."""
    monkeypatch.setitem(catalogue.NEURAL, "company", "company_expert")
    monkeypatch.setattr("coat_core.experts.store.shard.PREFIX_LENGTH", 1)
    monkeypatch.setattr(batching, "GROUP_BATCHES", 2)
    company_expert.HEARD.clear()
    return company_expert.HEARD


def _run(corpus: Path, examples: list[Example], target: Path, seconds: float = SECONDS, **settings: Any) -> Path:
    extract_features("speech", ExpertSettings(implementation="company", batch_seconds=seconds, **settings), examples, corpus, target)
    return target


def _dying(monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    """Die in the middle of write number `at`."""
    real, writes = shard_job.write_bytes, 0

    def write(path: Path, data: bytes) -> None:
        nonlocal writes
        writes += 1
        if writes == at:
            path.with_name(f".{path.name}.abc123").write_bytes(data[: len(data) // 2])
            raise Killed
        real(path, data)

    for module in (shard_job, extract):
        monkeypatch.setattr(module, "write_bytes", write)


def _ahead() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("work-ahead")]


def test_batches_hold_clips_of_like_length_and_not_too_many_seconds() -> None:
    rng = np.random.default_rng(0)
    durations = {f"{n:04x}": float(seconds) for n, seconds in enumerate(rng.uniform(0.5, 12.0, 200))} | {"long": 70.0}
    found = batches(durations, 30.0)
    assert sorted(sha256 for batch in found for sha256 in batch) == sorted(durations)
    assert all(len(batch) * max(durations[s] for s in batch) <= 30.0 for batch in found if batch != ("long",))
    assert ("long",) in found
    padded = sum(len(batch) * max(durations[s] for s in batch) for batch in found)
    assert padded < 1.1 * sum(durations.values())
    # A few batches are full: the limit is used.
    assert len(found) < 1.25 * sum(durations.values()) / 30.0
    assert batches(dict(reversed(durations.items())), 30.0) == found


def test_no_shard_lies_in_two_groups() -> None:
    rng = np.random.default_rng(1)
    durations = {f"{rng.integers(256):02x}{n:04x}": 3.0 for n in range(400)}
    groups = Plan(durations, 30.0).groups()
    shards = [{shard_name(sha256) for batch in group for sha256 in batch} for group in groups]
    assert len(groups) > 5
    assert sum(map(len, shards)) == len(set().union(*shards))
    assert sorted(sha256 for group in groups for batch in group for sha256 in batch) == sorted(durations)
    assert all(max(part) < min(following) for part, following in itertools.pairwise(shards))
    assert sum(len(group) > 1 for group in groups) >= len(groups) - 1


def test_clips_are_heard_together_and_kept_apart(clips: tuple[Path, list[Example]], tmp_path: Path, company: list[list[int]]) -> None:
    corpus, examples = clips
    store = ExpertStore.open(_run(corpus, examples, tmp_path / "store"))
    assert len(company) <= len(examples) / 2
    assert sorted(length for batch in company for length in batch) == sorted(4000 + 531 * seed for seed in range(24))
    assert all(len(batch) * max(batch) <= SECONDS * 16000 for batch in company if len(batch) > 1)
    for example in examples:
        features, mask = store.get(example.sha256)
        # What the expert returned beyond a clip's own frames, NaN here, is not kept.
        assert len(features) == -(-round(example.duration_s * 16000) // company_expert.HOP)
        assert mask.all()
        assert 0.06 < features[0, 0] < 0.1
    assert not (tmp_path / "store" / "plan.json").exists()


def test_killed_at_any_write_and_resumed_gives_the_same_bytes(
    clips: tuple[Path, list[Example]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, company: list[list[int]]
) -> None:
    corpus, examples = clips
    whole = file_hashes(_run(corpus, examples, tmp_path / "whole"))
    calls = len(company)
    shards = sum(name.startswith("shard-") for name in whole)
    again = []
    for at in range(1, len(whole) + 1):
        with monkeypatch.context() as patch:
            _dying(patch, at)
            with pytest.raises(Killed):
                _run(corpus, examples, tmp_path / str(at))
        assert not _ahead()
        with pytest.raises(ExpertError, match="missing or unfinished"):
            ExpertStore.open(tmp_path / str(at))
        company.clear()
        assert file_hashes(_run(corpus, examples, tmp_path / str(at))) == whole, at
        again.append(len(company))
    # The later the kill, the less is heard again; once all shards stand, nothing is.
    assert again == sorted(again, reverse=True)
    assert again[0] == calls
    assert again[shards // 2] < 0.75 * calls
    assert again[shards:] == [0] * (len(whole) - shards)


def test_killed_twice(clips: tuple[Path, list[Example]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus, examples = clips
    whole = file_hashes(_run(corpus, examples, tmp_path / "whole"))
    for at in (3, 2, 4):
        with monkeypatch.context() as patch:
            _dying(patch, at)
            with pytest.raises(Killed):
                _run(corpus, examples, tmp_path / "store")
    assert file_hashes(_run(corpus, examples, tmp_path / "store")) == whole


def test_one_new_clip_costs_one_clip(clips: tuple[Path, list[Example]], tmp_path: Path, company: list[list[int]]) -> None:
    corpus, examples = clips
    store = _run(corpus, examples[:-1], tmp_path / "store")
    before = {path.name: path.stat().st_ino for path in store.iterdir()}
    company.clear()
    _run(corpus, examples, store)
    assert company == [[4000 + 531 * 23]]
    changed = {path.name for path in store.iterdir() if before.get(path.name) != path.stat().st_ino}
    assert {name for name in changed if name.startswith("shard-")} == {shard_name(examples[-1].sha256)}
    company.clear()
    _run(corpus, examples[:20], store)
    assert company == []
    assert set(ExpertStore.open(store)) == {example.sha256 for example in examples[:20]}


def test_new_clips_after_a_kill_are_heard_as_without_it(
    clips: tuple[Path, list[Example]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus, examples = clips
    first = _run(corpus, examples[:12], tmp_path / "first")
    undisturbed = file_hashes(_run(corpus, examples, shutil.copytree(first, tmp_path / "undisturbed")))
    assert undisturbed != file_hashes(_run(corpus, examples, tmp_path / "afresh"))
    for at in range(1, 12, 2):
        store = shutil.copytree(first, tmp_path / f"killed-{at}")
        with monkeypatch.context() as patch:
            _dying(patch, at)
            with pytest.raises(Killed):
                _run(corpus, examples, store)
        assert file_hashes(_run(corpus, examples, store)) == undisturbed, at


def test_a_plan_of_other_work_or_a_broken_one_does_not_count(
    clips: tuple[Path, list[Example]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus, examples = clips
    for n, (plan, seconds) in enumerate(((b"{", SECONDS), (b"[]", SECONDS), (None, 3.0))):
        with monkeypatch.context() as patch:
            _dying(patch, 1)
            with pytest.raises(Killed):
                _run(corpus, examples, tmp_path / str(n))
        if plan is not None:
            (tmp_path / str(n) / "plan.json").write_bytes(plan)
        expected = _run(corpus, examples, tmp_path / f"whole-{n}", seconds)
        assert file_hashes(_run(corpus, examples, tmp_path / str(n), seconds)) == file_hashes(expected)


def test_what_cannot_be_read_is_named_and_nothing_hangs(clips: tuple[Path, list[Example]], tmp_path: Path) -> None:
    source, examples = clips
    corpus = shutil.copytree(source, tmp_path / "corpus")
    whole = file_hashes(_run(source, examples, tmp_path / "whole"))
    bad = corpus / examples[11].audio
    kept = bad.read_bytes()
    for spoil, error, said in (
        (lambda: bad.write_bytes(kept[: len(kept) // 2]), AudioError, "11.flac"),
        (lambda: bad.unlink(), AudioError, "11.flac"),
        (lambda: shutil.copy(corpus / examples[3].audio, bad), ExpertError, "11.flac.*not the one that the manifest names"),
    ):
        spoil()
        began = time.monotonic()
        with pytest.raises(error, match=said):
            _run(corpus, examples, tmp_path / "store")
        assert time.monotonic() - began < 10
        assert not _ahead()
        assert not (tmp_path / "store" / "index.json").exists()
        assert not (tmp_path / "store" / shard_name(examples[11].sha256)).exists()
        assert not [path for path in (tmp_path / "store").iterdir() if path.name.startswith(".")]
        bad.write_bytes(kept)
    assert file_hashes(_run(corpus, examples, tmp_path / "store")) == whole


def _in_call(monkeypatch: pytest.MonkeyPatch, act: Callable[[int], None]) -> None:
    """Let `act(n)` happen in the expert's call number n (1 = first)."""
    call = company_expert.CompanyExpert.__call__

    def acting(self: company_expert.CompanyExpert, *arrays: np.ndarray) -> Any:
        self.calls += 1
        act(self.calls)
        return call(self, *arrays)

    monkeypatch.setattr(company_expert.CompanyExpert, "__call__", acting)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_ctrl_c_ends_the_threads_and_the_next_run_goes_on(
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
    assert not _ahead()
    whole = file_hashes(_run(corpus, examples, tmp_path / "whole", device=device))
    assert file_hashes(_run(corpus, examples, tmp_path / "store", device=device)) == whole


def test_on_an_accelerator_the_next_batch_is_read_while_one_is_heard_but_not_all_of_them(
    clips: tuple[Path, list[Example]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus, examples = clips
    _run(corpus, examples, tmp_path / "first", seconds=1.5)
    sizes = np.cumsum([len(batch) for batch in company_expert.HEARD])
    assert len(sizes) > 6
    hearing, reading = threading.Event(), threading.Event()
    read: list[str] = []
    late: list[str] = []
    at_call: list[int] = []
    decode = waveforms.decode

    def decoding(path: Path, **more: Any) -> np.ndarray:
        # Nothing of the second batch is read before the first is being heard...
        if len(read) == sizes[0] and not hearing.wait(5):
            late.append("the call did not begin before the second batch was read")
        read.append(path.name)
        if len(read) == sizes[1]:
            reading.set()
        return decode(path, **more)

    def look(call: int) -> None:
        # ... and the first is not done before the second has been read.
        hearing.set()
        if call == 1 and not reading.wait(5):
            late.append("the second batch was not read during the first call")
        time.sleep(0.1)
        at_call.append(len(read))

    monkeypatch.setattr(waveforms, "decode", decoding)
    _in_call(monkeypatch, look)
    _run(corpus, examples, tmp_path / "store", seconds=1.5, device="cuda")
    assert late == []
    assert len(at_call) == len(sizes)
    # Beside the batch that is heard, two are waiting, and the next is not begun.
    assert at_call[0] <= sizes[3]


def test_a_full_device_says_which_lever_to_pull(clips: tuple[Path, list[Example]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    def full(call: int) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    _in_call(monkeypatch, full)
    with pytest.raises(OutOfMemoryError, match=r"clips padded to.*2\.00 GiB.*experts\.speech\.batch_seconds.*halve.*dtype: bfloat16"):
        _run(clips[0], clips[1], tmp_path / "store", device="cuda")


def test_a_full_host_says_which_lever_to_pull(clips: tuple[Path, list[Example]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    _in_call(monkeypatch, lambda call: torch.empty(1 << 50))
    with pytest.raises(OutOfMemoryError, match=r"clips padded to.*can't allocate.*experts\.speech\.batch_seconds.*halve.*runtime\.threads"):
        _run(clips[0], clips[1], tmp_path / "store")


def test_wrong_shapes_and_what_is_not_finite_are_refused(
    clips: tuple[Path, list[Example]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus, examples = clips
    call = company_expert.CompanyExpert.__call__

    def poisoned(self: Any, padded: np.ndarray, lengths: np.ndarray) -> Any:
        features, mask = call(self, padded, lengths)
        features[lengths == 4000 + 531 * 5, 2, 1] = np.inf
        return features, mask

    with monkeypatch.context() as patch:
        patch.setattr(company_expert.CompanyExpert, "__call__", poisoned)
        with pytest.raises(ExpertError, match=r"5\.flac.*frame 2 \(0\.10 s\), dimension 1 \(company\)"):
            _run(corpus, examples, tmp_path / "store")
    with monkeypatch.context() as patch:
        patch.setattr(company_expert.CompanyExpert, "__call__", lambda self, padded, lengths: call(self, padded[:1], lengths[:1]))
        with pytest.raises(ExpertError, match="wrong shape"):
            _run(corpus, examples, tmp_path / "store")


def test_the_section_of_params_reaches_the_expert_and_its_weights_count(
    clips: tuple[Path, list[Example]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, company: list[list[int]]
) -> None:
    corpus, examples = clips
    weights = tmp_path / "weights"
    weights.mkdir()
    (weights / "model.safetensors").write_bytes(b"1")
    built: list[ExpertSettings] = []
    build = company_expert.build
    monkeypatch.setattr(company_expert, "build", lambda settings: built.append(settings) or build(settings))
    store = _run(corpus, examples, tmp_path / "store", checkpoint=str(weights), layers=(2, 3))
    assert (built[0].checkpoint, built[0].layers, built[0].batch_seconds) == (str(weights), (2, 3), SECONDS)
    once = len(company)
    _run(corpus, examples, store, checkpoint=str(weights), layers=(2, 3))
    assert len(company) == once
    # The same weights in another place are the same expert; other weights in the same place are not.
    moved = shutil.copytree(weights, tmp_path / "moved")
    _run(corpus, examples, store, checkpoint=str(moved), layers=(2, 3))
    assert len(company) == once
    (moved / "model.safetensors").write_bytes(b"2")
    _run(corpus, examples, store, checkpoint=str(moved), layers=(2, 3))
    assert len(company) == 2 * once
    _run(corpus, examples, store, checkpoint="owner/name", revision="a" * 40)
    _run(corpus, examples, store, checkpoint="owner/name", revision="b" * 40)
    assert len(company) == 4 * once
