"""Gather the results of the evidence workspaces into docs/results/ and write the README's tables from them.

    python benchmarks/evidence.py

`make evidence` calls it last. What stands in the README between the markers is written by this script, and by nothing else.
"""

from __future__ import annotations

from pathlib import Path

from coat_core.report.tables import DIFFERENCES, NAMES, accuracy_text, difference_text, markdown_tables
from coat_core.storage import read_json, write_json, write_text

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "docs/results"
CORPORA = {"generated": "Generated corpus", "recordings": "Real recordings"}
BEGIN, END = "<!-- evidence: begin -->", "<!-- evidence: end -->"


def main() -> None:
    found = {}
    for corpus in CORPORA:
        source = ROOT / "workspaces" / f"evidence-{corpus}" / "report/results.json"
        target = RESULTS / f"evidence-{corpus}.json"
        if source.exists():
            write_json(target, read_json(source))
        if target.exists():
            found[corpus] = read_json(target)
    details = ["# Evidence, in full", "", "Written by `make evidence`; the JSON beside this file holds every number.", ""]
    for corpus, results in found.items():
        details += [f"## {CORPORA[corpus]}", "", markdown_tables(results).replace("\n### ", "\n#### ").replace("### ", "#### ", 1)]
    write_text(RESULTS / "evidence.md", "\n".join(details))
    readme = (ROOT / "README.md").read_text()
    before, rest = readme.split(BEGIN)
    write_text(ROOT / "README.md", before + BEGIN + "\n" + short(found) + END + rest.split(END)[1])


def short(found: dict[str, dict]) -> str:
    """Return the README's tables: mean accuracy by arm, the two differences, and the families that are not clear of chance."""
    lines = ["| corpus | LALM | base | sft | block | coat | coat − sft | coat − block |", "|:--|:--|--:|--:|--:|--:|--:|--:|"]
    unclear = []
    for corpus, results in found.items():
        for key, backbone in results["backbones"].items():
            arms = [backbone["arms"].get(arm) for arm in ("base", "sft", "block", "coat")]
            cells = [accuracy_text(arm["mean"]) if arm else "n/a" for arm in arms]
            cells += [difference_text(backbone["differences"].get(name, {}).get("mean")) for name in list(DIFFERENCES)[:2]]
            lines.append(f"| {corpus} | {NAMES[key]} | {' | '.join(cells)} |")
            for family, entry in backbone["arms"].get("coat", {"families": {}})["families"].items():
                if entry and entry["clear_of_chance"] is False:
                    unclear.append(f"{NAMES[key]} on {family} ({corpus}): {accuracy_text(entry)}")
    lines += ["", "Mean accuracy over the five families (transcription: 1 − WER) with 95 % bootstrap intervals."]
    lines += [
        "",
        "`coat` is not clear of chance (the interval of accuracy − chance reaches zero) for: " + ("; ".join(unclear) or "none") + ".",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
