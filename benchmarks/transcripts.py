"""Ask releases about clips of the test split, drawn by seed, and write every question with every answer.

    python -m benchmarks.transcripts --workspace DIR --release models/qwen2_audio-sft-1 --release … [--per-family 2] [--seed 0]
        [--name transcripts]

Each answer is that of `coat ask RELEASE CLIP QUESTION --choices …`. No item is chosen by its answer. Writes `docs/results/NAME.json` and
`docs/results/NAME.md`.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Sequence
from contextlib import chdir
from pathlib import Path
from typing import Any

from coat_core.ask import Answer, ask
from coat_core.corpus.examples import FAMILIES, Example, read_manifest
from coat_core.evaluation.scorers import Score, score
from coat_core.storage import write_json, write_text

RESULTS = Path(__file__).resolve().parent.parent / "docs/results"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workspace", type=Path, default=Path())
    parser.add_argument("--release", action="append", required=True, help="release folder, relative to the workspace; repeatable")
    parser.add_argument("--per-family", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--name", default="transcripts")
    options = parser.parse_args()
    with chdir(options.workspace):
        chosen = draw(read_manifest(Path("data/accepted.jsonl")), options.per_family, options.seed)
        rows = [_row(example, options.release) for example in chosen]
    write_json(RESULTS / f"{options.name}.json", {"seed": options.seed, "releases": options.release, "items": rows})
    text = table(rows)
    write_text(RESULTS / f"{options.name}.md", text)
    sys.stdout.write(text)


def draw(examples: Sequence[Example], per_family: int, seed: int) -> list[Example]:
    """Return `per_family` items of the test split from each family, of different clips."""
    found: list[Example] = []
    for family in FAMILIES:
        rows = [example for example in examples if example.split == "test" and example.family == family]
        random.Random(f"{seed}/{family}").shuffle(rows)
        one_per_clip = {example.sha256: example for example in reversed(rows)}
        found += [example for example in rows if one_per_clip[example.sha256] is example][:per_family]
    return found


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Return the rows as a Markdown table; ✓ marks the answers with full score."""
    releases = list(rows[0]["answers"])
    lines = [
        "| family | question | choices | right | " + " | ".join(Path(release).name for release in releases) + " |",
        "|:--" * (4 + len(releases)) + "|",
    ]
    for row in rows:
        answers = [f"{answer['text'].strip() or '(empty)'}{' ✓' if answer['score'] == 1.0 else ''}" for answer in row["answers"].values()]
        lines.append(
            "| " + " | ".join([row["family"], row["question"], ", ".join(row["choices"] or ("open",)), row["answer"], *answers]) + " |"
        )
    return "\n".join(lines) + "\n"


def _row(example: Example, releases: Sequence[str]) -> dict[str, Any]:
    answers: dict[str, dict[str, Any]] = {}
    for release in releases:
        given: list[Answer] = []
        ask(release, Path("data/corpus") / example.audio, example.question, choices=example.choices, report=given.append)
        found = score(example, given[0].answer)
        value = found.value if isinstance(found, Score) else None
        answers[release] = {"text": given[0].answer, "score": value, "finished": given[0].finished, "seconds": given[0].seconds}
    kept = ("id", "family", "task", "question", "choices", "answer", "source")
    return {**{name: getattr(example, name) for name in kept}, "answers": answers}


if __name__ == "__main__":
    main()
