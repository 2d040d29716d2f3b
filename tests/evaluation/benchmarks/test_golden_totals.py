"""Totals and denominators of whole scripts (golden/aggregate.jsonl)."""

from __future__ import annotations

import json
import string
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from coat_core.evaluation.benchmarks.catalogue import find_suite
from coat_core.evaluation.benchmarks.data import DataVersion
from coat_core.evaluation.benchmarks.items import MISSING, BenchmarkItem, Given
from coat_core.evaluation.benchmarks.rules.notes import pitch_measures
from coat_core.evaluation.benchmarks.rules.transcripts import transcript_verdict, whisper_english
from coat_core.evaluation.benchmarks.scoring import BenchmarkResult, score_benchmark
from coat_core.evaluation.benchmarks.suite import LoadedSuite, load
from coat_core.evaluation.benchmarks.suites.labels import EMOTIONS
from coat_core.evaluation.benchmarks.totals import label_measures
from tests.testing.benchmark_files import BENCHMARKS, GOLDEN, documented_counts, golden, golden_item, needs_benchmarks, passes

pytestmark = needs_benchmarks
ROWS = golden("aggregate") if (GOLDEN / "aggregate.jsonl").is_file() else []


def _of(benchmark: str, whole: bool = False) -> list[Any]:
    rows = [row for row in ROWS if row["item"]["benchmark"] == benchmark and row["item"]["case"].startswith("whole") == whole]
    return [pytest.param(row, id=row["item"]["case"][:40]) for row in rows]


@pytest.fixture(scope="module")
def mmau() -> LoadedSuite:
    return load(find_suite("mmau"), str(BENCHMARKS))


def _score(name: str, items: list[BenchmarkItem], given: list[Given]) -> BenchmarkResult:
    suite = find_suite(name)
    loaded = LoadedSuite(suite, "golden", tuple(items), suite.rule_of(BENCHMARKS / "data"), DataVersion("", None))
    return score_benchmark(loaded, {item.id: text for item, text in zip(items, given, strict=True) if text is not MISSING})


def _printed(result: BenchmarkResult) -> dict[str, Any] | None:
    official = result.official
    if official.value is None:
        assert official.reason
        return None
    return {"accuracy_percent": round(100 * official.value, 2), "over": official.over, "no_prediction_count": 0}


def test_there_are_23_rows_and_each_belongs_to_a_test() -> None:
    tested = [*_of("mmau"), *_of("mmau", whole=True), *_of("air_bench_foundation"), *_of("meld"), *_of("nsynth_qwen_audio_pitch")]
    assert (len(ROWS), len(tested)) == (23, 22)
    assert sum(row["item"]["benchmark"] == "librispeech" for row in ROWS) == 1


@pytest.mark.parametrize("row", _of("mmau"))
def test_mmau_of_four_rows(row: dict[str, Any], mmau: LoadedSuite) -> None:
    items = {item.id: item for item in mmau.items}
    case = row["item"]["case"]
    absent = "absent" in case or "model_prediction" in case
    given = [MISSING if "model_prediction" in case or (text is None and absent) else text for text in row["prediction"]]
    assert _printed(_score("mmau", [items[name] for name in row["item"]["ids"]], given)) == row["official_score"]


MADE: dict[str, Callable[[BenchmarkItem, str], str]] = {
    "answer": lambda item, letter: item.answer or "",
    '"A. answer"': lambda item, letter: f"{letter}. {item.answer}",
    "letter only": lambda item, letter: letter,
    '"The answer is X."': lambda item, letter: f"The answer is {item.answer}.",
    "always the first choice": lambda item, letter: item.options[0],
    'all choices joined by " or "': lambda item, letter: " or ".join(item.options),
}


@pytest.mark.parametrize("row", _of("mmau", whole=True))
def test_mmau_of_the_whole_test_mini(row: dict[str, Any], mmau: LoadedSuite) -> None:
    make = MADE[row["prediction"]]
    given = {item.id: make(item, string.ascii_uppercase[item.options.index(item.answer or "")]) for item in mmau.items}
    assert _printed(score_benchmark(mmau, given)) == row["official_score"]


