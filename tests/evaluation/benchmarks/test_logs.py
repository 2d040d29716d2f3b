"""Logs of other harnesses: their layouts as the harnesses write them, how rows find items, and the scores beside ours."""

from __future__ import annotations

import csv
import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coat_core.errors import EvaluationError
from coat_core.evaluation.benchmarks.catalogue import find_suite
from coat_core.evaluation.benchmarks.data import DataVersion
from coat_core.evaluation.benchmarks.items import MISSING, BenchmarkItem
from coat_core.evaluation.benchmarks.logs.comparison import Comparison, comparison_json, comparison_text, rescore
from coat_core.evaluation.benchmarks.logs.formats import FORMATS, read_log
from coat_core.evaluation.benchmarks.logs.matching import match_rows
from coat_core.evaluation.benchmarks.logs.rows import LogRow
from coat_core.evaluation.benchmarks.suite import LoadedSuite
from tests.testing.benchmark_files import BENCHMARKS, needs_benchmarks

OPTIONS = ("dog", "rain", "horn", "bell")
MMAU = tuple(
    BenchmarkItem(f"m{i}", f"Which sound is number {i}?", OPTIONS, OPTIONS[i % 4], f"./test-mini-audios/m{i}.wav") for i in range(4)
)
MELD = tuple(
    BenchmarkItem(f"dia{i}_utt0", "Which emotion?", ("joy", "anger"), ("joy", "anger")[i % 2], f"dia{i}_utt0.mp4", aliases=(str(i + 1),))
    for i in range(2)
)
SPEECH = tuple(
    BenchmarkItem(f"1-2-000{i}", "Transcribe.", None, text, f"a/1-2-000{i}.flac") for i, text in enumerate(("ONE TWO", "IT'S RAIN"))
)


def _loaded(name: str, items: tuple[BenchmarkItem, ...]) -> LoadedSuite:
    suite = find_suite(name)
    rule = suite.rule_of(BENCHMARKS / "data") if name == "librispeech" else suite.rule_of(Path())
    return LoadedSuite(suite, "made", items, rule, DataVersion("", None))


def _write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) if path.suffix == ".jsonl" else json.dumps(rows))
    return path


def _compare(path: Path, name: str = "mmau", items: tuple[BenchmarkItem, ...] = MMAU) -> Comparison:
    return rescore(read_log(path), _loaded(name, items))


def lmms_eval(i: int, response: str, score: float, **changes: Any) -> dict[str, Any]:
    """A row of `<date>_samples_mmau_test_mini.jsonl` as `save_results_samples` writes it."""
    prompt = (
        f"Which sound is number {i}?\nA. dog\nB. rain\nC. horn\nD. bell\nAnswer with the option's letter from the given choices directly."
    )
    return {
        "doc_id": 3 - i, "target": OPTIONS[i % 4], "filtered_resps": [response], "doc_hash": "0",
        "accuracy": {"overall": score, "task": "sound"}, "submission": {"id": f"m{i}", "question": "?", "model_prediction": "dog"},
        "input": prompt, **changes,
    }  # fmt: skip


def kimi(i: int, prediction: str, judged: str | None = None) -> dict[str, Any]:
    """A row of `<model>_mmau-test-mini.jsonl`, or of its judged copy."""
    question = f"Which sound is number {i}?\n(A) dog (B) rain (C) horn (D) bell"
    row = {
        "index": i, "question": question, "audio_path": f"/data/MMAU/test-mini-audios/m{i}.wav", "choices": list(OPTIONS),
        "answer": OPTIONS[i % 4], "dataset": "mmau", "subset": "sound", "task_type": "understanding", "difficulty": "easy",
        "category": "x", "sub-category": "y", "prediction": prediction, "real_prompt": question,
    }  # fmt: skip
    return row if judged is None else {**row, "judge_result": judged}


