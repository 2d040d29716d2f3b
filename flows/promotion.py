"""The steps after the graph that must not be cached: register, load cold, compare, decide and apply, for each backbone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.futures import PrefectFuture

from coat_core import logs
from coat_core.settings import Settings, load_settings


def promote_backbones(workspace: Path, wait_for: Sequence[PrefectFuture[Any]] = ()) -> list[dict[str, Any]]:
    """Register every backbone's candidate, one after the other, and let the gate decide.

    Args:
        workspace: folder whose graph is up to date.
        wait_for: futures of this run's last stages, from which the run page draws arrows to the promotions.

    Returns:
        One record for each backbone: model, version, decision and its reasons.
    """
    settings = load_settings(workspace / "params.yaml")
    records = []
    for key in settings.backbones:
        promote = promote_backbone.with_options(name=f"promote@{key}", task_run_name=f"promote@{key}")
        record = promote(key, str(workspace), settings, wait_for=list(wait_for))
        logs.event("decision", f"{record['model']} version {record['version']}: {record['decision']}", stage=f"promote@{key}", **record)
        records.append(record)
    return records


def decisions_text(records: Sequence[Mapping[str, Any]]) -> str:
    """Return the decisions as lines to print: one for each version, and below it the reasons."""
    lines = [f"promoted {sum(record['decision'] == 'promoted' for record in records)} of {len(records)} candidates"]
    if records and all(record["decision"] == "refused" for record in records):
        lines = ["promoted nothing: the gate refused every candidate, and no champion changed"]
    for record in records:
        lines.append(f"  {record['model']} version {record['version']}: {record['decision']}")
        lines += [f"    {reason}" for reason in record["reasons"]]
    return "\n".join(lines)


def decisions_markdown(records: Sequence[Mapping[str, Any]]) -> str:
    """Return the decisions as Markdown: a table of the versions, then all reasons. Prefect's own tables cut long texts off."""
    lines = ["| model | version | decision |", "|:--|--:|:--|"]
    lines += [f"| {record['model']} | {record['version']} | {record['decision']} |" for record in records]
    for record in records:
        lines += ["", f"## {record['model']} version {record['version']}: {record['decision']}", ""]
        lines += [f"- {reason}" for reason in record["reasons"]]
    return "\n".join(lines)


@task(cache_policy=NO_CACHE, persist_result=False)
def promote_backbone(backbone: str, workspace: str, settings: Settings) -> dict[str, Any]:
    """Register one backbone's candidate trial, load it cold, compare it with the champion, decide and apply."""
    from coat_core.registry.promotion import promote_candidate

    return asdict(promote_candidate(Path(workspace), settings, backbone))
