"""Texts of imported rows: Unicode forms, families, identity of rows, and the summary."""

from __future__ import annotations

import unicodedata
from pathlib import Path
from typing import Any

import pytest

from coat_core.corpus.imported.summary import SUMMARY
from coat_core.storage import read_json
from tests.testing.manifests import corpus_of, import_rows, import_table, write_tones


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write_tones(tmp_path / "data", *(f"{number}.wav" for number in range(12)))
    return tmp_path / "data"


def decomposed(text: str) -> str:
    return unicodedata.normalize("NFD", text)


def test_an_answer_and_its_choices_are_compared_in_one_form(data: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"audio_filepath": "0.wav", "question": "Who?", "answer": decomposed("Zoë"), "choices": ["Zoë", "Chloé"]},
        {"audio_filepath": "1.wav", "question": decomposed("Où?"), "answer": "Zoë", "choices": [decomposed("Zoë"), " Chloé "]},
        {"audio_filepath": "2.wav", "text": decomposed("déjà"), "group": decomposed("José")},
        {"audio_filepath": "3.wav", "text": "vu", "group": "José"},
    ]
    examples = import_rows(data, rows)
    assert [example.choices for example in examples[:2]] == [("Zoë", "Chloé"), ("Zoë", "Chloé")]
    assert (examples[1].question, examples[2].answer, examples[2].group) == ("Où?", "déjà", examples[3].group)
    assert all(example.answer in example.choices for example in examples[:2] if example.choices)


@pytest.mark.parametrize(
    ("row", "family", "task"),
    [
        pytest.param({"question": "Who?", "answer": "Kim"}, "understanding", "understanding", id="question"),
        pytest.param({"question": "Who?", "answer": "a", "choices": ["a", "b"]}, "understanding", "understanding", id="choices"),
        pytest.param({"question": "Who?", "answer": "a", "text": "said"}, "understanding", "understanding", id="question and transcript"),
        pytest.param({"question": "Who?", "answer": "a", "family": None}, "understanding", "understanding", id="family is null"),
        pytest.param({"question": "Who?", "answer": "a", "family": "music"}, "music", "music", id="given family"),
        pytest.param({"question": "What is said?", "answer": "a", "family": "transcription"}, "transcription", "transcription", id="given"),
        pytest.param({"text": "Kim"}, "transcription", "words", id="transcript"),
        pytest.param({"transcript": "Kim", "task": "read"}, "transcription", "read", id="transcript with a task"),
    ],
)
def test_the_family_of_a_row_follows_from_its_texts(data: Path, row: dict[str, Any], family: str, task: str) -> None:
    (example,) = import_rows(data, [{"audio_filepath": "0.wav", **row}])
    assert (example.family, example.task) == (family, task)


def test_the_family_of_a_table_follows_from_its_texts(data: Path) -> None:
    examples = import_table(data, "file_name,question,answer,transcription\n0.wav,Who?,Kim,\n1.wav,,,said\n")
    assert [example.family for example in examples] == ["understanding", "transcription"]


def test_the_summary_counts_families_splits_sources_and_what_is_ignored(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows: list[dict[str, Any]] = [
        {
            "audio_filepath": f"{n}.wav",
            "text": "x",
            "split": "test" if n < 3 else "train",
            "source": "books",
            "pred_text": "y",
            "speaker": 1,
        }
        for n in range(8)
    ]
    rows += [{"audio_filepath": f"{n}.wav", "question": "Who?", "answer": "x", "text": "unused", "extra": None} for n in range(8, 12)]
    import_rows(data, rows)
    printed = capsys.readouterr().out
    assert "imported 12 rows: transcription 8, understanding 4" in printed
    assert "(4 rows by a hash of their group)" in printed
    assert "sources: books 8, rows.jsonl 4" in printed
    assert "ignored keys (rows): pred_text 8, speaker 8, text 4" in printed
    assert "speaker is not used: rename it to group" in printed
    summary = read_json(corpus_of(data) / SUMMARY)
    assert (summary["rows"], summary["families"], summary["split_by_hash"]) == (12, {"transcription": 8, "understanding": 4}, 4)
    assert sum(summary["splits"].values()) == 12
    first = (corpus_of(data) / SUMMARY).read_bytes()
    import_rows(data, rows)
    assert (corpus_of(data) / SUMMARY).read_bytes() == first


def test_whole_numbers_are_ids_and_groups(data: Path) -> None:
    one, other = import_rows(
        data, [{"audio_filepath": "0.wav", "text": "x", "id": 17, "group": 3}, {"audio_filepath": "1.wav", "text": "x", "group": "3"}]
    )
    assert (one.id, one.group, other.id, one.split) == ("17", "3", "row-000002", other.split)


def test_a_plus_sign_in_a_group_separates_nothing(data: Path) -> None:
    splits = ("train", "validation", "test")
    rows = [{"audio_filepath": f"{n}.wav", "text": "x", "group": f"spk{n:02d}+noisy", "split": splits[n % 3]} for n in range(12)]
    assert [example.split for example in import_rows(data, rows)] == [row["split"] for row in rows]
    for row in rows:
        del row["split"]
    assert len({example.split for example in import_rows(data, rows)}) > 1
