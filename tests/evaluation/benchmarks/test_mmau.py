"""MMAU test-mini: the published question file, the prompt, and 1,000 responses under both readings."""

from __future__ import annotations

import random
import string

import pytest

from coat_core.evaluation.benchmarks.catalogue import find_suite
from coat_core.evaluation.benchmarks.scoring import BenchmarkResult, score_benchmark
from coat_core.evaluation.benchmarks.suite import LoadedSuite, load
from coat_core.evaluation.scorers import Score, Unscored
from tests.testing.benchmark_files import BENCHMARKS, needs_benchmarks

pytestmark = needs_benchmarks


@pytest.fixture(scope="module")
def loaded() -> LoadedSuite:
    return load(find_suite("mmau"), str(BENCHMARKS))


@pytest.fixture(scope="module")
def result(loaded: LoadedSuite) -> BenchmarkResult:
    """The right choice in one of five forms, by a fixed seed."""
    rng, given = random.Random(3), {}
    for item in loaded.items:
        letter = string.ascii_uppercase[item.options.index(item.answer or "")]
        forms = (item.answer, letter, f"{letter}. {item.answer}", f"The answer is {item.answer}.", "I cannot tell.")
        given[item.id] = rng.choice(forms)
    return score_benchmark(loaded, given)


def test_the_published_file(loaded: LoadedSuite) -> None:
    assert len(loaded.items) == 1000
    assert loaded.version.published is True
    assert loaded.version.md5 == "44d2a892a30a59dc13a4f9a95d4d130c"
    tasks = [item.groups["task"] for item in loaded.items]
    assert {task: tasks.count(task) for task in set(tasks)} == {"music": 334, "sound": 333, "speech": 333}
    assert {item.groups["difficulty"] for item in loaded.items} == {"easy", "medium", "hard"}
    assert len({item.groups["sub-category"] for item in loaded.items}) == 27
    assert all(item.answer in item.options for item in loaded.items)
    places = [item.groups["answer position"] for item in loaded.items]
    assert [places.count(place) for place in "123"] == [395, 271, 208]


def test_the_prompt(loaded: LoadedSuite) -> None:
    assert loaded.suite.prompt(loaded.items[0]) == (
        "\nBased on the given audio, identify the source of the speaking voice.  "
        "Select one option from the provided choices.\nMan, Woman, Child, Robot."
    )
    assert len({loaded.suite.prompt(item) for item in loaded.items}) > 900


def test_each_reading_of_each_form(result: BenchmarkResult) -> None:
    assert (result.official.over, result.official.n) == (1000, 1000)
    # A response of one letter; the answer of a few items is itself a letter or a digit.
    letters = [row for row in result.rows if row.given in tuple(string.ascii_uppercase) and row.given != row.item.answer]
    assert len(letters) > 100
    # The script reads no letters, ours reads no refusal as an answer.
    assert sum(row.official.value or 0 for row in letters) <= 2
    assert sum(row.strict_value for row in letters) / len(letters) > 0.8
    refusals = [row for row in result.rows if row.given == "I cannot tell."]
    assert all(isinstance(row.strict, Unscored) and row.official.value == 0 for row in refusals)


def test_the_share_that_differs(result: BenchmarkResult) -> None:
    differing = sum((row.official.value or 0.0) != row.strict_value for row in result.rows) / 1000
    assert result.differing_share == pytest.approx(differing)
    assert sum(result.differing.values()) == round(1000 * differing)
    assert 0.15 < result.differing_share < 0.35
    assert result.strict.value == pytest.approx(sum(row.strict_value for row in result.rows) / 1000)


def test_items_with_the_answer_twice_cannot_be_answered(result: BenchmarkResult) -> None:
    twice = [row for row in result.rows if row.item.options.count(row.item.answer or "") > 1]
    assert twice
    assert not any(isinstance(row.strict, Score) for row in twice)
    assert result.strict.unscorable >= len(twice)


def test_groups_add_up(result: BenchmarkResult) -> None:
    for field in ("task", "difficulty", "sub-category"):
        parts = result.parts(field).values()
        assert sum(len(part.rows) for part in parts) == 1000
        right = sum((part.official.value or 0.0) * part.official.over for part in parts)
        assert right == pytest.approx(1000 * (result.official.value or 0.0))
