"""The graph that the flow reads from DVC."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from flows.dvc import direct_upstream, parse_graph, with_descendants

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
