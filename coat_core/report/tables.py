"""Tables of the results: Markdown for the README, CSV for DVC's plots, text for the terminal."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from coat_core.report.results import ENOUGH_SEEDS, HEADLINE, VALIDATION, headline
from coat_core.settings import ARMS, CLAIM, COMPARISONS
from coat_core.settings.base import BACKBONE_NAMES
from coat_core.storage import read_jsonl

DIFFERENCES = {f"{first}-{second}": f"{first} − {second}" for first, second in COMPARISONS}
"""Titles of the differences by key."""
BRIEF_NOTE = f"Fewer than {ENOUGH_SEEDS} seeds: this run shows that the pipeline works; it is not evidence for or against the method."
"""Added to results that are `brief`."""
LATENCY_ROWS = {"first_token_s": "time to first token", "decode_s_per_token": "decoding, per token", "total_s": "total"}
"""Labels of the measured times by key."""


CURVE_POINTS = 100
"""Most points of a training curve in the CSV."""


def name_of(backbone: str) -> str:
    """Return the display name of a backbone."""
    return BACKBONE_NAMES.get(backbone, backbone)


def entries(results: Mapping[str, Any], values: Mapping[str, Any]) -> list[Mapping[str, Any] | None]:
    """Return the entries of one arm or difference in the order of the columns: families, then their mean."""
    return [*(values["families"].get(family) for family in results["families"]), values["mean"]]


def accuracy_text(entry: Mapping[str, Any] | None) -> str:
    """Return e.g. ".47 [.41, .53]", with a dagger if it is not clear of chance."""
    if entry is None:
        return "n/a"
    mark = " †" if entry["clear_of_chance"] is False else ""
    return f"{_short(entry['accuracy'])} [{_short(entry['low'])}, {_short(entry['high'])}]{mark}"


def difference_text(entry: Mapping[str, Any] | None) -> str:
    """Return e.g. "+.05 [-.01, +.11]"."""
    if entry is None:
        return "n/a"
    return f"{_signed(entry['difference'])} [{_signed(entry['low'])}, {_signed(entry['high'])}]"


def markdown_tables(results: Mapping[str, Any]) -> str:
    """Return a Markdown section per backbone: accuracy by arm and family with intervals and chance, differences, latency."""
    columns = [*results["families"], "mean"]
    parts = []
    for key, backbone in results["backbones"].items():
        rows = [["arm", *columns, "unscored"]]
        first = next(iter(backbone["arms"].values()))
        rows.append(["*n*", *(str(e["n"]) if e else "0" for e in entries(results, first)), ""])
        for arm, values in backbone["arms"].items():
            rows.append([arm, *(accuracy_text(e) for e in entries(results, values)), f"{values['mean']['unscored_share']:.1%}"])
            if arm == CLAIM[0] or not ARMS[arm].lora:
                rows.append([f"*chance, {arm}*", *(_chance(e) for e in entries(results, values)), ""])
        for name, values in backbone["differences"].items():
            label = DIFFERENCES.get(name, name)
            rows.append([f"**{label}**" if name == HEADLINE else label, *(difference_text(e) for e in entries(results, values)), ""])
        rows.append(["*resampled by*", *(f"{e['resampling']} ({e['units']})" if e else "" for e in entries(results, first)), ""])
        parts.append(f"### {name_of(key)}\n\n{headline(results, key)}\n\n{markdown(rows)}\n{_latency_markdown(backbone)}")
    return "\n".join(parts) + "\n" + _legend(results)


def _legend(results: Mapping[str, Any]) -> str:
    measured = results["measured"]
    seeds = ", ".join(map(str, results["seeds"])) or "none trained"
    text = (
        f"Accuracy (transcription: 1 − word error rate) on the {measured['split']} split with {measured['confidence']:.0%} bootstrap "
        f"intervals; seeds: {seeds}, averaged within each item. † not clear of chance: the interval of accuracy − chance includes "
        f"zero. *resampled by*: the units that the bootstrap resamples and their number; items if a family has fewer than "
        f"{measured['min_groups']} groups; with several seeds, seeds, too."
    )
    return text + (f"\n\n{BRIEF_NOTE}\n" if results["brief"] else "\n")


def _latency_markdown(backbone: Mapping[str, Any]) -> str:
    if not (latency := backbone["latency"]):
        return ""
    trials, ratios = latency["trials"], latency["ratios"]
    rows = [["latency", latency["baseline"], latency["candidate"], "ratio (min–max)"]]
    for name, label in LATENCY_ROWS.items():
        values = [f"{1000 * trials[trial][name]:.1f} ms" for trial in (latency["baseline"], latency["candidate"])]
        rows.append([label, *values, ratio_text(ratios.get(name))])
    for name, label in (("prompt_tokens", "prompt tokens"), ("decoded_tokens", "tokens decoded")):
        rows.append([label, *(f"{trials[trial][name]:g}" for trial in (latency["baseline"], latency["candidate"])), ""])
    return "\n" + markdown(rows) + "".join(f"\n{described_latency(found)}\n" for found in backbone.get("latency_described", ()))


def described_latency(latency: Mapping[str, Any]) -> str:
    """Return one sentence on the candidate against the experts' outputs as text, each until the end of its answer."""
    names = latency["candidate"], latency["baseline"]
    both = [latency["trials"][name] for name in names]
    taken = [f"{1000 * values['total_s']:.0f} ms and {values['decoded_tokens']:g} decoded tokens" for values in both]
    ratio = latency["ratios"]["total_s"]
    return (
        f"Until the end of the answer, {names[0]} takes {taken[0]}, {names[1]} {taken[1]}: ratio of total latency {ratio_text(ratio)}, "
        f"{ratio['pairs']} pairs."
    )


