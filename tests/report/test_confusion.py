"""Which choice was answered where another was right."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from coat_core.evaluation.responses import Response, write_responses
from coat_core.report.confusion import COLUMNS, UNSCORED, confusion_rows
from tests.testing.evaluations import make_example

RESULTS: dict[str, Any] = {
    "measured": {"split": "test"},
    "backbones": {"qwen2_audio": {"arms": {"base": {"seeds": {"0": {}}}, "coat": {"seeds": {"0": {}, "1": {}}}}}},
}


def answer(workspace: Path, trial: str, responses: list[Response]) -> None:
    write_responses(workspace / f"responses/qwen2_audio-{trial}.jsonl", responses)


def test_pairs_of_right_and_answered_choice_are_counted_by_trial(tmp_path: Path) -> None:
    examples = [
        *(make_example(number, task="instrument", answer="A Horn" if number < 3 else "a bell") for number in range(5)),
        make_example(5, task="present", choices=("yes", "no"), answer="no"),
        make_example(6, task="many", choices=tuple(f"sound {number}" for number in range(13)), answer="sound 1"),
        make_example(7, "transcription"),
        make_example(8, split="train", task="instrument"),
    ]
    ids = [example.id for example in examples if example.split == "test"]
    horns = ["a horn", "It is a drum.", "a horn", "a flute", "I cannot say"]
    answer(tmp_path, "base-0", [Response(id=name, response="a bell") for name in ids])
    own = [Response(id=name, response=text) for name, text in zip(ids, [*horns, "no", "sound 1", "one two three"], strict=True)]
    answer(tmp_path, "coat-0", [*own, Response(id=ids[0], response="a flute", audio="other")])
    answer(tmp_path, "coat-1", own[:1])
    rows = [dict(zip(COLUMNS, row, strict=True)) for row in confusion_rows(tmp_path, RESULTS, examples)]
    assert {(row["backbone"], row["task"]) for row in rows} == {("qwen2_audio", "instrument")}
    assert {row["trial"]: row["arm"] for row in rows} == {"base-0": "base", "coat-0": "coat", "coat-1": "coat"}
    found = {(row["trial"], row["right"], row["answered"]): row["count"] for row in rows}
    assert found == {
        ("base-0", "a bell", "a bell"): 2,
        ("base-0", "a horn", "a bell"): 3,
        ("coat-0", "a bell", UNSCORED): 1,
        ("coat-0", "a bell", "a flute"): 1,
        ("coat-0", "a horn", "a drum"): 1,
        ("coat-0", "a horn", "a horn"): 2,
        ("coat-1", "a horn", "a horn"): 1,
    }


def test_choices_that_differ_between_questions_are_one_set(tmp_path: Path) -> None:
    examples = [make_example(number, task="pair", choices=(f"n{number}", f"n{number + 1}"), answer=f"n{number}") for number in range(3)]
    results = {"measured": {"split": "test"}, "backbones": {"qwen2_audio": {"arms": {"base": {"seeds": {"0": {}}}}}}}
    answer(tmp_path, "base-0", [Response(id=example.id, response=example.label) for example in examples])
    assert [row[3:] for row in confusion_rows(tmp_path, results, examples)] == [("pair", f"n{n}", f"n{n}", 1) for n in range(3)]
