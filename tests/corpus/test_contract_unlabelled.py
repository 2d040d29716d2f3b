"""The data contract of unlabelled rows: checked for everything except the answer, counted apart, in the split train only."""

from __future__ import annotations

from pathlib import Path

import pytest

from coat_core.corpus.examples import FAMILIES, read_manifest
from coat_core.errors import ContractError
from coat_core.settings import ContractSettings
from coat_core.storage import read_json, read_jsonl
from tests.testing.contract_corpora import LENIENT, STRICT, Row, make_corpus, run, write_rows

pytestmark = pytest.mark.slow

EVERYTHING = ContractSettings(max_bad_share=1.0, family_imbalance=1000.0)
NULL: Row = {"answer": None, "choices": None, "question": "Describe the audio."}


def reasons_of(folder: Path) -> dict[str, list[str]]:
    return {row["id"]: row["reasons"] for row in read_jsonl(folder / "quarantine.jsonl")}


def test_unlabelled_rows_are_accepted_and_counted_apart(tmp_path: Path) -> None:
    rows = make_corpus(tmp_path)
    music = next(row for row in rows if (row["split"], row["family"]) == ("train", "music"))
    added = [{**music, **NULL, "id": f"more-{number}"} for number in range(9)]
    result = run(tmp_path, [*rows, *added], STRICT)
    assert (result.passed, result.accepted, result.counts["train"]["music"]) == (True, 39, 2)
    assert result.unlabelled == {"train": {"music": 9}, "validation": {}, "test": {}}
    assert read_json(tmp_path / "contract/results.json")["unlabelled"] == result.unlabelled
    assert result.summary().endswith("set aside: 0; unlabelled (distillation only): music 9")
    assert "<td>train, unlabelled</td>" in (tmp_path / "contract/contract.html").read_text()
    assert sum(not example.labelled for example in read_manifest(tmp_path / "accepted.jsonl")) == 9


def test_labelled_rows_alone_are_balanced(tmp_path: Path) -> None:
    rows = make_corpus(tmp_path)
    for row in rows:
        if (row["split"], row["family"]) == ("train", "music"):
            row |= NULL
    with pytest.raises(ContractError, match="balanced_families in train: the largest family has inf times the rows of the smallest"):
        run(tmp_path, rows, STRICT)
    result = read_json(tmp_path / "contract/results.json")
    assert result["unlabelled"]["train"] == {"music": 2}
    assert result["counts"]["train"] == {family: 2 for family in sorted(FAMILIES) if family != "music"}


def test_a_corpus_without_unlabelled_rows_is_reported_as_before(tmp_path: Path) -> None:
    result = run(tmp_path, make_corpus(tmp_path), STRICT)
    assert result.unlabelled == {"train": {}, "validation": {}, "test": {}}
    assert "unlabelled" not in result.summary()
    assert ", unlabelled</td>" not in (tmp_path / "contract/contract.html").read_text()


def test_an_unlabelled_row_is_checked_for_everything_except_the_answer(tmp_path: Path) -> None:
    changes: dict[str, Row] = {
        "labelled": {}, "good": NULL, "good with choices": {**NULL, "choices": ["a", "b"]},
        "hash": {**NULL, "sha256": "0" * 64}, "duration": {**NULL, "duration_s": 2.0}, "rate": {**NULL, "sample_rate_hz": 8000},
        "choices": {**NULL, "choices": ["a", "A."]}, "blank question": {**NULL, "question": " "}, "missing": {**NULL, "audio": "audio/x"},
        "blank answer": {"answer": ""}, "family": {**NULL, "family": "noise"},
    }  # fmt: skip
    result = run(tmp_path, write_rows(tmp_path, changes), EVERYTHING)
    assert result.unlabelled["train"] == {"understanding": 2}
    found = reasons_of(tmp_path)
    assert {name: [reason.split(":")[0] for reason in reasons] for name, reasons in found.items()} == {
        "hash": ["hash"], "duration": ["manifest_duration"], "rate": ["manifest_rate"], "choices": ["answer_in_choices"],
        "blank question": ["schema"], "missing": ["file_present"], "blank answer": ["schema"], "family": ["schema"],
    }  # fmt: skip


@pytest.mark.parametrize("split", ["validation", "test"])
def test_an_unlabelled_row_of_another_split_is_set_aside_by_name(tmp_path: Path, split: str) -> None:
    rows = make_corpus(tmp_path)
    row = next(row for row in rows if row["split"] == split)
    row |= NULL
    result = run(tmp_path, rows, LENIENT)
    assert (result.accepted, result.unlabelled["train"]) == (29, {})
    reason = (
        f"unlabelled_in_train: an unlabelled example cannot be evaluated: the answer is null in the split {split}, allowed split: train"
    )
    assert reasons_of(tmp_path) == {row["id"]: [reason]}


@pytest.mark.parametrize("many", [1, 20])
def test_unlabelled_audio_of_a_held_out_group_is_set_aside_however_much_there_is(tmp_path: Path, many: int) -> None:
    rows = make_corpus(tmp_path)
    source = next(row for row in rows if row["split"] == "train")
    tested = next(row for row in rows if row["split"] == "test")
    same_group = [{**source, **NULL, "id": f"group-{number}", "group": tested["group"]} for number in range(many)]
    audio = {key: tested[key] for key in ("audio", "sha256", "duration_s")}
    same_audio = [{**source, **NULL, "id": f"audio-{number}", **audio} for number in range(many)]
    settings = ContractSettings(max_bad_share=0.9)
    result = run(tmp_path, [*rows, *same_group, *same_audio], settings)
    assert (result.accepted, result.unlabelled["train"], result.quarantined) == (30, {}, 2 * many)
    for name, reasons in reasons_of(tmp_path).items():
        assert reasons == (
            [f"group_in_one_split: group {tested['group']} (its split is test)"]
            if name.startswith("group")
            else ["audio_in_one_split: the audio is in two splits: its split is test"]
        )


def test_a_training_split_without_labels_does_not_pass(tmp_path: Path) -> None:
    rows = make_corpus(tmp_path)
    for row in rows:
        if row["split"] == "train":
            row |= NULL
    with pytest.raises(ContractError, match="no accepted row of the split train has an answer"):
        run(tmp_path, rows, STRICT)
    assert not (tmp_path / "accepted.jsonl").exists()
    with pytest.raises(ContractError) as raised:
        run(tmp_path, [row for row in rows if row["split"] == "train"], STRICT)
    assert "no row is valid" not in str(raised.value)
