"""The sections that the model card has on the hub: intended use, results with intervals, training data, licences, limits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from coat_core.registry.card import INTENDED_USE, accuracy_text, limits_section
from coat_core.registry.data_licences import DataLicence
from coat_core.registry.evaluations import Evaluations
from coat_core.settings import find_arm


def sections(record: Mapping[str, Any], evaluations: Evaluations, licences: Sequence[DataLicence]) -> str:
    """Return the Markdown of the sections; every number follows from the saved scores.

    Args:
        record: content of `export.json`.
        evaluations: scores of the model and its controls.
        licences: of the training data; empty for an untrained model.
    """
    tables = evaluations.tables
    parts = (
        f"## Intended use\n\n{INTENDED_USE} The text of an answer is not checked by anything: have a person check what matters.",
        _results(evaluations),
        _data(record, licences),
        limits_section({"families": tables[evaluations.arm]["families"]}),
        "## Parity with the trained model",
    )
    return "\n\n".join(part for part in parts if part) + "\n\n"


def _results(evaluations: Evaluations) -> str:
    tables, own = evaluations.tables, evaluations.tables[evaluations.arm]
    mean, bootstrap, metrics = own["mean"], evaluations.bootstrap, evaluations.metrics
    arms = "\n".join(
        f"- `{name}`{' (this model)' if name == evaluations.arm else ''}: {find_arm(name).description}, "
        f"seed {evaluations.seed if find_arm(name).lora else 0}"
        for name in tables
    )
    lines = [f"| family | items | chance | {' | '.join(tables)} |", "|:--|--:|--:|" + "--:|" * len(tables)]
    for family, entry in own["families"].items():
        cells = " | ".join(accuracy_text(table["families"].get(family)) for table in tables.values())
        lines.append(f"| {family} | {entry['n']} | {_number(entry['chance'])} | {cells} |")
    cells = " | ".join(accuracy_text(table["mean"]) for table in tables.values())
    lines.append(f"| **mean** | {mean['n']} | {_number(mean['chance'])} | {cells} |")
    return (
        f"## Evaluation\n\nAccuracy (1 − word error rate for transcription) on the {metrics.get('split', 'evaluation')} split of the "
        f"model's own corpus: {mean['n']} items in {mean['groups']} groups, no group of which is in the training split. In brackets: "
        f"{bootstrap.confidence:.0%} bootstrap intervals, {bootstrap.resamples} resamples of groups. An answer that cannot be scored "
        f"counts as wrong ({mean['unscored_share']:.1%}).\n\n{arms}\n\n" + "\n".join(lines) + f"\n\n{_difference(evaluations)}"
    )


def _difference(evaluations: Evaluations) -> str:
    if evaluations.control is None:
        return "This is the base itself, so there is no control."
    gap = evaluations.difference
    if gap is None:
        return f"**The control, arm `{evaluations.control}`, was not evaluated on these items: what training adds is not shown.**"
    mean, seeds = gap["mean"], gap["seeds"] or [*evaluations.own]
    counted = f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}; {mean['n']} items in {mean['groups']} groups"
    points = f"{100 * mean['difference']:+.1f} points [{100 * mean['low']:+.1f}, {100 * mean['high']:+.1f}]"
    if mean["too_few"]:
        verdict = "too few items to judge"
    elif mean["includes_zero"]:
        verdict = "the interval includes zero, so no difference is shown"
    else:
        verdict = "the interval excludes zero"
    text = f"`{evaluations.arm}` − `{evaluations.control}`, paired by item: **{points}** ({counted}): {verdict}."
    return text + (" One seed does not show how much a training run varies." if len(seeds) == 1 else "")


def _data(record: Mapping[str, Any], licences: Sequence[DataLicence]) -> str:
    base = record["base"]
    rows = "\n".join(f"| {entry.source} | {entry.examples} | {entry.licence} |" for entry in licences)
    data = f"\n\n| training data | examples | licence |\n|:--|--:|:--|\n{rows}" if licences else ""
    return (
        f"## Licences\n\nThe weights are derived from `{base['id']}`, whose licence is **{base['licence']}**, and it applies to them. "
        "The data below has licences of its own: check that your use agrees with all of them." + data
        if licences
        else f"## Licences\n\nThe weights are those of `{base['id']}`, whose licence is **{base['licence']}**."
    )


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
