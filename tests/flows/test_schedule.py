"""Which stage may start when."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from coat_core.settings import parse_settings
from flows.dvc import with_descendants
from flows.schedule import accelerated, blocked_stages, ready_stages

GRAPH = {
    "corpus": frozenset(),
    "features@a": frozenset({"corpus"}),
    "features@b": frozenset({"corpus"}),
    "train@x": frozenset({"features@a", "features@b"}),
    "latency@x": frozenset({"train@x"}),
    "evaluate@x": frozenset({"train@x"}),
    "report": frozenset({"latency@x", "evaluate@x"}),
}


@pytest.mark.parametrize(
    ("todo", "running", "failed", "jobs", "expected"),
    [
        (set(GRAPH), set(), set(), 2, ["corpus"]),
        (set(GRAPH) - {"corpus"}, set(), set(), 2, ["features@a", "features@b"]),
        (set(GRAPH) - {"corpus"}, set(), set(), 1, ["features@a"]),
        (set(GRAPH) - {"corpus", "features@a", "features@b"}, {"features@b"}, set(), 2, []),
        ({"latency@x", "evaluate@x", "report"}, set(), set(), 2, ["evaluate@x"]),
        ({"latency@x", "report"}, {"evaluate@x"}, set(), 2, []),
        ({"latency@x", "report"}, set(), set(), 2, ["latency@x"]),
        ({"evaluate@x", "report"}, {"latency@x"}, set(), 2, []),
        ({"report"}, set(), {"evaluate@x"}, 2, []),
        ({"report"}, set(), set(), 2, ["report"]),
    ],
)
def test_ready(todo: set[str], running: set[str], failed: set[str], jobs: int, expected: list[str]) -> None:
    assert ready_stages(GRAPH, todo=todo, running=running, failed=failed, jobs=jobs) == expected


@pytest.mark.parametrize(
    ("running", "expected"), [(set(), ["train@x", "corpus"]), ({"train@x"}, ["corpus"]), ({"features@a"}, ["train@x"])]
)
def test_the_accelerator_takes_one_stage_at_a_time(running: set[str], expected: list[str]) -> None:
    graph: dict[str, frozenset[str]] = {name: frozenset() for name in ("train@x", "train@y", "features@a", "corpus")}
    todo = set(graph) - running - {"features@a"}
    assert ready_stages(graph, todo=todo, running=running, failed=set(), jobs=2, accelerated={"train@x", "train@y"}) == expected


def test_which_stages_compute_on_the_accelerator() -> None:
    values = yaml.safe_load((Path(__file__).parents[2] / "params.yaml").read_text())
    names = {*GRAPH, "contract", "features@speech", "features@pitch"}
    assert accelerated(names, parse_settings(values)) == set()
    values["experts"]["speech"]["device"] = "cuda"
    assert accelerated(names, parse_settings(values)) == {"features@speech"}
    values["runtime"]["device"] = "cuda"
    assert accelerated(names, parse_settings(values)) == {"features@speech", "train@x", "evaluate@x", "latency@x", "report"}


def test_what_waits_for_a_failure_is_left_out() -> None:
    assert blocked_stages(GRAPH, set(GRAPH) - {"corpus", "features@a"}, {"features@a"}) == set(GRAPH) - {
        "corpus",
        "features@a",
        "features@b",
    }


def test_descendants_of_the_stale() -> None:
    assert with_descendants(frozenset({"features@b"}), GRAPH) == {"features@b", "train@x", "latency@x", "evaluate@x", "report"}
    assert with_descendants(frozenset(), GRAPH) == frozenset()


@given(st.sets(st.sampled_from(sorted(GRAPH))), st.integers(1, 4))
def test_a_run_always_ends_and_never_starts_early(stale: set[str], jobs: int) -> None:
    todo, done = set(with_descendants(frozenset(stale), GRAPH)), set()
    waiting = set(todo)
    for _ in range(len(GRAPH) + 1):
        started = ready_stages(GRAPH, todo=todo, running=set(), failed=set(), jobs=jobs)
        assert len(started) <= jobs
        for name in started:
            assert not GRAPH[name] & (waiting - done)
        todo -= set(started)
        done |= set(started)
    assert done == waiting
