"""Copy the results of the evidence workspaces to docs/results/ and write the tables of the README.

    python -m benchmarks.evidence [--quick]
    python -m benchmarks.evidence --equal-time WORKSPACE    print the steps of sft that take as long as those of coat

`make evidence` runs this script last. It replaces the text between the markers in the README; do not edit that text by hand. Label curves
and `sft` at the wall-clock time of `coat` are comparisons across workspaces; they are written where these workspaces are finished.
`--quick` writes the results of `make evidence-quick` and leaves the README as it is.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from benchmarks.curves import against_long, curve_markdown, equal_time_steps, label_curve
from coat_core.evaluation.statistics import Bootstrap
from coat_core.report.tables import DIFFERENCES, accuracy_text, difference_text, markdown_tables, name_of
from coat_core.settings import ARMS, load_settings
from coat_core.storage import read_json, write_json, write_text

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "docs/results"
CORPORA = {"generated": "Generated corpus", "recordings": "Real recordings"}
BEGIN, END = "<!-- evidence: begin -->", "<!-- evidence: end -->"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--equal-time", type=Path, metavar="WORKSPACE")
    options = parser.parse_args()
    if options.equal_time:
        for backbone in load_settings(options.equal_time / "params.yaml").backbones:
            print(f"{backbone}: {equal_time_steps(options.equal_time, backbone) or 'no history'}")
    elif options.quick:
        results = read_json(ROOT / "workspaces/evidence-quick/report/results.json")
        write_json(RESULTS / "evidence-quick.json", results)
        print(markdown_tables(results))
    else:
        write_evidence()


def write_evidence() -> None:
    """Write docs/results/evidence* and the README's table."""
    results_by_corpus = {}
    for corpus in CORPORA:
        source = ROOT / "workspaces" / f"evidence-{corpus}" / "report/results.json"
        target = RESULTS / f"evidence-{corpus}.json"
        if source.exists():
            write_json(target, read_json(source))
        if target.exists():
            results_by_corpus[corpus] = read_json(target)
    details = ["# Evidence: all results", "", "Written by `make evidence`; the JSON files in this folder contain every number.", ""]
    for corpus, results in results_by_corpus.items():
        details += [f"## {CORPORA[corpus]}", "", markdown_tables(results).replace("\n### ", "\n#### ").replace("### ", "#### ", 1)]
    details += across_workspaces(list(results_by_corpus.get("recordings", {}).get("backbones", {})))
    write_text(RESULTS / "evidence.md", "\n".join(details))
    readme = (ROOT / "README.md").read_text()
    before, rest = readme.split(BEGIN)
    write_text(ROOT / "README.md", before + BEGIN + "\n" + short(results_by_corpus) + END + rest.split(END)[1])


def across_workspaces(backbones: list[str]) -> list[str]:
    """Write docs/results/evidence-curves.json and return its tables; nothing, if no such workspace is finished."""
    bootstrap, workspaces, path = Bootstrap(), ROOT / "workspaces", RESULTS / "evidence-curves.json"
    curves = {key: points for key in backbones if (points := label_curve(workspaces, key, bootstrap))}
    long: dict[str, Any] = {key: found for key in backbones if (found := against_long(workspaces, key, bootstrap))}
    if curves or long:
        write_json(path, {"label_curves": curves, "sft_at_equal_time": long})
    elif path.exists():
        saved = read_json(path)
        curves, long = saved["label_curves"], saved["sft_at_equal_time"]
    lines = []
    if long:
        lines += ["## sft for the time that coat takes", "", "| model | sft, longer | coat − sft, longer |", "|:--|--:|--:|"]
        cells = {key: (accuracy_text(found["sft_long"]), difference_text(found["coat-sft_long"])) for key, found in long.items()}
        lines += [*(f"| {name_of(key)} | {' | '.join(texts)} |" for key, texts in cells.items()), ""]
    return [*lines, "## Few labels", "", curve_markdown(curves), ""] if curves else lines


def short(results_by_corpus: dict[str, dict]) -> str:
    """Return the README's table: mean accuracy of each arm and the first two differences, per corpus and backbone."""
    backbones = [(corpus, *item) for corpus, results in results_by_corpus.items() for item in results["backbones"].items()]
    arms = [arm for arm in ARMS if any(arm in backbone["arms"] for _, _, backbone in backbones)]
    differences = list(DIFFERENCES)[:2]
    lines = [
        "| " + " | ".join(["corpus", "model", *arms, *(DIFFERENCES[name] for name in differences)]) + " |",
        "|:--|:--|" + "--:|" * (len(arms) + len(differences)),
    ]
    for corpus, key, backbone in backbones:
        cells = [accuracy_text(backbone["arms"].get(arm, {}).get("mean")) for arm in arms]
        cells += [difference_text(backbone["differences"].get(name, {}).get("mean")) for name in differences]
        lines.append(f"| {corpus} | {name_of(key)} | {' | '.join(cells)} |")
    note = (
        "Mean accuracy over five task families (transcription: 1 − word error rate) with 95 % bootstrap intervals. † not clear of chance: "
        "the interval of accuracy − chance includes zero."
    )
    return "\n".join([*lines, "", note]) + "\n"


if __name__ == "__main__":
    main()
