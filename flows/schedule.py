"""Which stages may start now: a stage waits for what it depends on, `latency` runs alone, at most `jobs` run side by side."""

from __future__ import annotations

from collections.abc import Collection, Mapping

ALONE = ("latency",)
"""Kinds of stage that measure time, and so want the machine to themselves."""


def ready_stages(
    graph: Mapping[str, Collection[str]], *, todo: Collection[str], running: Collection[str], failed: Collection[str], jobs: int
) -> list[str]:
    """Return the stages to start now, in graph order.

    Args:
        graph: every stage and what it waits for.
        todo: stages still to run (neither running nor ended).
        running: stages that run now.
        failed: stages that failed, or wait for one that did.
        jobs: how many may run side by side.
    """
    if any(map(_is_alone, running)):
        return []
    unfinished = {*todo, *running, *failed}
    free = [name for name in graph if name in todo and not unfinished.intersection(graph[name])]
    together = [name for name in free if not _is_alone(name)][: max(0, jobs - len(running))]
    if together or running:
        return together
    return [name for name in free if _is_alone(name)][:1]


def blocked_stages(graph: Mapping[str, Collection[str]], todo: Collection[str], failed: Collection[str]) -> set[str]:
    """Return the stages that can never start, since something they wait for has failed."""
    blocked: set[str] = set()
    while more := {name for name in todo if name not in blocked and {*failed, *blocked}.intersection(graph[name])}:
        blocked |= more
    return blocked


def _is_alone(name: str) -> bool:
    return name.split("@")[0] in ALONE
