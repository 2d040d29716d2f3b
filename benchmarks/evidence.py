"""Copy the results of the evidence workspaces to docs/results/ and write the tables of the README.

    python -m benchmarks.evidence [--workspaces DIR] [--quick]

`make evidence` runs this script last. It replaces the text between the markers in the README; do not edit that text by hand. Label curves
and `sft` for the time that `coat` takes are comparisons across workspaces; they are written where these workspaces are finished.
`--quick` writes the results of `make evidence-quick` and leaves the README as it is.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.curves import against_long, curve_markdown, label_curve
from benchmarks.saved_scores import SavedScores
from benchmarks.workspaces import CENTRAL, QUICK
from coat_core.evaluation.statistics import Bootstrap
from coat_core.report.tables import DIFFERENCES, accuracy_text, difference_text, markdown, markdown_tables, name_of
from coat_core.storage import read_json, write_json, write_text

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "docs/results"
RESULTS_FILE = "report/results.json"
BEGIN, END = "<!-- evidence: begin -->", "<!-- evidence: end -->"
SHOWN = ("base", "sft", "block", "coat_shuffled", "align", "coat")
"""Arms in the README's table; docs/results/evidence.md has all."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workspaces", type=Path, default=ROOT / "workspaces", help="folder of the workspaces")
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    if options.quick:
        results = read_json(options.workspaces / QUICK / RESULTS_FILE)
        write_json(RESULTS / "evidence-quick.json", results)
        print(markdown_tables(results))
    else:
        write_evidence(options.workspaces)


def write_evidence(workspaces: Path) -> None:
    """Write docs/results/evidence* and the README's table."""
    source, target = workspaces / CENTRAL / RESULTS_FILE, RESULTS / "evidence-recordings.json"
    if source.exists():
        write_json(target, read_json(source))
    results = read_json(target)
    details = ["# Evidence: all results", "", "Written by `make evidence`; the JSON files in this folder contain every number.", ""]
    details += ["## Real recordings", "", markdown_tables(results).replace("\n### ", "\n#### ").replace("### ", "#### ", 1)]
    details += across_workspaces(workspaces, list(results["backbones"]))
    write_text(RESULTS / "evidence.md", "\n".join(details).rstrip("\n") + "\n")
    readme = (ROOT / "README.md").read_text()
    before, rest = readme.split(BEGIN)
    write_text(ROOT / "README.md", before + BEGIN + "\n" + short(results) + END + rest.split(END)[1])


def across_workspaces(workspaces: Path, backbones: list[str]) -> list[str]:
    """Write docs/results/evidence-curves.json and the scores behind it, and return its tables; nothing, if no such trial is finished."""
    bootstrap = Bootstrap()
    curve_scores, long_scores = (SavedScores(RESULTS / f"scores-{name}.jsonl") for name in ("labels", "equal-time"))
    curves = {key: points for key in backbones if (points := label_curve(workspaces, key, bootstrap, curve_scores))}
    long: dict[str, Any] = {key: found for key in backbones if (found := against_long(workspaces, key, bootstrap, long_scores))}
    curve_scores.write()
    long_scores.write()
    if curves or long:
        write_json(RESULTS / "evidence-curves.json", {"label_curves": curves, "sft_at_equal_time": long})
    lines = []
    if long:
        lines += ["## sft for the time that coat takes", "", "| model | seeds | sft, longer | coat − sft, longer |", "|:--|:--|--:|--:|"]
        for key, found in long.items():
            cells = [", ".join(map(str, found["seeds"])), accuracy_text(found["sft_long"]), difference_text(found["coat-sft_long"])]
            lines.append(f"| {name_of(key)} | {' | '.join(cells)} |")
        lines.append("")
    return [*lines, "## Few labels", "", curve_markdown(curves), ""] if curves else lines


def short(results: Mapping[str, Any]) -> str:
    """Return the README's table: mean accuracy of the arms and the first three differences per backbone."""
    arms = [arm for arm in SHOWN if any(arm in backbone["arms"] for backbone in results["backbones"].values())]
    found = {name for backbone in results["backbones"].values() for name in backbone["differences"]}
    differences = [name for name in list(DIFFERENCES)[:3] if name in found]
    rows = [["model", *arms, *(DIFFERENCES[name] for name in differences)]]
    for key, backbone in results["backbones"].items():
        # The intervals of the arms are in docs/results/evidence.md.
        cells = [accuracy_text(backbone["arms"].get(arm, {}).get("mean")).partition(" [")[0] for arm in arms]
        cells += [difference_text(backbone["differences"].get(name, {}).get("mean")) for name in differences]
        rows.append([name_of(key), *cells])
    chance = max(mean["chance"] for backbone in results["backbones"].values() if (mean := backbone["arms"].get("sft", {}).get("mean")))
    note = (
        f"Mean accuracy over five task families (transcription: 1 − word error rate; guessing: {chance:.2f}), and paired differences "
        "with 95 % bootstrap intervals."
    )
    return f"{markdown(rows)}\n{note}\n"


if __name__ == "__main__":
    main()
