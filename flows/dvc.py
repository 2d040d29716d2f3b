"""DVC seen from the flow: its command line only. It owns the graph and the cache; the flow asks and obeys."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

from coat_core.errors import StageError

_EDGE = re.compile(r'^"(?P<upstream>[^"]+)" -> "(?P<downstream>[^"]+)";$')
_NODE = re.compile(r'^"(?P<name>[^"]+)";$')


def tool(name: str) -> str:
    """Return the path of a command that is installed beside the running interpreter."""
    return str(Path(sys.executable).parent / name)


def environment(**extra: str) -> dict[str, str]:
    """Return the environment for a DVC call: no telemetry, no update check."""
    return {**os.environ, "DVC_NO_ANALYTICS": "true", "DO_NOT_TRACK": "true", **extra}


def read_graph(workspace: Path) -> dict[str, frozenset[str]]:
    """Return every stage with the stages it waits for, from `dvc dag --dot`, in DVC's order."""
    graph: dict[str, set[str]] = {}
    for line in _ask(workspace, "dag", "--dot").splitlines():
        if edge := _EDGE.match(line.strip()):
            graph.setdefault(edge["upstream"], set())
            graph.setdefault(edge["downstream"], set()).add(edge["upstream"])
        elif node := _NODE.match(line.strip()):
            graph.setdefault(node["name"], set())
    return {name: frozenset(upstream) for name, upstream in graph.items()}


def read_stale(workspace: Path) -> frozenset[str]:
    """Return the stages that `dvc status` calls changed."""
    return frozenset(json.loads(_ask(workspace, "status", "--json")))


def with_descendants(stale: frozenset[str], graph: dict[str, frozenset[str]]) -> frozenset[str]:
    """Return the stale stages and everything that waits for one of them."""
    found = set(stale & graph.keys())
    while more := {name for name, upstream in graph.items() if name not in found and upstream & found}:
        found |= more
    return frozenset(found)


def reproduce_command(stage: str) -> list[str]:
    """Return the command that runs one stage, whatever else DVC is doing."""
    return [tool("dvc"), "--wait-for-lock", "repro", "--single-item", stage]


def _ask(workspace: Path, *arguments: str) -> str:
    done = subprocess.run([tool("dvc"), *arguments], cwd=workspace, capture_output=True, text=True, env=environment())
    if done.returncode:
        raise StageError(
            f"dvc {' '.join(arguments)} failed: {done.stderr.strip()[-800:]}",
            field="workspace",
            value=str(workspace),
            next_step="run the same dvc command by hand in the workspace",
        )
    return done.stdout
