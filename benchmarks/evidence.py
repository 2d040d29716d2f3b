"""Copy the results of the evidence workspaces to docs/results/ and write the tables of the README.

    python -m benchmarks.evidence

`make evidence` runs this script last. It replaces the text between the markers in the README; do not edit that text by hand.
"""

from __future__ import annotations

from pathlib import Path

from coat_core.report.tables import DIFFERENCES, accuracy_text, difference_text, markdown_tables, name_of
from coat_core.settings import ARMS
from coat_core.storage import read_json, write_json, write_text

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "docs/results"
CORPORA = {"generated": "Generated corpus", "recordings": "Real recordings"}
BEGIN, END = "<!-- evidence: begin -->", "<!-- evidence: end -->"


def main() -> None:
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
    write_text(RESULTS / "evidence.md", "\n".join(details))
    readme = (ROOT / "README.md").read_text()
    before, rest = readme.split(BEGIN)
    write_text(ROOT / "README.md", before + BEGIN + "\n" + short(results_by_corpus) + END + rest.split(END)[1])


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
