"""Unlabelled rows of manifests and audio folders: explicit in every layout, in the split train only, never of a held-out group."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from coat_core.corpus.splits import place_unlabelled
from coat_core.corpus.unlabelled import QUESTION, TASK
from coat_core.errors import CorpusError
from coat_core.storage import read_json
from tests.testing.manifests import corpus_of, import_rows, import_table, import_text, write_tones

NULL = {"answer": None}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    data = tmp_path / "data"
    data.mkdir()
    write_tones(data, "a.wav", "b.wav", "c.wav", "d.wav")
    return data


UNLABELLED: dict[str, tuple[str, dict[str, Any]]] = {
    "null": ("jsonl", NULL),
    "null question": ("jsonl", {**NULL, "question": None, "text": None}),
    "labelled false": ("jsonl", {"labelled": False}),
    "labeled false and null": ("jsonl", {"labeled": False, **NULL}),
    "csv": ("csv", {"labelled": "false"}),
    "csv with empty cells": ("csv", {"labelled": "False", "answer": "", "question": "", "text": ""}),
    "tsv": ("tsv", {"labelled": "FALSE"}),
}


def import_row(folder: Path, layout: str, row: dict[str, Any]) -> Any:
    rows = [{"audio_filepath": "a.wav", "text": "a word", "split": "train"}, {"audio_filepath": "b.wav", **row}]
    if layout == "jsonl":
        return import_rows(folder, rows)[1]
    delimiter = {"csv": ",", "tsv": "\t"}[layout]
    rows[0] |= {"labelled": "true"} if "labelled" in row else {}
    columns = list(dict.fromkeys(key for row in rows for key in row))
    lines = [delimiter.join(columns), *(delimiter.join(str(row.get(column, "")) for column in columns) for row in rows)]
    return import_text(folder, "\n".join(lines) + "\n", f"rows.{layout}")[1]


@pytest.mark.parametrize("case", UNLABELLED)
def test_an_unlabelled_row_gets_a_neutral_question(folder: Path, case: str) -> None:
    layout, row = UNLABELLED[case]
    example = import_row(folder, layout, row)
    assert (example.answer, example.choices, example.question, example.prompt) == (None, None, QUESTION, QUESTION)
    assert (example.family, example.task, example.split) == ("understanding", TASK, "train")


def test_the_fields_of_an_unlabelled_row_are_kept(folder: Path) -> None:
    row = {
        **NULL,
        "question": "Which?",
        "choices": ["x", "y"],
        "family": "music",
        "task": "kind",
        "group": "g",
        "id": "i",
        "split": "train",
    }
    example = import_row(folder, "jsonl", row)
    assert (example.prompt, example.answer) == ("Which? Choices: x, y.", None)
    assert (example.family, example.task, example.group, example.id) == ("music", "kind", "g", "i")


REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "no key": ("jsonl", {}, "neither a transcription nor an answer is given, .* distillation only, answer: null"),
    "null transcript": ("jsonl", {"text": None}, "neither a transcription nor an answer is given"),
    "empty text": ("jsonl", {"answer": "", "question": "q"}, "answer is '', allowed: text that is not blank"),
    "false": ("jsonl", {"answer": False, "question": "q"}, "answer is False, allowed: text"),
    "empty cell": ("csv", {"text": ""}, "neither a transcription nor an answer is given, .* distillation only, labelled = false"),
    "question with an empty cell": ("csv", {"question": "q", "answer": ""}, "neither a transcription nor an answer is given"),
    "test": ("jsonl", {**NULL, "split": "test"}, "the row is unlabelled in the split 'test': it cannot be evaluated, allowed split: train"),
    "validation": ("csv", {"labelled": "false", "split": "validation"}, "the row is unlabelled in the split 'validation'"),
    "false with an answer": ("jsonl", {"labelled": False, "text": "a"}, "labelled is false, but an answer or a transcription is given"),
    "true with null": ("jsonl", {"labelled": True, **NULL}, "neither a transcription nor an answer is given"),
    "another value": ("csv", {"labelled": "maybe"}, "labelled is 'maybe', allowed: true, false"),
    "a number": ("jsonl", {"labelled": 0, "text": "a"}, "labelled is 0, allowed: true, false"),
    "null answer of a question with a transcript": ("jsonl", {**NULL, "question": "q", "text": "a"}, "question and answer must be given"),
    "choices without a question": ("jsonl", {**NULL, "choices": ["a", "b"]}, "choices are given without a question"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_row_without_an_answer_is_never_unlabelled_by_accident(folder: Path, case: str) -> None:
    layout, row, words = REFUSED[case]
    with pytest.raises(CorpusError, match=f"row 2: .*{words}"):
        import_row(folder, layout, row)


def test_a_null_answer_beside_a_transcript_or_a_chat_is_a_missing_value(folder: Path) -> None:
    turns = [{"role": "user", "content": "<audio>Who?"}, {"role": "assistant", "content": "Kim"}]
    rows = [{"audio_filepath": "a.wav", "text": "hello", **NULL}, {"messages": turns, "audios": ["b.wav"], "question": None, **NULL}]
    assert [(e.question, e.answer) for e in import_rows(folder, rows)] == [("What is said?", "hello"), ("Who?", "Kim")]


def test_the_folder_of_a_split_allows_unlabelled_rows_in_train_only(tmp_path: Path) -> None:
    data = tmp_path / "data"
    write_tones(data, "train/a.wav", "test/b.wav", "train/c.wav")
    table = "file_name,transcription,labelled\ntrain/a.wav,a word,\ntest/b.wav,another,\n"
    assert [e.labelled for e in import_table(data, f"{table}train/c.wav,,false\n")] == [True, True, False]
    with pytest.raises(CorpusError, match="the row is unlabelled in a folder of the split test"):
        import_table(data, "file_name,transcription,labelled\ntrain/a.wav,a word,\ntest/b.wav,,false\n")


def test_labelled_clips_per_family_applies_to_a_manifest(folder: Path) -> None:
    rows = [{"audio_filepath": f"{name}.wav", "text": name, "split": "train", "family": "music"} for name in "aabbcd"]
    examples = import_rows(folder, rows, labelled_clips_per_family=2)
    assert len({e.sha256 for e in examples}) == 4
    assert len({e.sha256 for e in examples if e.labelled}) == 2
    assert sum(not e.labelled for e in examples) == 2


def test_unlabelled_rows_of_a_held_out_group_are_set_aside_and_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        {"audio_filepath": "a.wav", "text": "a", "group": "one", "split": "test"},
        {"audio_filepath": "b.wav", "group": "one", "id": "same group", **NULL},
        {"audio_filepath": "b.wav", "group": "two", "id": "audio of the group", **NULL},
        {"audio_filepath": "c.wav", "group": "three", "id": "free", **NULL},
    ]
    assert [(e.id, e.split) for e in import_rows(folder, rows)] == [("row-000001", "test"), ("free", "train")]
    corpus = corpus_of(folder)
    assert len(list((corpus / "audio").iterdir())) == 2
    summary = read_json(corpus / "import.json")
    assert (summary["rows"], summary["unlabelled"], summary["split_by_hash"]) == (2, 1, 0)
    assert summary["unlabelled_set_aside"] == ["same group", "audio of the group"]
    printed = capsys.readouterr().out
    assert "unlabelled: 1 rows without an answer take part in distillation only" in printed
    assert "set aside: 2 unlabelled rows whose group, audio or file is in validation or test: same group, audio of the group" in printed


def test_the_summary_of_labelled_rows_has_no_further_keys(folder: Path) -> None:
    import_rows(folder, [{"audio_filepath": "a.wav", "text": "a"}])
    assert not {"unlabelled", "unlabelled_set_aside"} & set(read_json(corpus_of(folder) / "import.json"))


ABSENT = object()
LAYOUTS = ("rows.jsonl", "rows.json", "rows.csv", "rows.tsv", "metadata.jsonl", "metadata.csv")
FIELDS: dict[str, list[Any]] = {
    "answer": [None, "", "x"], "transcription": [None, "", "y"], "question": [None, "q"], "labelled": [None, True, False, "false"],
    "split": [None, "train", "test"],
}  # fmt: skip


@settings(derandomize=True, deadline=None, max_examples=150, suppress_health_check=list(HealthCheck))
@given(name=st.sampled_from(LAYOUTS), fields=st.fixed_dictionaries({key: st.sampled_from([ABSENT, *FIELDS[key]]) for key in FIELDS}))
def test_in_every_layout_a_row_is_unlabelled_only_if_it_says_so(
    tmp_path_factory: pytest.TempPathFactory, name: str, fields: dict[str, Any]
) -> None:
    data = tmp_path_factory.mktemp("layouts") / "data"
    data.mkdir()
    write_tones(data, "a.wav")
    table = name.endswith("sv")
    row = {"file_name": "a.wav", **{key: value for key, value in fields.items() if value is not ABSENT}}
    present = {key: value for key, value in row.items() if value not in ((None, "") if table else (None,))}
    answers = {present[key] for key in ("answer", "transcription") if key in present}
    stated = str(present.get("labelled", "")).lower() == "false" or (not table and row.get("answer", "") is None)
    columns, cells = zip(*((key, "" if value is None else str(value)) for key, value in row.items()), strict=True)
    delimiter = "\t" if name.endswith("tsv") else ","
    text = f"{delimiter.join(columns)}\n{delimiter.join(cells)}\n" if table else json.dumps([row] if name == "rows.json" else row)
    try:
        (example,) = (import_table if name.startswith("metadata") else import_text)(data, text, name)
    except CorpusError:
        assert answers or not stated or present.get("labelled") is True or present.get("split") == "test"
        return
    assert example.labelled != (stated and not answers)
    assert example.answer in (answers or {None})
    assert example.labelled or example.split == "train"


KEYS = st.lists(st.sampled_from("abcdef"), min_size=1, max_size=3)
SPLIT = st.sampled_from(["train", "validation", "test", None])


@settings(derandomize=True, deadline=None, max_examples=200)
@given(rows=st.lists(st.tuples(KEYS, SPLIT), max_size=12))
def test_no_unlabelled_row_is_connected_to_a_held_out_row(rows: list[tuple[list[str], Any]]) -> None:
    keys, known = [row[0] for row in rows], [row[1] for row in rows]
    placed = place_unlabelled(keys, known)
    held_out = {key for (names, split) in rows if split in ("validation", "test") for key in names}
    while any(held_out & set(names) and not held_out >= set(names) for names in keys):
        held_out.update(*(names for names in keys if held_out & set(names)))
    for names, split, result in zip(keys, known, placed, strict=True):
        assert result == (split or (None if held_out & set(names) else "train"))


@settings(derandomize=True, deadline=None, max_examples=25, suppress_health_check=list(HealthCheck))
@given(added=st.lists(st.tuples(st.sampled_from("abcd"), st.integers(0, 9)), min_size=1, max_size=8))
def test_unlabelled_rows_do_not_change_the_splits_of_labelled_rows(
    tmp_path_factory: pytest.TempPathFactory, added: list[tuple[str, int]]
) -> None:
    data = tmp_path_factory.mktemp("layout") / "data"
    data.mkdir()
    write_tones(data, *(f"{number}.wav" for number in range(7)), *(f"{name}.wav" for name in "abcd"))
    rows = [{"audio_filepath": f"{n}.wav", "text": f"word {n}", "group": f"g{n}", "id": f"l{n}"} for n in range(7)]
    alone = {e.id: e for e in import_rows(data, rows)}
    more = [{"audio_filepath": f"{name}.wav", "group": f"g{number}", **NULL} for name, number in added]
    both = import_text(data, json.dumps([*more, *rows]), "rows.json")
    assert {e.id: e for e in both if e.labelled} == {i: e.model_copy(update={"source": "rows.json"}) for i, e in alone.items()}
    split = {e.group: e.split for e in alone.values()}
    assert all(e.split == split.get(e.group, "train") == "train" for e in both if not e.labelled)