@pytest.mark.parametrize("row", _of("air_bench_foundation"))
def test_air_bench_foundation(row: dict[str, Any]) -> None:
    tasks = {"two tasks": ["T1_own", "T2_own", "T2_own", "T2_own"]}.get(row["item"]["case"], ["Made_Task_own"] * 4)
    item = BenchmarkItem("0", "Which sound is it?", ("dog barking", "car horn", "rain", "applause"), "rain")
    items = [replace(item, id=str(i), groups={"task": task}) for i, (_, task) in enumerate(zip(row["prediction"], tasks, strict=False))]
    official = _score("air_bench_foundation", items, row["prediction"]).official
    assert official.value == row["official_score"]
    if official.value is None:
        assert official.reason
    if "KeyError" in str(row["note"]):
        assert "KeyError: 'Made_Task_own'" in official.reason
    else:
        lines = [f"{task}: Sum={v['over']}, correct={v['correct']}, acc={v['accuracy']}" for task, v in official.further["tasks"].items()]
        assert [*lines, f"total_sum: {official.over}", f"fail_num: {official.further['fail_num']}"] == row["note"]


def test_random_letters_have_an_expectation_and_no_number() -> None:
    items = [BenchmarkItem(str(number), "", ("A", "B", "C", "D"), "B") for number in range(4)]
    official = _score("voicebench_mcq", items, ["B", "B is correct", "The answer is C.", ""]).official
    assert (official.value, official.over, official.reason) == (None, 2, "the script draws 2 random letters")
    assert official.further == {"expected_accuracy": 1.5 / 4}
    assert _score("voicebench_mcq", items, ["B"] * 4).official.value == 1.0


@pytest.mark.parametrize("row", _of("meld"))
def test_measures_of_meld(row: dict[str, Any]) -> None:
    measures = label_measures(row["item"]["references"], row["prediction"], EMOTIONS)
    assert measures == pytest.approx(row["official_score"], abs=1e-6)
    items = [BenchmarkItem(str(number), "", EMOTIONS, label) for number, label in enumerate(row["item"]["references"])]
    official = _score("meld", items, row["prediction"]).official
    assert official.value == pytest.approx(row["official_score"]["accuracy"])
    assert official.further == pytest.approx(measures)


@pytest.mark.parametrize("row", _of("nsynth_qwen_audio_pitch"))
def test_pitches_of_nsynth(row: dict[str, Any]) -> None:
    assert pitch_measures(row["item"]["references"], row["prediction"]) == row["official_score"]


def test_the_word_error_rate_of_a_corpus() -> None:
    (row,) = [row for row in ROWS if row["item"]["benchmark"] == "librispeech"]
    expected = row["official_score"]
    # Utterances repeat in the golden file: the line is the id.
    rows = [replace(golden_item(pair), id=str(pair["line"]), choices=None) for pair in golden("librispeech_wer")]
    given: list[Given] = [pair["prediction"] for pair in golden("librispeech_wer")]
    official = _score("librispeech", rows, given).official
    assert official.value == pytest.approx(expected["qwen2_corpus"])
    assert official.further["references_without_words"] == 60 - expected["n"]
    spellings = json.loads((BENCHMARKS / "data/whisper_english_spelling_map.json").read_text())
    whisper = replace(find_suite("librispeech"), rule_of=lambda folder: transcript_verdict(whisper_english(spellings)))
    loaded = LoadedSuite(whisper, "golden", tuple(rows), whisper.rule_of(Path()), DataVersion("", None))
    official = score_benchmark(loaded, dict(zip((item.id for item in rows), given, strict=True))).official
    assert official.value == pytest.approx(expected["whisper_corpus"])
    assert (official.further["edits"], official.over) == (expected["edits"], expected["words"])
    assert official.further["mean_of_items"] == pytest.approx(expected["mean_of_item"])
    assert abs(official.value - official.further["mean_of_items"]) > 0.001


def _check(row: dict[str, Any], mmau: LoadedSuite) -> None:
    benchmark, whole = row["item"]["benchmark"], row["item"]["case"].startswith("whole")
    if benchmark == "mmau":
        (test_mmau_of_the_whole_test_mini if whole else test_mmau_of_four_rows)(row, mmau)
    elif benchmark == "librispeech":
        test_the_word_error_rate_of_a_corpus()
    else:
        tests = {"air_bench_foundation": test_air_bench_foundation, "meld": test_measures_of_meld}
        tests.get(benchmark, test_pitches_of_nsynth)(row)


def test_the_counts_of_the_documentation(mmau: LoadedSuite) -> None:
    assert documented_counts()["aggregate"] == (len(ROWS), sum(passes(_check, row, mmau) for row in ROWS))
