"""Public benchmarks in the report: both readings of every trial, and coat − sft on the same items."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from coat_core.errors import EvaluationError
from coat_core.evaluation.benchmarks.recorded import counts_text, places_text, read_result
from coat_core.evaluation.statistics import Bootstrap, Item
from coat_core.report.tables import markdown, name_of
from coat_core.settings import CLAIM, parse_trial

HEADER = ("benchmark", "trial", "strict", "official", "over", "differ", "unscored", "n", "notes")
NOTE = (
    "*strict*: mean over all items, where an unclear response counts as wrong, with its interval; *official*: the number of the published "
    "script over its own denominator (*over*), none where the script gives none; *differ*: share of the items on which the two disagree."
)


def collect_suites(
    workspace: Path, backbones: Sequence[str], trials: Sequence[str], suites: Sequence[str], bootstrap: Bootstrap
) -> dict[str, Any]:
    """Return benchmark → its facts, and by backbone the numbers of every trial and the difference coat − sft, without the items.

    Raises:
        EvaluationError: a result is missing, or the trials answered different items.
    """
    return {suite: _suite(workspace, backbones, trials, suite, bootstrap) for suite in suites}


def suite_rows(results: Mapping[str, Any], backbone: str) -> list[list[str]]:
    """Return a header, and for each benchmark a row for every trial, and one for coat − sft."""
    rows = [list(HEADER)]
    for suite in results.get("suites", {}).values():
        found = suite["backbones"][backbone]
        for number, (trial, entry) in enumerate(found["trials"].items()):
            title = "" if number else f"{suite['title']}, {suite['split']}"
            rows.append([title, trial, *_cells(entry)])
        if found["difference"] is not None:
            rows.append(["", " − ".join(CLAIM), difference_text(found["difference"]), *[""] * 6])
    return rows


def suites_markdown(results: Mapping[str, Any]) -> str:
    """Return a Markdown section for each backbone; empty without benchmarks."""
    if not results.get("suites"):
        return ""
    parts = [f"### Public benchmarks, {name_of(key)}\n\n{markdown(suite_rows(results, key))}" for key in results["backbones"]]
    return "\n" + "\n".join(parts) + f"\n{NOTE}\n"


def suites_text(results: Mapping[str, Any]) -> str:
    """Return what `coat run` prints: the strict score of every trial, a line for each backbone and benchmark; empty without benchmarks."""
    lines = [
        f"{name_of(key)}, {suite['title']}: "
        + ", ".join(f"{trial} {entry['strict']['value']:.3f}" for trial, entry in suite["backbones"][key]["trials"].items())
        for key, suite in _pairs(results)
    ]
    return "\n".join(["public benchmarks, strict (report/tables.md has both readings):", *lines]) if lines else ""


def difference_text(entry: Mapping[str, Any]) -> str:
    """Return e.g. "+0.050 [-0.010, +0.110]", or that there are too few items."""
    text = f"{entry['value']:+.3f} [{entry['low']:+.3f}, {entry['high']:+.3f}]".replace("-", "−")
    return f"{text}, too few" if entry["too_few"] else text


def _pairs(results: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for key in results["backbones"]:
        for suite in results.get("suites", {}).values():
            yield key, suite


def _suite(workspace: Path, backbones: Sequence[str], trials: Sequence[str], suite: str, bootstrap: Bootstrap) -> dict[str, Any]:
    by_backbone: dict[str, Any] = {}
    facts: dict[str, Any] = {}
    for backbone in backbones:
        read = {trial: _read(workspace, backbone, trial, suite) for trial in trials}
        facts = {name: next(iter(read.values()))[name] for name in ("title", "split", "n", "data", "rule", "metric", "prompt_source")}
        by_backbone[backbone] = {
            "trials": {trial: {k: v for k, v in result.items() if k not in ("items", "groups", *facts)} for trial, result in read.items()},
            "difference": _difference(read, bootstrap),
        }
    return {**facts, "backbones": by_backbone}


def _read(workspace: Path, backbone: str, trial: str, suite: str) -> dict[str, Any]:
    found = read_result(workspace, backbone, trial, suite)
    if found is None:
        name = f"{backbone}-{trial}-{suite}"
        raise EvaluationError("the result of a benchmark is missing", field="suite", value=name, next_step=f"run score_suite@{name}")
    return found


def _difference(read: Mapping[str, Mapping[str, Any]], bootstrap: Bootstrap) -> dict[str, Any] | None:
    """Return the mean of coat − sft over items, averaged over the seeds that both have; None if they have no seed in common."""
    by_arm: dict[str, dict[int, dict[str, float]]] = {}
    for trial, result in read.items():
        arm, seed = parse_trial(trial)
        by_arm.setdefault(arm.name, {})[seed] = {item["id"]: item["strict"]["value"] or 0.0 for item in result["items"]}
    first, second = (by_arm.get(arm, {}) for arm in CLAIM)
    seeds = sorted(first.keys() & second.keys())
    if not seeds:
        return None
    names = list(first[seeds[0]])
    values = np.asarray([[first[seed][name] - second[seed][name] for name in names] for seed in seeds])
    found = bootstrap.by_family([Item(name, "suite", name) for name in names], values if len(seeds) > 1 else values[0])["suite"]
    return {**found.to_json(), "seeds": seeds, "too_few": found.too_few}


def _cells(entry: Mapping[str, Any]) -> list[str]:
    strict, official = entry["strict"], entry["official"]
    value = "none" if official["value"] is None else f"{official['value']:.3f}"
    texts = (official.get("reason", ""), counts_text(entry["responses"]), _judge(entry), places_text(official))
    notes = [text for text in texts if text]
    return [
        f"{strict['value']:.3f} [{strict['low']:.3f}, {strict['high']:.3f}]", value, str(official["over"]),
        f"{entry['differing']['share']:.1%}", str(strict["unscored"]), str(entry["strict"]["n"]), "; ".join(notes),
    ]  # fmt: skip


def _judge(entry: Mapping[str, Any]) -> str:
    judge = entry["record"].get("judge")
    return f"judge: {judge}" if judge else ""
