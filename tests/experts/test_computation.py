from __future__ import annotations

import dataclasses
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_info, threadpool_limits

from coat_core.corpus.examples import Example
from coat_core.errors import AudioError
from coat_core.experts import catalogue
from coat_core.experts.neural.base import NeuralExpert, Piece
from coat_core.experts.prefetch import PrefetchCancelledError, check_cancelled, prefetch
from coat_core.experts.store import plan
from coat_core.experts.store.extraction import extract_features
from coat_core.settings import ExpertSettings
from tests.testing import batch_marker_expert
from tests.testing.clips import file_hashes, make_clip
from tests.testing.expert_checkpoints import IMPLEMENTATIONS

NEURAL = tuple(IMPLEMENTATIONS)
HANG_S = 1800.0


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Example]]:
    corpus = tmp_path_factory.mktemp("corpus")
    return corpus, [make_clip(corpus, seed) for seed in range(16)]


@pytest.fixture(autouse=True)
def _few_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coat_core.shards.layout.PREFIX_LENGTH", 1)
    monkeypatch.setattr(plan, "GROUP_BATCHES", 3)


@pytest.mark.parametrize("name", NEURAL)
def test_the_bytes_do_not_depend_on_the_number_of_threads(
    name: str, clips: tuple[Path, list[Example]], checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    corpus, examples = clips
    settings = ExpertSettings(
        implementation=IMPLEMENTATIONS[name], checkpoint=str(checkpoints[name]), accept_licence="MIT", batch_seconds=1.5
    )
    found = []
    for threads in (1, 4):
        extract_features("expert", settings, examples, corpus, tmp_path / str(threads), threads=threads)
        found.append(file_hashes(tmp_path / str(threads)))
    assert found[0] == found[1]


def _threads_of_libraries() -> tuple[int, int, int]:
    """Return the number of threads of OpenMP, BLAS and torch; torch last, because the call may change that of OpenMP."""
    found = {api: max(pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == api) for api in ("openmp", "blas")}
    return found["openmp"], found["blas"], torch.get_num_threads()


def _extract(corpus: Path, examples: list[Example], target: Path, threads: int) -> dict[str, str]:
    settings = ExpertSettings(implementation="batch_marker", batch_seconds=1.0)
    extract_features("speech", settings, examples, corpus, target, threads=threads)
    return file_hashes(target)


def test_on_a_cpu_each_thread_computes_a_batch(clips: tuple[Path, list[Example]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(catalogue.NEURAL, "batch_marker", batch_marker_expert.__name__)
    whole = _extract(*clips, tmp_path / "one", 1)
    call, lock, together = batch_marker_expert.BatchMarkerExpert.__call__, threading.Lock(), threading.Barrier(3)
    inside: list[int] = []
    own_threads: list[tuple[int, int, int]] = []

    def counting(self: Any, *arrays: np.ndarray) -> Any:
        with lock:
            inside.append(1 + (inside[-1] if inside else 0))
            own_threads.append(_threads_of_libraries())
            first = len(own_threads) <= 3
        if first:
            together.wait(HANG_S)  # passes only if three calls run at once
        try:
            return call(self, *arrays)
        finally:
            with lock:
                inside.append(inside[-1] - 1)

    monkeypatch.setattr(batch_marker_expert.BatchMarkerExpert, "__call__", counting)
    torch.set_num_threads(2)
    try:
        with threadpool_limits(2, user_api="blas"):
            assert _extract(*clips, tmp_path / "three", 3) == whole
        assert torch.get_num_threads() == 2
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(torch.get_num_threads).result() == 2, "of a thread that starts later"
    finally:
        torch.set_num_threads(1)
    assert max(inside) == 3
    assert set(own_threads) == {(1, 1, 1)}


def test_an_error_in_one_thread_is_raised_and_ends_the_others(
    clips: tuple[Path, list[Example]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus, examples = clips
    monkeypatch.setitem(catalogue.NEURAL, "batch_marker", batch_marker_expert.__name__)
    whole = _extract(corpus, examples, tmp_path / "whole", 3)
    path = corpus / examples[9].audio
    kept = path.read_bytes()
    path.write_bytes(kept[: len(kept) // 2])
    try:
        with pytest.raises(AudioError, match=r"9\.flac"):
            _extract(corpus, examples, tmp_path / "store", 3)
    finally:
        path.write_bytes(kept)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("prefetch")]
    assert not (tmp_path / "store/index.json").exists()
    assert _extract(corpus, examples, tmp_path / "store", 3) == whole


def test_ctrl_c_waits_for_the_current_batches_only(tiny_expert: Callable[[str], NeuralExpert]) -> None:
    rows, lengths = np.zeros((40, 3200), dtype=np.float32), np.full(40, 3200)
    expert = tiny_expert("hubert")
    forwards: list[int] = []
    lock = threading.Lock()

    class Slow:
        hop, prepare, samples = expert.encoder.hop, expert.encoder.prepare, expert.encoder.samples

        def encode(self, pieces: Sequence[Piece]) -> list[torch.Tensor]:
            with lock:
                forwards.append(len(pieces))
                number = len(forwards)
            if number == 3:
                os.kill(os.getpid(), signal.SIGINT)
            if number >= 3:
                with suppress(PrefetchCancelledError):
                    while True:
                        check_cancelled()
                        time.sleep(0.01)
            return expert.encoder.encode(pieces)

    slow = dataclasses.replace(expert, encoder=Slow(), batch_seconds=0.1)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt), closing(prefetch(lambda item: slow(rows, lengths), range(4), threads=2)) as results:
            next(results)
    finally:
        signal.signal(signal.SIGINT, before)
    assert 3 <= len(forwards) <= 4, "of 40 in each of two threads"
