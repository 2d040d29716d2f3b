from __future__ import annotations

import dataclasses
import os
import signal
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
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
from coat_core.experts.neural.clip_norm import ClipNorm
from coat_core.experts.neural.suppress_warning import Quiet
from coat_core.experts.prefetch import work_ahead
from coat_core.experts.store import batching
from coat_core.experts.store.extraction import extract_features
from coat_core.settings import ExpertSettings
from tests.testing import company_expert
from tests.testing.clips import file_hashes, make_clip
from tests.testing.expert_checkpoints import IMPLEMENTATIONS

NEURAL = tuple(IMPLEMENTATIONS)


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Example]]:
    corpus = tmp_path_factory.mktemp("corpus")
    return corpus, [make_clip(corpus, seed) for seed in range(16)]


@pytest.fixture(autouse=True)
def _few_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coat_core.experts.store.shard.PREFIX_LENGTH", 1)
    monkeypatch.setattr(batching, "GROUP_BATCHES", 3)


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
    """Return the threads of OpenMP, BLAS and torch, torch last: asking it may change the first."""
    found = {api: max(pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == api) for api in ("openmp", "blas")}
    return found["openmp"], found["blas"], torch.get_num_threads()


def _company(corpus: Path, examples: list[Example], target: Path, threads: int) -> dict[str, str]:
    settings = ExpertSettings(implementation="company", batch_seconds=1.0)
    extract_features("speech", settings, examples, corpus, target, threads=threads)
    return file_hashes(target)


def test_on_a_processor_as_many_batches_are_heard_at_once_as_there_are_threads(
    clips: tuple[Path, list[Example]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(catalogue.NEURAL, "company", "company_expert")
    whole = _company(*clips, tmp_path / "one", 1)
    call, lock, together = company_expert.CompanyExpert.__call__, threading.Lock(), threading.Barrier(3)
    inside: list[int] = []
    own_threads: list[tuple[int, int, int]] = []

    def counting(self: Any, *arrays: np.ndarray) -> Any:
        with lock:
            inside.append(1 + (inside[-1] if inside else 0))
            own_threads.append(_threads_of_libraries())
            first = len(own_threads) <= 3
        if first:
            together.wait(10)  # broken, and the run with it, unless three are here at once
        try:
            return call(self, *arrays)
        finally:
            with lock:
                inside.append(inside[-1] - 1)

    monkeypatch.setattr(company_expert.CompanyExpert, "__call__", counting)
    torch.set_num_threads(2)
    try:
        with threadpool_limits(2, user_api="blas"):
            assert _company(*clips, tmp_path / "three", 3) == whole
        assert torch.get_num_threads() == 2
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(torch.get_num_threads).result() == 2, "of a thread that begins later"
    finally:
        torch.set_num_threads(1)
    assert max(inside) == 3
    assert set(own_threads) == {(1, 1, 1)}


def test_an_error_in_one_thread_is_the_error_of_the_run_and_ends_the_others(
    clips: tuple[Path, list[Example]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus, examples = clips
    monkeypatch.setitem(catalogue.NEURAL, "company", "company_expert")
    whole = _company(corpus, examples, tmp_path / "whole", 3)
    path = corpus / examples[9].audio
    kept = path.read_bytes()
    path.write_bytes(kept[: len(kept) // 2])
    try:
        with pytest.raises(AudioError, match=r"9\.flac"):
            _company(corpus, examples, tmp_path / "store", 3)
    finally:
        path.write_bytes(kept)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("work-ahead")]
    assert not (tmp_path / "store/index.json").exists()
    assert _company(corpus, examples, tmp_path / "store", 3) == whole


def test_ctrl_c_does_not_wait_for_all_that_is_being_heard(tiny_expert: Callable[[str], NeuralExpert]) -> None:
    rows, lengths = np.zeros((40, 3200), dtype=np.float32), np.full(40, 3200)
    expert = tiny_expert("hubert")
    forwards: list[int] = []

    class Slow:
        hop, prepare, samples = expert.encoder.hop, expert.encoder.prepare, expert.encoder.samples

        def encode(self, pieces: Sequence[Piece]) -> list[torch.Tensor]:
            forwards.append(len(pieces))
            if len(forwards) == 3:
                os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.25)
            return expert.encoder.encode(pieces)

    slow = dataclasses.replace(expert, encoder=Slow(), batch_seconds=0.1)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt), closing(work_ahead(lambda item: slow(rows, lengths), range(4), threads=2)) as found:
            next(found)
    finally:
        signal.signal(signal.SIGINT, before)
    assert len(forwards) <= 5, "of 40 each"


def test_two_threads_normalise_their_own_clips() -> None:
    norm, together = ClipNorm(torch.nn.GroupNorm(2, 2)), threading.Barrier(2)

    def normalise(level: float) -> torch.Tensor:
        norm.give(torch.full((1, 2), level), torch.ones(1, 2))
        together.wait(10)
        with torch.no_grad():
            return norm(torch.full((1, 2, 3), level + 1.0))

    with ThreadPoolExecutor(2) as pool:
        for found in pool.map(normalise, (0.0, 100.0)):
            torch.testing.assert_close(found, torch.ones(1, 2, 3), rtol=0, atol=1e-4)


@pytest.mark.parametrize("threads", [1, 3])
def test_work_ahead_keeps_the_order_and_is_at_most_two_items_a_thread_ahead(threads: int) -> None:
    began: list[int] = []

    def work(item: int) -> int:
        began.append(item)
        time.sleep(0.001 * (item % 3))
        return item * item

    for taken, found in enumerate(work_ahead(work, range(40), threads=threads)):
        assert found == taken * taken
        assert len(began) <= taken + 2 * threads + 1
    assert sorted(began) == list(range(40))


def test_a_warning_is_silent_while_any_thread_needs_it_silent(recwarn: pytest.WarningsRecorder) -> None:
    quiet, inside, leave = Quiet("known and harmless"), threading.Barrier(2), threading.Event()

    def hold() -> None:
        with quiet:
            inside.wait(10)
            leave.wait(10)

    def heard(message: str) -> bool:
        before = len(recwarn)
        warnings.warn(message, stacklevel=1)
        return len(recwarn) > before

    warnings.simplefilter("always")
    other = threading.Thread(target=hold)
    other.start()
    inside.wait(10)
    with quiet:
        assert not heard("known and harmless")
    assert not heard("known and harmless"), "the other thread is still inside"
    assert heard("another")
    leave.set()
    other.join()
    assert heard("known and harmless")