def ratio_text(ratio: Mapping[str, Any] | None) -> str:
    """Return e.g. "1.03 (0.98-1.09)"."""
    return f"{ratio['median']:.2f} ({ratio['min']:.2f}–{ratio['max']:.2f})" if ratio else "n/a"


def summary_table(results: Mapping[str, Any]) -> str:
    """Return the summary that `coat run` prints: accuracy per backbone, arm and family, and a sentence on coat - sft."""
    columns = [*results["families"], "mean"]
    rows = [["", *columns, "unscored"]]
    for key, backbone in results["backbones"].items():
        rows.append([name_of(key), *[""] * (len(columns) + 1)])
        for arm, values in backbone["arms"].items():
            cells = [f"{e['accuracy']:.3f}" if e else "" for e in entries(results, values)]
            rows.append([f"  {arm}", *cells, f"{values['mean']['unscored_share']:.1%}"])
        if HEADLINE in backbone["differences"]:
            cells = [f"{e['difference']:+.3f}" if e else "" for e in entries(results, backbone["differences"][HEADLINE])]
            rows.append(["  coat - sft", *cells, ""])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [_padded(row, widths) for row in rows]
    lines.insert(1, "-" * (sum(widths) + 2 * (len(widths) - 1)))
    sentences = [f"{name_of(key)}: {headline(results, key)}" for key in results["backbones"]]
    for key, backbone in results["backbones"].items():
        sentences += [f"{name_of(key)}, {trial}: {probe['verdict']['sentence']}" for trial, probe in backbone.get("probes", {}).items()]
    if results["brief"]:
        sentences.append(BRIEF_NOTE)
    return "\n".join([*lines, "", *sentences])


def accuracy_csv(results: Mapping[str, Any]) -> str:
    """Return one CSV row per backbone, arm and family (and `mean`): accuracy, low, high, chance."""
    rows: list[Sequence[Any]] = [("backbone", "arm", "family", "accuracy", "low", "high", "chance")]
    for key, backbone in results["backbones"].items():
        for arm, values in backbone["arms"].items():
            for family, entry in [*values["families"].items(), ("mean", values["mean"])]:
                rows.append((key, arm, family, *(entry[name] for name in ("accuracy", "low", "high", "chance"))))
    return csv_text(rows)


def training_csv(workspace: Path, results: Mapping[str, Any]) -> str:
    """Return the losses of each run as CSV: means over at most 100 intervals of its optimizer steps.

    The answer loss is first, then that on validation examples, which is empty in an interval without a measurement.
    """
    rows = list(training_rows(workspace, results))
    losses = sorted({name for _, _, row in rows for name in row if name.startswith("loss/") and name != "loss/answer"})
    header = (
        "backbone",
        "trial",
        "step",
        "stage",
        "answer_loss",
        "validation_loss",
        *(f"{name.removeprefix('loss/')}_loss" for name in losses),
    )
    names = ("loss/answer", VALIDATION, *losses)
    found = []
    for (key, trial), group in groupby(rows, key=lambda row: row[:2]):
        steps = [row for _, _, row in group]
        width = -(-len(steps) // CURVE_POINTS)
        for start in range(0, len(steps), width):
            part = steps[start : start + width]
            found.append((key, trial, part[-1]["step"], part[-1].get("stage"), *(_mean(part, name) for name in names)))
    return csv_text([header, *found])


def training_rows(workspace: Path, results: Mapping[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield backbone, trial and history row for each optimizer step of the runs in the results."""
    for key, backbone in results["backbones"].items():
        for trial in backbone["training"]:
            for row in read_jsonl(workspace / "runs" / f"{key}-{trial}" / "history.jsonl"):
                yield key, trial, row


def _mean(rows: Sequence[Mapping[str, Any]], name: str) -> float | None:
    values = [float(row[name]) for row in rows if isinstance(row.get(name), int | float)]
    return round(sum(values) / len(values), 5) if values else None


def _padded(row: Sequence[str], widths: Sequence[int]) -> str:
    cells = [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
    return "  ".join([row[0].ljust(widths[0]), *cells]).rstrip()


def csv_text(rows: Sequence[Sequence[Any]]) -> str:
    """Return rows as CSV; an empty cell for None."""
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerows([["" if cell is None else cell for cell in row] for row in rows])
    return stream.getvalue()


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table; the first row is the header."""
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    lines.insert(1, "|" + "|".join([":--", *["--:"] * (len(rows[0]) - 1)]) + "|")
    return "\n".join(lines) + "\n"


def _chance(entry: Mapping[str, Any] | None) -> str:
    return "n/a" if entry is None or entry["chance"] is None else _short(entry["chance"])


def _short(value: float) -> str:
    return f"{value:.3f}".removeprefix("0") if 0 <= value < 0.9995 else f"{value:.3f}"


def signed(value: float) -> str:
    """Return a number with its sign and three digits. The sign is that of the number before rounding: −.0001 is below zero, "−0.000"."""
    return f"{round(value, 9) + 0.0:+.3f}".replace("-", "−")


def _signed(value: float) -> str:
    return signed(value).replace("0.", ".", 1)
