"""No response crashes a rule or a scorer, and the order of items changes nothing."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coat_core.evaluation.benchmarks.catalogue import SUITES, find_suite
from coat_core.evaluation.benchmarks.data import DataVersion
from coat_core.evaluation.benchmarks.items import MISSING, BenchmarkItem
from coat_core.evaluation.benchmarks.rules.instructions import CHECKS
from coat_core.evaluation.benchmarks.rules.judgements import air_bench_line, audiobench_score, lmms_eval_score
from coat_core.evaluation.benchmarks.rules.porter import stem
from coat_core.evaluation.benchmarks.rules.word_sets import matches
from coat_core.evaluation.benchmarks.scoring import score_benchmark, to_json
from coat_core.evaluation.benchmarks.suite import LoadedSuite
from coat_core.evaluation.benchmarks.table import table_text
from coat_core.evaluation.scorers import Score, Unscored
from coat_core.storage import write_json

OPTIONS = ("rain", "dog barking", "car horn", "applause")
FORMS = ("C", "(C) rain", "The answer is rain.", "not rain", "rain, wind", "<|pitch|><|midi_pitch_49|>", "4.5 minus one", "**C**", "3 of 7")
TEXTS = st.one_of(st.text(max_size=40), st.sampled_from(FORMS), st.text("ABCDabcd ().:*\n\"'<|>0123456789", max_size=12))
GIVEN = st.one_of(TEXTS, st.none(), st.just(MISSING))
ODD = (
    "\ud800",
    "\x00",
    "1" * 5000,
    "<|pitch|><|midi_pitch_" + "9" * 5000 + "|>",
    "y" * 3000,
    "allialli" * 50,
    "\u0130\u00df\u01c5",
    "½ ⅓ ٣",
)

STEMS = """
caresses:caress ponies:poni ties:tie dies:die cats:cat agreed:agre plastered:plaster motoring:motor sing:sing
conflated:conflat hopping:hop falling:fall filing:file happy:happi enjoy:enjoy relational:relat conditional:condit
digitizer:digit vietnamization:vietnam triplicate:triplic hopefulness:hope goodness:good adjustment:adjust adoption:adopt
effective:effect probate:probat rate:rate cease:ceas controll:control roll:roll skies:sky dying:die organic:organ
electronically:electron classical:classic jazzy:jazzi surprised:surpris an:an
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("spellings")
    (made / "english.json").write_text('{"colour": "color"}')
    return made


def _items(name: str) -> list[BenchmarkItem]:
    open_question = name in ("librispeech", "alpaca_audio", "air_bench_chat", "nsynth_notes")
    answer = "<|pitch|><|midi_pitch_49|><|instrument|>bass" if name == "nsynth_notes" else "C" if name == "voicebench_mcq" else "rain"
    choices = None if open_question else ("A", "B", "C", "D") if name == "voicebench_mcq" else OPTIONS
    fields = ("task", "modality", "category", "difficulty", "sub-category", "speaker", "genre", "label")
    groups = [{field: f"{field} {number % 2}" for field in fields} for number in range(4)]
    kinds = ("", "Keyword Frequency", "Number Sentences (at least)", "No Commas")
    details = [{"task_identifier": kind, "kwargs": {"keyword": "rain", "N": 1}} if name == "mmau_pro" else {} for kind in kinds]
    return [BenchmarkItem(str(i), "Which sound is it?", choices, answer, "", groups[i], details[i]) for i in range(4)]


def _loaded(name: str, folder: Path, items: list[BenchmarkItem]) -> LoadedSuite:
    suite = find_suite(name)
    return LoadedSuite(suite, "made", tuple(items), suite.rule_of(folder), DataVersion("", None))


@pytest.mark.parametrize("name", SUITES)
@given(responses=st.lists(GIVEN, min_size=4, max_size=4), seed=st.integers(0, 5))
@settings(max_examples=8)
def test_every_response_is_scored_and_order_changes_nothing(name: str, folder: Path, responses: list[object], seed: int) -> None:
    items = _items(name)
    given_by_id = {item.id: text for item, text in zip(items, responses, strict=True) if text is not MISSING}
    result = score_benchmark(_loaded(name, folder, items), given_by_id)  # type: ignore[arg-type]
    for row in result.rows:
        assert isinstance(row.strict, Score | Unscored)
        assert row.official.value is None or row.official.value >= 0
        assert row.official.value is not None or row.official.note or row.official.code
    assert result.official.value is not None or result.official.reason
    assert table_text(result)
    shuffled = random.Random(seed).sample(items, len(items))
    other = score_benchmark(_loaded(name, folder, shuffled), dict(reversed(given_by_id.items())))  # type: ignore[arg-type]
    assert to_json(other) == to_json(result)


@pytest.mark.parametrize("name", SUITES)
def test_odd_texts_are_scored(name: str, folder: Path) -> None:
    item = _items(name)[0]
    for text in ODD:
        result = score_benchmark(_loaded(name, folder, [item]), {item.id: text})
        assert len(result.rows) == 1
        assert table_text(result)
        write_json(folder / "result.json", to_json(result))


@given(text=TEXTS, seed=st.integers(0, 5))
def test_the_order_of_choices_does_not_change_the_matcher(text: str, seed: int) -> None:
    assert matches("rain", OPTIONS, text) == matches("rain", random.Random(seed).sample(OPTIONS, 4), text)


@given(text=TEXTS)
def test_checks_of_instructions_are_total(text: str) -> None:
    for check in CHECKS.values():
        assert check(text, {}) in (True, False)
        assert check(text, {"N": 1, "N1": 0, "N2": 3, "keywords": "a, b", "section_splitter": "*", "start_phrase": "("}) in (True, False)


@given(text=st.text(max_size=30))
def test_texts_of_judges_are_total(text: str) -> None:
    line, score = air_bench_line(text), audiobench_score(text)
    assert line.scores is None or max(line.scores) <= 10
    assert score.success or score.value == 0.0
    assert 0 <= lmms_eval_score(text) <= 5


@given(text=st.text(max_size=30))
def test_a_stem_is_never_longer_than_its_word_and_one_letter(text: str) -> None:
    assert len(stem(text)) <= len(text.lower()) + 1


@pytest.mark.parametrize(("word", "expected"), [tuple(pair.split(":")) for pair in STEMS.split()])
def test_stems(word: str, expected: str) -> None:
    assert stem(word) == expected
