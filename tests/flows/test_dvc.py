"""The graph that the flow reads from DVC."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.dvc import direct_upstream, environment, parse_graph, with_descendants

DOT = """strict digraph {
"report";
"corpus";
"features@a";
"features@b";
"train@x";
"latency@x";
"evaluate@x";
"corpus" -> "features@a";
"corpus" -> "features@b";
"corpus" -> "train@x";
"features@a" -> "train@x";
"features@b" -> "train@x";
"train@x" -> "latency@x";
"train@x" -> "evaluate@x";
"features@a" -> "report";
"latency@x" -> "report";
"evaluate@x" -> "report";
}
"""
GRAPH = parse_graph(DOT)


def test_the_graph_is_read_in_topological_order() -> None:
    assert list(GRAPH) == ["corpus", "features@a", "features@b", "train@x", "latency@x", "evaluate@x", "report"]
    assert GRAPH["train@x"] == {"corpus", "features@a", "features@b"}
    assert GRAPH["corpus"] == frozenset()


def test_descendants_of_the_stale_stages() -> None:
    assert with_descendants(frozenset({"features@b"}), GRAPH) == {"features@b", "train@x", "latency@x", "evaluate@x", "report"}
    assert with_descendants(frozenset(), GRAPH) == frozenset()


def test_implied_edges_are_left_out() -> None:
    assert direct_upstream(GRAPH) == {
        "corpus": set(),
        "features@a": {"corpus"},
        "features@b": {"corpus"},
        "train@x": {"features@a", "features@b"},
        "latency@x": {"train@x"},
        "evaluate@x": {"train@x"},
        "report": {"latency@x", "evaluate@x"},
    }


@given(st.lists(st.sets(st.integers(0, 9)), max_size=10))
def test_the_direct_edges_keep_every_dependency(edges: list[set[int]]) -> None:
    graph = {str(i): frozenset(str(j) for j in upstream if j < i) for i, upstream in enumerate(edges)}
    direct = direct_upstream(graph)
    for name in graph:
        assert with_descendants(frozenset({name}), direct) == with_descendants(frozenset({name}), graph)
        assert direct[name] <= graph[name]


def test_a_stage_finds_the_programs_of_this_interpreter_without_an_activated_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/usr/bin")
    assert environment()["PATH"] == f"{Path(sys.executable).parent}{os.pathsep}/usr/bin"


def test_prefect_is_not_imported_before_its_server_is_chosen() -> None:
    # Prefect reads PREFECT_API_URL at import: imported too early, it starts a server of its own, and the records of the run are elsewhere.
    code = "import sys, flows.main; print(sorted(name for name in sys.modules if name.split('.')[0] == 'prefect'))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[2], check=True)
    assert done.stdout == "[]\n"
