"""Which stage may start when."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.dvc import with_descendants
from flows.schedule import blocked_stages, ready_stages

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
