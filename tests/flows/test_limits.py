"""Which stages may run side by side: never more than `jobs`, one at a time on the accelerator, `latency` alone, and no deadlock."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from coat_core.errors import Interrupted
from coat_core.settings import parse_settings
from flows.limits import StageLimits, accelerated_stages, startable

HANG_S = 1800.0
"""No test waits so long unless it hangs."""
STAGES = ["features@a", "features@b", "train@x", "train@y", "latency@x", "latency@y", "report"]
ON_DEVICE = {"train@x", "train@y", "latency@x", "latency@y"}


@pytest.mark.parametrize(
    ("waiting", "running", "jobs", "expected"),
    [
        (["features@a", "features@b"], [], 2, ["features@a", "features@b"]),
        (["features@a", "features@b"], [], 1, ["features@a"]),
        (["features@a", "features@b"], ["corpus"], 2, ["features@a"]),
        (["features@a"], ["corpus", "contract"], 2, []),
        (["latency@x", "report"], [], 2, ["report"]),
        (["latency@x"], ["report"], 2, []),
        (["latency@x", "latency@y"], [], 2, ["latency@x"]),
        (["report"], ["latency@x"], 2, []),
        ([], [], 2, []),
    ],
)
def test_what_may_start(waiting: list[str], running: list[str], jobs: int, expected: list[str]) -> None:
    assert startable(waiting, running, jobs=jobs) == expected


@pytest.mark.parametrize(
    ("waiting", "running", "expected"),
    [
        (["train@x", "train@y", "corpus"], [], ["train@x", "corpus"]),
        (["train@y", "corpus"], ["train@x"], ["corpus"]),
        (["train@x", "train@y", "corpus"], ["features@a"], ["train@x"]),
    ],
)
def test_the_accelerator_takes_one_stage_at_a_time(waiting: list[str], running: list[str], expected: list[str]) -> None:
    assert startable(waiting, running, jobs=2, accelerated={"train@x", "train@y"}) == expected


def _is_latency(name: str) -> bool:
    return name.startswith("latency")


def _check(running: list[str], jobs: int) -> None:
    assert len(running) <= jobs
    assert len(running) == 1 or not any(map(_is_latency, running))
    assert len(ON_DEVICE.intersection(running)) <= 1


@given(st.permutations(STAGES), st.integers(1, 4), st.data())
def test_every_stage_runs_whatever_the_order_of_events(order: list[str], jobs: int, data: st.DataObject) -> None:
    """Stages arrive and end in any order; what may start, starts."""
    to_come, waiting, running, done = list(order), list[str](), list[str](), list[str]()
    while len(done) < len(STAGES):
        started = startable(sorted(waiting, key=STAGES.index), running, jobs=jobs, accelerated=ON_DEVICE)
        assert started or running or not waiting, "deadlock"
        if any(map(_is_latency, started)):
            assert not running
            assert all(map(_is_latency, waiting)), "a measurement starts when no other stage waits"
        waiting = [name for name in waiting if name not in started]
        running += started
        _check(running, jobs)
        event = data.draw(st.sampled_from(["arrives"] * bool(to_come) + ["ends"] * bool(running)))
        if event == "arrives":
            waiting.append(to_come.pop())
        else:
            done.append(running.pop(data.draw(st.integers(0, len(running) - 1))))
    assert sorted(done) == sorted(STAGES)


@settings(max_examples=50, deadline=None)
@given(st.permutations(STAGES), st.integers(1, 4))
def test_threads_keep_the_limits_and_all_get_a_slot(order: list[str], jobs: int) -> None:
    limits = StageLimits(STAGES, jobs=jobs, accelerated=ON_DEVICE)
    lock, running, broken, done = threading.Lock(), list[str](), list[AssertionError](), list[str]()

    def run(name: str) -> None:
        with limits.slot(name):
            with lock:
                running.append(name)
                try:
                    _check(running, jobs)
                except AssertionError as error:
                    broken.append(error)
            with lock:
                running.remove(name)
                done.append(name)

    threads = [_start(run, name) for name in order]
    for thread in threads:
        thread.join(HANG_S)
    assert not broken
    assert sorted(done) == sorted(STAGES)


def test_a_measurement_waits_for_the_others_and_runs_alone() -> None:
    limits, started = StageLimits(STAGES, jobs=2), list[str]()
    leave = {name: threading.Event() for name in STAGES}
    entered = {name: threading.Event() for name in STAGES}

    def run(name: str) -> None:
        with limits.slot(name):
            started.append(name)
            entered[name].set()
            leave[name].wait(HANG_S)

    report = _start(run, "report")
    assert entered["report"].wait(HANG_S)
    latency = _start(run, "latency@x")
    first = _start(run, "features@a")
    assert entered["features@a"].wait(HANG_S), "a measurement that waits blocks no other stage"
    leave["features@a"].set()
    first.join(HANG_S)
    assert not entered["latency@x"].wait(0.2), "the report still runs"
    leave["report"].set()
    assert entered["latency@x"].wait(HANG_S)
    second = _start(run, "features@b")
    assert not entered["features@b"].wait(0.2), "nothing starts beside a measurement"
    leave["latency@x"].set()
    assert entered["features@b"].wait(HANG_S)
    leave["features@b"].set()
    for thread in (report, latency, second):
        thread.join(HANG_S)
    assert started == ["report", "features@a", "latency@x", "features@b"]


def _start(target: Callable[[str], None], name: str) -> threading.Thread:
    thread = threading.Thread(target=target, args=(name,), daemon=True)
    thread.start()
    return thread


def test_closing_interrupts_every_waiting_stage_at_once() -> None:
    limits, interrupted = StageLimits(STAGES, jobs=1), list[str]()

    def wait(name: str) -> None:
        try:
            with limits.slot(name):
                pass
        except Interrupted:
            interrupted.append(name)

    with limits.slot("features@a"):
        threads = [_start(wait, name) for name in STAGES[1:]]
        limits.close()
        for thread in threads:
            thread.join(HANG_S)
    assert sorted(interrupted) == sorted(STAGES[1:])
    with pytest.raises(Interrupted), limits.slot("features@a"):
        pass


def test_a_failed_stage_gives_its_slot_back() -> None:
    limits = StageLimits(STAGES, jobs=1)
    with pytest.raises(ValueError, match="failed"), limits.slot("train@x"):
        raise ValueError("failed")
    with limits.slot("train@y"):
        pass


def test_which_stages_compute_on_the_accelerator() -> None:
    values = yaml.safe_load((Path(__file__).parents[2] / "params.yaml").read_text())
    names = {"corpus", "contract", "features@speech", "features@pitch", "audio@x", "train@x", "answer@x", "score@x", "latency@x", "report"}
    assert accelerated_stages(names, parse_settings(values)) == set()
    values["experts"]["speech"]["device"] = "cuda"
    assert accelerated_stages(names, parse_settings(values)) == {"features@speech"}
    values["runtime"]["device"] = "cuda"
    assert accelerated_stages(names, parse_settings(values)) == {"features@speech", "audio@x", "train@x", "answer@x", "latency@x", "report"}


def test_scoring_computes_on_the_accelerator_with_a_local_judge_only() -> None:
    values = yaml.safe_load((Path(__file__).parents[2] / "params.yaml").read_text())
    chat = {"data": "x", "judge": "local", "judge_model": "models/judge"}
    values["evaluation"]["suites"] = {"air_bench_chat": chat, "alpaca_audio": {"data": "x", "judge": "stand-in"}}
    names = {f"score_suite@x-coat-0-{suite}" for suite in values["evaluation"]["suites"]}
    assert accelerated_stages(names, parse_settings(values)) == set()
    values["runtime"]["device"] = "cuda"
    assert accelerated_stages(names, parse_settings(values)) == {"score_suite@x-coat-0-air_bench_chat"}