def test_a_log_of_lmms_eval(tmp_path: Path) -> None:
    rows = [lmms_eval(0, "A", 1.0), lmms_eval(1, "The answer is rain.", 0.0), lmms_eval(2, "horn", 1.0, per_token_latency=3)]
    path = _write(tmp_path / "20260101_120000_samples_mmau_test_mini.jsonl", rows)
    (tmp_path / "20260101_120000_results.json").write_text(
        json.dumps({"results": {"mmau_test_mini": {"alias": "x", "accuracy,none": 66.7, "accuracy_stderr,none": "N/A"}}})
    )
    compared = _compare(path)
    assert compared.log.format.name == "lmms-eval"
    assert compared.matched.ways == {"id": 3}
    assert compared.harness_scores == {"m0": 1.0, "m1": 0.0, "m2": 1.0}
    # The official script reads no letters; the random letter of the harness was wrong where the response names the answer.
    assert {row.item.id: (row.official.value, row.strict_value) for row in compared.differing()} == {"m0": (0.0, 1.0), "m1": (1.0, 1.0)}
    text = comparison_text(compared)
    assert "harness 0.667, official 0.667 over 3, strict 1.000" in text
    assert "written by the harness: accuracy,none 66.7" in text
    assert "fields not used: per_token_latency (1 rows)" in text
    assert "1 items without a response: m3" in text
    assert "m0: harness 1, official 0, strict 1; 'A'" in text
    assert compared.result.official.left_out == {"missing": 1}


def test_rows_of_lmms_eval_without_an_id_are_found_by_question_and_answer(tmp_path: Path) -> None:
    rows = [{name: value for name, value in lmms_eval(i, OPTIONS[i], 1.0).items() if name != "submission"} for i in (2, 0)]
    compared = _compare(_write(tmp_path / "log.jsonl", rows))
    assert compared.matched.ways == {"question": 2}
    assert set(compared.matched.rows) == {"m0", "m2"}
    changed = [{**rows[0], "input": "Which sound?\nA. dog"}, {**rows[1], "target": "cat"}]
    compared = _compare(_write(tmp_path / "changed.jsonl", changed))
    # Another question with the same answer is another item.
    assert compared.matched.unmatched == ["row 1"]
    assert (compared.matched.ways, compared.matched.other_text) == ({"question": 1}, ["m0"])


def test_what_the_model_said_is_scored_and_not_what_a_filter_made_of_it(tmp_path: Path) -> None:
    rows = [lmms_eval(0, "A", 1.0, resps=[["dog, I think"]]), lmms_eval(1, "rain", 1.0)]
    compared = _compare(_write(tmp_path / "log.jsonl", rows))
    assert compared.matched.given() == {"m0": "dog, I think", "m1": "rain"}
    assert "another text than the model's: m0" in comparison_text(compared)


@needs_benchmarks
def test_transcripts_of_lmms_eval_are_found_by_their_reference(tmp_path: Path) -> None:
    rows = [
        {
            "doc_id": i, "target": "", "filtered_resps": [said], "doc_hash": "0", "input": "Please recognize the speech",
            "wer": {"gt": gt, "pred": said, "source": "librispeech_test_clean", "task": "asr_en"},
        }
        for i, (gt, said) in enumerate([("It's rain.", "it is rain"), ("one two", "one")])
    ]  # fmt: skip
    compared = _compare(_write(tmp_path / "log.jsonl", rows), "librispeech", SPEECH)
    assert compared.matched.ways == {"reference answer": 2}
    assert (compared.result.official.further["edits"], compared.result.official.over) == (1, 4)
    assert compared.harness_scores == {}
    assert "the rows have no scores of the harness" in comparison_text(compared)


def test_other_tasks_of_lmms_eval_name_ids_and_scores_elsewhere(tmp_path: Path) -> None:
    row = {"doc_id": 0, "target": "dog", "filtered_resps": ["dog"], "doc_hash": "0", "input": "?"}
    mmar = {**row, "mmar_accuracy": {"id": "m0", "score": 1.0, "prediction": "A"}}
    air = {**row, "accuracy": 0.0, "submission": {"m0": "A"}}
    judged = {**row, "gpt_eval": {"eval_answer": "Explanation: x\nRating: 4", "model_name": "j"}, "submission": {"id": "m0"}}
    for number, (other, score) in enumerate(((mmar, 1.0), (air, 0.0), (judged, 0.8))):
        log = read_log(_write(tmp_path / f"{number}.jsonl", [other]))
        assert (log.rows[0].id, log.rows[0].score, dict(log.unused)) == ("m0", score, {})


