"""MMAU: multiple-choice questions on sound, music and speech (Sakshi113/MMAU, version v05.15.25)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from coat_core.evaluation.benchmarks.data import Layout, read_rows, require_fields
from coat_core.evaluation.benchmarks.items import BenchmarkItem, answer_position
from coat_core.evaluation.benchmarks.rules.word_sets import word_set_verdict
from coat_core.evaluation.benchmarks.suite import Licence, Suite

_FIELDS = ("id", "audio_id", "question", "choices", "task", "difficulty", "sub-category")
LAYOUT = Layout(
    files={"test-mini": ("mmau-test-mini.json",), "test": ("mmau-test.json",)},
    origin="github.com/Sakshi113/MMAU at 110127f (clips: the archive named there)",
    hub="gamma-lab-umd/MMAU-test-mini",
    audio="test-mini-audios/<id>.wav",
    checked={"test-mini": "44d2a892a30a59dc13a4f9a95d4d130c"},
)


def _read(files: Sequence[Path], folder: Path, split: str) -> list[BenchmarkItem]:
    rows = read_rows(files[0], LAYOUT)
    require_fields(rows, _FIELDS, files[0], LAYOUT)
    return [
        BenchmarkItem(
            str(row["id"]),
            row["question"],
            tuple(row["choices"]),
            row.get("answer"),
            row["audio_id"],
            {**{name: str(row[name]) for name in ("task", "difficulty", "sub-category")}, "answer position": answer_position(row)},
        )
        for row in rows
    ]


def prompt(item: BenchmarkItem) -> str:
    """Return the prompt that the authors give in issue 3; how the choices are printed is not said there: here with commas."""
    return f"\n{item.question}  Select one option from the provided choices.\n{', '.join(item.options)}."


MMAU = Suite(
    name="mmau",
    title="MMAU",
    layout=LAYOUT,
    licence=Licence("questions Apache-2.0; cards of the clips: CC BY-NC 4.0 by third-party lists", "unclear"),
    read=_read,
    prompt=prompt,
    prompt_source="Sakshi113/MMAU issue 3; the printing of the choices is ours",
    rule_of=lambda folder: word_set_verdict,
    rule_name="Sakshi113/MMAU 110127f evaluation.py",
    metric="accuracy over items",
    denominator="rows with a response; an absent row is left out, null stops the script",
    groups=("task", "difficulty", "sub-category", "answer position"),
)
