"""Wrapper for the DVC command line: the graph, the stale stages and the command that runs one stage."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from graphlib import TopologicalSorter
from pathlib import Path

from coat_core.errors import StageError
from coat_core.servers import path_with

_EDGE = re.compile(r'^"(?P<upstream>[^"]+)" -> "(?P<downstream>[^"]+)";$')
_NODE = re.compile(r'^"(?P<name>[^"]+)";$')


def tool(name: str) -> str:
    """Return the path of a command that is installed beside the running interpreter."""
    return str(Path(sys.executable).parent / name)


def environment(**extra: str) -> dict[str, str]:
    """Return the environment for a DVC call: no telemetry, no update check, and the programs of this interpreter's environment."""
    path = path_with(Path(sys.executable).parent)
    return {**os.environ, "PATH": path, "DVC_NO_ANALYTICS": "true", "DO_NOT_TRACK": "true", **extra}


def read_graph(workspace: Path) -> dict[str, frozenset[str]]:
    """Return every stage with its upstream stages, in topological order.

    Raises:
        StageError: DVC cannot read the graph.
    """
    return parse_graph(call(workspace, "dag", "--dot"))


def parse_graph(dot: str) -> dict[str, frozenset[str]]:
    """Return the graph that `dvc dag --dot` printed, in topological order; within one level the order is DVC's."""
    graph: dict[str, set[str]] = {}
    for line in dot.splitlines():
        if edge := _EDGE.match(line.strip()):
            graph.setdefault(edge["upstream"], set())
            graph.setdefault(edge["downstream"], set()).add(edge["upstream"])
        elif node := _NODE.match(line.strip()):
            graph.setdefault(node["name"], set())
    sorter: TopologicalSorter[str] = TopologicalSorter(dict.fromkeys(graph, ()))
    for name, upstream in graph.items():
        sorter.add(name, *sorted(upstream))
    return {name: frozenset(graph[name]) for name in sorter.static_order()}


def read_stale(workspace: Path) -> frozenset[str]:
    """Return the stages that `dvc status` reports as changed.

    Raises:
        StageError: DVC cannot compare the workspace with `dvc.lock`.
    """
    return frozenset(json.loads(call(workspace, "status", "--json")))


def with_descendants(names: frozenset[str], graph: Mapping[str, frozenset[str]]) -> frozenset[str]:
    """Return these stages and every stage that depends on one of them, directly or not."""
    found = set(names & graph.keys())
    while more := {name for name, upstream in graph.items() if name not in found and upstream & found}:
        found |= more
    return frozenset(found)


def direct_upstream(graph: Mapping[str, frozenset[str]]) -> dict[str, frozenset[str]]:
    """Return the graph without the edges that a longer path implies: the same order with fewer arrows (transitive reduction).

    Args:
        graph: every stage with its upstream stages, in topological order.
    """
    ancestors: dict[str, frozenset[str]] = {}
    direct: dict[str, frozenset[str]] = {}
    for name, upstream in graph.items():
        implied = frozenset[str]().union(*(ancestors[other] for other in upstream))
        ancestors[name], direct[name] = upstream | implied, upstream - implied
    return direct


def reproduce_command(stage: str) -> list[str]:
    """Return the command that runs one stage; it waits for DVC's lock."""
    return [tool("dvc"), "--wait-for-lock", "repro", "--single-item", stage]


def config(workspace: Path) -> dict[str, str]:
    """Return DVC's configuration of a workspace by dotted name."""
    lines = (line.partition("=") for line in call(workspace, "config", "--list").splitlines() if "=" in line)
    return {name: value for name, _, value in lines}


def call(workspace: Path, *arguments: str) -> str:
    """Run a DVC command in a workspace and return what it printed.

    Raises:
        StageError: the command failed.
    """
    done = subprocess.run([tool("dvc"), *arguments], cwd=workspace, capture_output=True, text=True, env=environment())
    if done.returncode:
        raise StageError(
            f"dvc {' '.join(arguments)} failed: {done.stderr.strip()[-800:]}",
            field="workspace",
            value=str(workspace),
            next_step="run the same dvc command by hand in the workspace",
        )
    return done.stdout
