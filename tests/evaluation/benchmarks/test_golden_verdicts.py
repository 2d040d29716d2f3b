"""Every verdict of the published scripts in ../shared/benchmarks/golden is reproduced; what cannot be is listed with its reason."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest

from coat_core.evaluation.benchmarks.rules import labels
from coat_core.evaluation.benchmarks.rules.instructions import instruction_verdict
from coat_core.evaluation.benchmarks.rules.judgements import air_bench_line, audiobench_score, lmms_eval_score
from coat_core.evaluation.benchmarks.rules.letters import air_bench_verdict, mmsu_verdict
from coat_core.evaluation.benchmarks.rules.notes import note_verdict, read_note
from coat_core.evaluation.benchmarks.rules.phrases import spoken_letter
from coat_core.evaluation.benchmarks.rules.transcripts import (
    qwen2_audio_script,
    qwen_audio,
    transcript_verdict,
    whisper_english,
    word_errors,
)
from coat_core.evaluation.benchmarks.rules.word_sets import matches, word_set_verdict
from coat_core.evaluation.benchmarks.verdicts import Rule
from tests.testing.benchmark_files import (
    BENCHMARKS,
    GOLDEN,
    documented_counts,
    golden,
    golden_given,
    golden_item,
    needs_benchmarks,
    passes,
)

pytestmark = needs_benchmarks
EXACT = labels.comparison(labels.exact_after_left_strip)
RULES: dict[str, tuple[int, Rule]] = {
    "mmau": (68, word_set_verdict),
    "mmar": (59, word_set_verdict),
    "air_bench_foundation": (56, air_bench_verdict),
    "mmsu": (16, mmsu_verdict),
    "emotion_meld_iemocap": (52, EXACT),
    "vocalsound": (16, EXACT),
    "mmau_pro_instruction_following": (25, instruction_verdict),
}
COMPARISONS = {
    "qwen2_audio_exact": labels.exact_after_left_strip,
    "qwen_audio_exact": labels.exact_after_strip,
    "ultraeval_prefix": labels.begins_with,
    "audio_flamingo_stem": labels.same_stem,
    "exact_stripped_lower": labels.exact_in_lower_case,
    "lmms_eval_first_class": labels.first_vocal_sound,
}
NEEDS_EMBEDDING = {"gtzan_nsynth": 30, "emotion_meld_iemocap": 29}
"""Rows that the nearest label decides: no model for it is part of this project."""


def _labelled(name: str) -> list[dict[str, Any]]:
    return [row for row in golden(name) if "tags" not in row["item"].get("dataset", "") and row["prediction"] is not None]


@pytest.mark.parametrize("name", RULES)
def test_the_verdict_of_the_script(name: str) -> None:
    count, rule = RULES[name]
    rows = golden(name)
    assert len(rows) == count
    wrong = [row["line"] for row in rows if rule(golden_item(row), golden_given(row)).value != row["official_score"]]
    assert not wrong


def test_null_and_an_absent_row_are_no_zero() -> None:
    for row in golden("mmau") + golden("mmar") + golden("air_bench_foundation") + golden("emotion_meld_iemocap"):
        if row["official_score"] is None:
            rule = air_bench_verdict if "choice_a" in row["item"] else EXACT if "dataset" in row["item"] else word_set_verdict
            verdict = rule(golden_item(row), golden_given(row))
            assert verdict.value is None
            assert verdict.stops == ("Error" in row["note"] or "the script stops" in row["note"]), row["line"]


@pytest.mark.parametrize("name", ["emotion_meld_iemocap", "gtzan_nsynth", "vocalsound"])
def test_other_harnesses(name: str) -> None:
    compared = 0
    for row in _labelled(name):
        for harness in COMPARISONS.keys() & row["scores"].keys():
            verdict = labels.comparison(COMPARISONS[harness])(golden_item(row), row["prediction"])
            assert verdict.value == row["scores"][harness], (row["line"], harness)
            compared += 1
    assert compared == {"emotion_meld_iemocap": 204, "gtzan_nsynth": 150, "vocalsound": 32}[name]


@pytest.mark.parametrize("name", NEEDS_EMBEDDING)
def test_the_rule_of_audio_flamingo_has_no_verdict_without_an_embedding_model(name: str) -> None:
    rows, without = _labelled(name), 0
    for row in rows:
        verdict = labels.audio_flamingo()(golden_item(row), row["prediction"])
        if verdict.value is None:
            assert verdict.code == "needs_model"
            assert row["nearest_label"] is not None
            without += 1
        else:
            assert verdict.value == row["scores"]["audio_flamingo"], row["line"]
    assert without == NEEDS_EMBEDDING[name]


@pytest.mark.parametrize("name", NEEDS_EMBEDDING)
def test_the_rule_of_audio_flamingo_with_the_recorded_nearest_label(name: str) -> None:
    for row in _labelled(name):
        rule = labels.audio_flamingo(lambda text, options, row=row: row["nearest_label"])  # type: ignore[misc]
        assert rule(golden_item(row), row["prediction"]).value == row["scores"]["audio_flamingo"], row["line"]


def test_notes_in_tags() -> None:
    rows = [row for row in golden("gtzan_nsynth") if "tags" in row["item"]["dataset"]]
    assert len(rows) == 12
    for row in rows:
        _check_note(row)


def _check_note(row: dict[str, Any]) -> None:
    note, parsed = read_note(row["prediction"]), row["scores"]["parsed"]
    assert {name: getattr(note, name) for name in parsed} == parsed
    assert {part: note_verdict(part)(golden_item(row), row["prediction"]).value for part in row["official_score"]} == row["official_score"]


@cache
def _normalisers() -> dict[str, Callable[[str], str]]:
    spellings = json.loads((BENCHMARKS / "data/whisper_english_spelling_map.json").read_text())
    return {
        "whisper_english": whisper_english(spellings),
        "qwen2_audio": qwen2_audio_script(spellings),
        "qwen_audio_v1": qwen_audio,
        "no_normaliser": str,
    }


def _check_word_errors(row: dict[str, Any]) -> None:
    for name, normalise in _normalisers().items():
        expected, where = row["official_score"][name], (row["line"], name)
        texts = normalise(row["item"]["answer"]), normalise(row["prediction"])
        if "ref_norm" in expected:
            assert texts == (expected["ref_norm"], expected["hyp_norm"]), where
        errors = word_errors(*texts)
        assert (errors.edits, errors.reference_words) == (expected["edits"], expected["ref_words"]), where
        assert errors.rate == (None if expected["wer"] is None else pytest.approx(expected["wer"], abs=1e-6)), where
        verdict = transcript_verdict(normalise)(golden_item(row), row["prediction"])
        assert (verdict.value, verdict.details["edits"]) == (errors.rate, errors.edits)


def _check_letter(row: dict[str, Any]) -> None:
    assert spoken_letter(row["prediction"]) == row["official_score"], row["line"]


def _check_judge_line(row: dict[str, Any]) -> None:
    line = air_bench_line(row["prediction"])
    assert (list(line.scores) if line.scores else None) == row["official_score"], row["line"]
    # The summary is over this line and five readable ones.
    fail, success = map(int, re.search(r"fail=(\d) success=(\d)", row["note"]).groups())  # type: ignore[union-attr]
    assert (int(line.scores is None), 5 + line.counted) == (fail, success), row["line"]


def _check_judge_text(row: dict[str, Any]) -> None:
    score, expected = audiobench_score(row["prediction"]), row["scores"]
    assert (score.value, score.success) == (row["official_score"], bool(expected["audiobench_success"])), row["line"]
    assert lmms_eval_score(row["prediction"]) == expected["lmms_eval"], row["line"]


CHECKS: dict[str, tuple[int, Callable[[dict[str, Any]], None]]] = {
    "librispeech_wer": (60, _check_word_errors),
    "voicebench_mcq_letter": (16, _check_letter),
    "air_bench_chat_judge_line": (14, _check_judge_line),
    "alpaca_audio_judge_text": (15, _check_judge_text),
}


@pytest.mark.parametrize("name", CHECKS)
def test_every_row_of_other_scripts(name: str) -> None:
    """Word error rates, letters of VoiceBench, and how the scripts of AIR-Bench Chat and Alpaca-Audio read a judge."""
    count, check = CHECKS[name]
    rows = golden(name)
    assert len(rows) == count
    for row in rows:
        check(row)


def _filled(template: str, choices: list[str]) -> str:
    match = re.fullmatch(r'(?:"([^"]*)" \+ )?choices\[(\d+)\](?: \+ "([^"]*)")?', template)
    assert match is not None, template
    return f"{match[1] or ''}{choices[int(match[2])]}{match[3] or ''}"


def test_the_templates_of_mmar_can_be_filled() -> None:
    rows = golden("mmar_published_by_index")
    assert len(rows) == 133
    choices = [f"choice {number}" for number in range(6)]
    assert all("choice " in _filled(row["prediction"], choices) for row in rows)


def test_published_rows_of_mmar() -> None:
    path = BENCHMARKS / "MMAR-meta.jsonl"
    if not path.is_file():
        pytest.skip(f"the questions of MMAR may not be passed on: put MMAR-meta.jsonl (ddlBoJack/MMAR 3bce090) into {BENCHMARKS}")
    items = {row["id"]: row for row in map(json.loads, path.read_text().splitlines())}
    for row in golden("mmar_published_by_index"):
        item = items[row["item"]["id"]]
        assert item["choices"][row["item"]["answer_index"]] == item["answer"]
        right = matches(item["answer"], item["choices"], _filled(row["prediction"], item["choices"]))
        assert right == bool(row["official_score"]), row["line"]


def _check(name: str, row: dict[str, Any]) -> None:
    """Check that a row is reproduced without a model and without files that may not be passed on."""
    if name in CHECKS:
        CHECKS[name][1](row)
    elif name == "gtzan_nsynth" and "tags" in row["item"]["dataset"]:
        _check_note(row)
    else:
        rule = labels.audio_flamingo() if name == "gtzan_nsynth" else RULES[name][1]
        verdict = rule(golden_item(row), golden_given(row))
        assert (verdict.value, verdict.code == "needs_model") == (row["official_score"], False), row["line"]


@pytest.mark.parametrize("name", [*RULES, *CHECKS, "gtzan_nsynth"])
def test_the_counts_of_the_documentation(name: str) -> None:
    rows = golden(name)
    assert documented_counts()[name] == (len(rows), sum(passes(_check, name, row) for row in rows))


def test_the_documentation_has_every_golden_file() -> None:
    assert documented_counts().keys() == {path.stem for path in GOLDEN.glob("*.jsonl")}
    # Without the questions no row of this file can be compared.
    assert documented_counts()["mmar_published_by_index"] == (len(golden("mmar_published_by_index")), 0)