def test_a_log_of_kimi(tmp_path: Path) -> None:
    rows = [kimi(0, "dog"), kimi(1, "null"), kimi(3, "It rings: a bell")]
    path = _write(tmp_path / "Qwen2-Audio_mmau-test-mini.jsonl", rows)
    (tmp_path / "Qwen2-Audio_mmau-test-mini_default_performance.json").write_text(
        json.dumps({"task": "MQA", "performance": {"sound": {"acc": 66.67, "valid": 3, "total": 3, "correct": 2}}})
    )
    compared = _compare(path)
    assert (compared.log.format.name, compared.matched.ways, dict(compared.log.unused)) == ("kimi", {"clip": 3}, {})
    assert compared.matched.rows["m1"].response is MISSING, "'null' is Kimi's word for a skipped item"
    text = comparison_text(compared)
    assert "2 items without a response: m1, m2" in text
    assert "the rows have no scores" in text
    assert "written by the harness: sound acc 66.67" in text
    judged = [kimi(0, "dog", "Explanation: yes it is.\nResult: no"), kimi(3, "a bell", "Result: yes"), kimi(2, "horn", "perhaps")]
    compared = _compare(_write(tmp_path / "judged.jsonl", judged))
    assert compared.harness_scores == {"m0": 0.0, "m3": 1.0}
    assert [row.item.id for row in compared.differing()] == ["m0"]
    # Kimi names the clips of MELD by the number of their row.
    emotions = [{"index": "0", "audio_path": "/x/audios/2.mp3", "question": "?", "answer": "anger", "prediction": "anger"}]
    compared = _compare(_write(tmp_path / "meld.jsonl", emotions), "meld", MELD)
    assert compared.matched.given() == {"dia1_utt0": "anger"}
    assert compared.matched.other_text == [], "sets of labels have no question of their own"


def test_a_table_of_vlmevalkit(tmp_path: Path) -> None:
    failed = "Failed to obtain answer via API."
    row = {"category": "sound", **dict(zip("ABCD", OPTIONS, strict=True))}
    rows = [
        {"index": "m0", "question": "Which sound is number 0?", **row, "answer": "A", "prediction": "A", "hit": 1, "log": "x"},
        {"index": "900", "question": "Which sound is number 1?", **row, "answer": "B", "prediction": "rain", "hit": 1, "log": "x"},
        {"index": "901", "question": "Which sound is number 2?", **row, "answer": "C", "prediction": failed, "hit": 0, "log": ""},
    ]  # fmt: skip
    compared = _compare(_write(tmp_path / "m_MMAU.json", rows))
    assert compared.matched.ways == {"id": 1, "question": 2}
    assert compared.matched.rows["m1"].answer == "rain"
    assert compared.matched.missing(MMAU) == ["m2", "m3"]
    assert comparison_json(compared)["harness"]["value"] == pytest.approx(2 / 3)
    for suffix, sign in ((".tsv", "\t"), (".csv", ",")):
        with (tmp_path / f"table{suffix}").open("w", newline="") as stream:
            writer = csv.DictWriter(stream, list(rows[0]), delimiter=sign, quoting=csv.QUOTE_ALL)
            writer.writeheader()
            writer.writerows(rows)
        assert _compare(tmp_path / f"table{suffix}").matched.given() == compared.matched.given()


