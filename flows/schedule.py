"""Which stages may start now: a stage waits for what it depends on, `latency` runs alone, at most `jobs` run side by side.

Stages that compute on the host's accelerator run one at a time: two trainings of a 7B model do not fit on one device, and which of
them fails would depend on who came first.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from coat_core.settings import Settings

ALONE = ("latency",)
"""Kinds of stage that measure time, and so want the machine to themselves."""
ON_DEVICE = ("train", "evaluate", "latency", "report")
"""Kinds of stage that compute where `runtime.device` says."""


def accelerated(names: Collection[str], settings: Settings) -> frozenset[str]:
    """Return the stages that compute on the accelerator."""
    experts = {f"features@{key}" for key, expert in settings.experts.items() if expert.device != "cpu"}
    if settings.runtime.device == "cpu":
        return frozenset(experts.intersection(names))
    return frozenset(name for name in names if name in experts or name.split("@")[0] in ON_DEVICE)


def ready_stages(
    graph: Mapping[str, Collection[str]],
    *,
    todo: Collection[str],
    running: Collection[str],
    failed: Collection[str],
    jobs: int,
    accelerated: Collection[str] = (),
) -> list[str]:
    """Return the stages to start now, in graph order.

    Args:
        graph: every stage and what it waits for.
        todo: stages still to run (neither running nor ended).
        running: stages that run now.
        failed: stages that failed, or wait for one that did.
        jobs: how many may run side by side.
        accelerated: stages of which only one may run at a time.
    """
    if any(map(_is_alone, running)):
        return []
    unfinished = {*todo, *running, *failed}
    free = [name for name in graph if name in todo and not unfinished.intersection(graph[name])]
    taken = any(name in accelerated for name in running)
    waiting = [name for name in free if name in accelerated and not _is_alone(name)][0 if taken else 1 :]
    together = [name for name in free if not _is_alone(name) and name not in waiting][: max(0, jobs - len(running))]
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
