"""MMAR: multiple-choice questions that need reasoning over sound, music, speech and mixtures (ddlBoJack/MMAR)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from coat_core.evaluation.benchmarks.data import Layout, read_rows, require_fields
from coat_core.evaluation.benchmarks.items import BenchmarkItem, answer_position
from coat_core.evaluation.benchmarks.rules.word_sets import word_set_verdict
from coat_core.evaluation.benchmarks.suite import Licence, Suite

_FIELDS = ("id", "audio_path", "question", "choices", "answer", "modality", "category")
LAYOUT = Layout(
    files={"test": ("MMAR-meta.jsonl|MMAR-meta.json",)},
    origin="github.com/ddlBoJack/MMAR at 3bce090 (clips: hub data set BoJack/MMAR)",
    hub="BoJack/MMAR",
    audio="audio/<id>.wav",
)


def _read(files: Sequence[Path], folder: Path, split: str) -> list[BenchmarkItem]:
    rows = read_rows(files[0], LAYOUT)
    require_fields(rows, _FIELDS, files[0], LAYOUT)
    return [
        BenchmarkItem(
            str(row["id"]),
            row["question"],
            tuple(row["choices"]),
            row["answer"],
            row["audio_path"],
            {**{name: str(row[name]) for name in ("modality", "category")}, "answer position": answer_position(row)},
        )
        for row in rows
    ]


def prompt(item: BenchmarkItem) -> str:
    """Return the prompt of issue 3: question, one sentence, and a choice a line."""
    return "\n".join((item.question, "Select one option from the provided choices:", *item.options))


MMAR = Suite(
    name="mmar",
    title="MMAR",
    layout=LAYOUT,
    licence=Licence("CC BY-NC 4.0 (card of the data set)", "forbidden"),
    read=_read,
    prompt=prompt,
    prompt_source="ddlBoJack/MMAR issue 3",
    rule_of=lambda folder: word_set_verdict,
    rule_name="ddlBoJack/MMAR 3bce090 code/evaluation.py",
    metric="accuracy over items",
    denominator="rows with a response; an absent row is left out, null stops the script",
    groups=("modality", "category", "answer position"),
)