def test_nothing_is_dropped_in_silence(tmp_path: Path) -> None:
    rows = [kimi(0, "dog"), kimi(0, "dog"), kimi(1, "rain"), kimi(1, "horn"), kimi(7, "x")]
    rows[-1]["answer"] = "whale"
    rows[2]["question"] = "An older question?"
    compared = _compare(_write(tmp_path / "log.jsonl", rows))
    found = comparison_json(compared)
    assert found["rows"] == 5
    assert found["items_repeated"] == ["m0", "m1"]
    assert found["items_repeated_with_another_response"] == ["m1"]
    assert found["rows_of_no_item"] == ["m7"]
    assert found["items_with_another_question_or_answer"] == ["m1"]
    assert found["items_without_a_response"] == ["m2", "m3"]
    assert compared.matched.given() == {"m0": "dog", "m1": "rain"}, "the first row of an item counts"
    twice = tuple(BenchmarkItem(name, "Transcribe.", None, "ONE TWO") for name in "ab")
    assert match_rows([LogRow(1, "", "", "", "one two", "one")], twice).ambiguous == ["row 1"]


def test_two_questions_about_one_clip_are_told_apart_by_their_text() -> None:
    items = tuple(BenchmarkItem(str(i), question, ("a", "b"), "a", "one.wav") for i, question in enumerate(("Who speaks?", "Who sings?")))
    matched = match_rows([LogRow(1, "", "one", "Who sings? a b", "a", "a"), LogRow(2, "", "one", "Who barks? a b", "a", "a")], items)
    assert (list(matched.rows), matched.unmatched) == (["1"], ["one"])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("log.xlsx", "x", "PRED_FORMAT=json"),
        ("log.jsonl", "{\n", "line 1 is not JSON"),
        ("log.json", "{}", "no rows"),
        ("log.json", "[1]", "no list of objects"),
        ("log.json", '[{"a": 1}]', "layout of the responses is not known"),
        ("log.jsonl", '{"index": 0, "prediction": "a", "audio_path": "x"}\n{"index": 1}\n', "row 2 has no prediction"),
    ],
)
def test_mistakes_in_logs(name: str, content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(EvaluationError, match=message):
        read_log(tmp_path / name)
    with pytest.raises(EvaluationError, match="cannot be read"):
        read_log(tmp_path / "absent.jsonl")


def test_a_layout_can_be_told(tmp_path: Path) -> None:
    path = _write(tmp_path / "log.json", [kimi(0, "dog")])
    assert read_log(path, "vlmevalkit").format is FORMATS["vlmevalkit"]
    with pytest.raises(EvaluationError, match="allowed: coat, lmms-eval, kimi, vlmevalkit"):
        read_log(path, "helm")


TEXTS = st.text(max_size=8)
CELLS = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), TEXTS, st.lists(TEXTS, max_size=2))
METRICS = st.dictionaries(st.sampled_from(["accuracy", "submission", "gpt_eval", "wer", "id", "score", "eval_answer"]), CELLS, max_size=3)
FIELDS = st.sampled_from(sorted({*FORMATS["kimi"].known, *FORMATS["lmms-eval"].known, "hit", "A", "B", "accuracy", "gpt_eval"}))


@given(
    kind=st.sampled_from(["lmms-eval", "kimi", "vlmevalkit"]),
    cells=st.lists(st.dictionaries(FIELDS, st.one_of(CELLS, METRICS), max_size=6), min_size=1, max_size=4),
    seed=st.integers(0, 3),
)
def test_no_row_is_a_traceback_and_order_changes_only_which_row_is_first(kind: str, cells: list[dict[str, Any]], seed: int) -> None:
    chosen = FORMATS[kind]
    rows = [chosen.read({**dict.fromkeys(chosen.each, "x"), **row}, place) for place, row in enumerate(cells, 1)]
    matched = match_rows(rows, MMAU)
    assert len(matched.rows) + len(matched.unmatched) + len(matched.ambiguous) + len(matched.repeated) == len(rows)
    shuffled = match_rows(random.Random(seed).sample(rows, len(rows)), MMAU)
    assert set(shuffled.rows) == set(matched.rows)
    assert sorted(shuffled.unmatched) == sorted(matched.unmatched)
