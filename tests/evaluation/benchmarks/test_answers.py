"""A model answers the miniatures of all benchmarks: neither order, batch size nor an interruption changes a response."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from coat_core.backbones.base import Backbone, Query
from coat_core.backbones.catalogue import load_backbone
from coat_core.errors import EvaluationError
from coat_core.evaluation.benchmarks.answers import RECORD, RESPONSES, Answerer, answer_questions, read_state
from coat_core.evaluation.benchmarks.catalogue import SUITES, find_suite
from coat_core.evaluation.benchmarks.item_files import read_items
from coat_core.evaluation.benchmarks.prepared import SuiteChoice, prepare
from coat_core.evaluation.benchmarks.questions import QuestionSet, read_questions
from coat_core.evaluation.benchmarks.results import write_result
from coat_core.storage import read_json, read_jsonl
from tests.testing.benchmark_miniatures import ITEMS, clip_bytes, write_miniature

TOKENS = 6


@pytest.fixture(scope="module")
def backbone(tiny_bases: dict[str, Path]) -> Backbone:
    return load_backbone("qwen2_audio", str(tiny_bases["qwen2_audio"]))


class Prepared:
    """A miniature in a folder, prepared for models and scorers."""

    def __init__(self, name: str, folder: Path) -> None:
        self.folder, self.name = folder, name
        self.data = write_miniature(name, folder / "data")
        self.choice = SuiteChoice(str(self.data), accept_licence=True)
        self.again()

    def again(self, **changes: Any) -> QuestionSet:
        prepare(find_suite(self.name), replace(self.choice, **changes), TOKENS, self.folder / "questions", self.folder / "items")
        self.asked = read_questions(self.folder / "questions")
        return self.asked

    def answer(self, model: Answerer, name: str = "answers", asked: QuestionSet | None = None) -> dict[str, dict[str, Any]]:
        target, state = self.folder / name, self.folder / f"{name}.jsonl"
        rows = answer_questions(
            asked or self.asked, self.folder / "questions", self.data, model, target, state, {"model": "m"}, progress=False
        )
        assert rows == read_jsonl(target / RESPONSES)
        return {row["id"]: row for row in rows}


class Stopped(Answerer):
    """A model that is interrupted at its second batch."""

    calls = 0

    def answer(self, queries: Sequence[Query], max_new_tokens: int) -> list[dict[str, Any]]:
        Stopped.calls += 1
        if Stopped.calls == 2:
            raise KeyboardInterrupt
        return super().answer(queries, max_new_tokens)


@pytest.mark.parametrize("name", SUITES)
def test_order_batch_size_and_resuming_change_nothing(name: str, tmp_path: Path, backbone: Backbone) -> None:
    made = Prepared(name, tmp_path)
    asked = made.asked
    whole = made.answer(Answerer(backbone, batch_size=8))
    assert sum("response" in row for row in whole.values()) == ITEMS
    assert made.answer(Answerer(backbone, batch_size=1), "alone") == whole
    shuffled = replace(asked, questions=tuple(random.Random(1).sample(asked.questions, len(asked.questions))))
    assert made.answer(Answerer(backbone, batch_size=8), "shuffled", shuffled) == whole
    Stopped.calls = 0
    with pytest.raises(KeyboardInterrupt):
        made.answer(Stopped(backbone, batch_size=1), "resumed")
    assert not (tmp_path / "resumed").exists()
    assert len(read_state(tmp_path / "resumed.jsonl")) == 1
    with (tmp_path / "resumed.jsonl").open("a") as stream:
        stream.write('{"id": "half')
    resumed = made.answer(Stopped(backbone, batch_size=1), "resumed")
    assert (resumed, Stopped.calls) == (whole, 1 + ITEMS), "the first batch is not computed again"
    assert (tmp_path / "resumed" / RESPONSES).read_bytes() == (tmp_path / "alone" / RESPONSES).read_bytes()
    # What the scorers need is in the folder of items, without the published files.
    loaded = read_items(tmp_path / "items")
    assert loaded.items == made.choice.load(find_suite(name)).items
    result = write_result(loaded, tmp_path / "answers", tmp_path / "result")
    assert len(result.rows) == len(asked.questions)
    written = read_json(tmp_path / "result/result.json")
    assert [item["id"] for item in written["items"]] == sorted(whole)
    assert all(item["prompt"] for item in written["items"])


def test_the_record_says_how_responses_were_made(tmp_path: Path, backbone: Backbone) -> None:
    made = Prepared("mmau", tmp_path)
    made.answer(Answerer(backbone, batch_size=2))
    record = read_json(tmp_path / "answers" / RECORD)
    assert record["decoding"] == {"method": "greedy", "batch_size": 2}
    assert (record["suite"], record["split"], record["max_new_tokens"], record["model"]) == ("mmau", "test-mini", TOKENS, "m")
    assert {"transformers", "torch", "peft", "coat"} <= record["versions"].keys()
    result = write_result(read_items(tmp_path / "items"), tmp_path / "answers", tmp_path / "result")
    written = read_json(tmp_path / "result/result.json")
    assert written["record"] == {**record, "judge": None}
    assert written["data"]["md5"] == result.loaded.version.md5
    facts = read_json(tmp_path / "items/suite.json")
    assert "110127f" in facts["origin"]
    assert (facts["source"], facts["limit"]) == (str(made.data), None)


def test_a_long_clip_is_cut_and_an_unreadable_one_is_not_asked(tmp_path: Path, backbone: Backbone) -> None:
    made = Prepared("mmau", tmp_path)
    longest = backbone.longest_clip / 16_000
    clips = made.data / "test-mini-audios"
    (clips / "m0.wav").write_bytes(clip_bytes(0, seconds=longest + 1))
    (clips / "m1.wav").write_bytes(b"RIFF, and no audio")
    made.again()
    rows = made.answer(Answerer(backbone))
    assert rows["m0"]["cut_s"] == longest
    assert "response" in rows["m0"]
    assert set(rows["m1"]) == {"id", "skipped"}
    assert str(tmp_path) not in rows["m1"]["skipped"]
    result = write_result(read_items(tmp_path / "items"), tmp_path / "answers", tmp_path / "result")
    assert result.official.left_out == {"missing": 1}
    assert result.strict.unscored >= 1
    assert read_json(tmp_path / "result/result.json")["responses"] == {"not_asked": 1, "clips_cut": 1, "unfinished": sum(
        row.get("finished") is False for row in rows.values())}  # fmt: skip


def test_a_prompt_that_is_too_long_is_not_asked_and_the_others_are(tmp_path: Path, backbone: Backbone) -> None:
    made = Prepared("mmau", tmp_path)
    path = made.data / "mmau-test-mini.json"
    rows = json.loads(path.read_text())
    rows[1]["question"] = "What is it? " * 4000
    path.write_text(json.dumps(rows))
    made.again()
    answered = made.answer(Answerer(backbone))
    assert "too long" in answered["m1"]["skipped"]
    assert sum("response" in row for row in answered.values()) == ITEMS - 1


def test_clips_that_cannot_all_be_read_are_an_error(tmp_path: Path) -> None:
    made = Prepared("gtzan", tmp_path)
    for clip in made.data.rglob("*.wav"):
        clip.write_bytes(b"no audio")
    with pytest.raises(EvaluationError, match="no clip of GTZAN genres can be read"):
        made.again()


@pytest.mark.parametrize("name", [name for name in SUITES if name not in ("alpaca_audio", "voicebench_mcq")])
def test_missing_clips_are_counted_and_named(name: str, tmp_path: Path) -> None:
    made = Prepared(name, tmp_path)
    for clip in [*made.data.rglob("*.wav"), *made.data.rglob("*.flac")]:
        clip.unlink()
    with pytest.raises(EvaluationError, match=f"{ITEMS} of {ITEMS} clips are missing") as caught:
        made.again()
    assert find_suite(name).layout.origin in str(caught.value)


def test_another_clip_than_the_prepared_one_is_an_error(tmp_path: Path, backbone: Backbone) -> None:
    made = Prepared("mmau", tmp_path)
    (made.data / "test-mini-audios/m2.wav").write_bytes(clip_bytes(9))
    with pytest.raises(EvaluationError, match="the clip of m2 is missing or is another one"):
        made.answer(Answerer(backbone))


def test_a_limit_takes_the_same_items_whatever_their_order(tmp_path: Path) -> None:
    made = Prepared("voicebench_mcq", tmp_path)
    chosen = made.again(limit=2)
    assert len(chosen.questions) == 2
    made.again()
    assert {question.id for question in chosen.questions} < {question.id for question in made.asked.questions}
    by_id = {question.id: question.sha256 for question in made.asked.questions}
    assert all(by_id[question.id] == question.sha256 for question in chosen.questions), "a clip stays with its row"


def test_a_corrected_answer_leaves_the_questions_as_they_are(tmp_path: Path) -> None:
    made = Prepared("mmau", tmp_path)
    before = [
        (path / name).read_bytes() for path, name in ((tmp_path / "questions", "questions.json"), (tmp_path / "items", "items.jsonl"))
    ]
    rows = json.loads((made.data / "mmau-test-mini.json").read_text())
    rows[0]["answer"] = "bell"
    (made.data / "mmau-test-mini.json").write_text(json.dumps(rows))
    made.again()
    assert (tmp_path / "questions/questions.json").read_bytes() == before[0]
    assert (tmp_path / "items/items.jsonl").read_bytes() != before[1]
