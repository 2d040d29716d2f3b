from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coat_core.corpus.examples import Example
from coat_core.evaluation.scorers import Score, Unscored, kind_of, score
from tests.testing.scored import scored_example as example

SOUNDS = ("dog", "dog bark", "rain", "siren")
NOTES = ("A", "B", "C#", "C")
YES_NO = ("yes", "no")
COUNTS = ("1", "2", "3", "13")
PAIRS = ("first, then second", "second, then first")


@pytest.mark.parametrize(
    ("choices", "answer", "response", "expected"),
    [
        # The exact text of an option, in any case, with quotes or a final stop.
        (SOUNDS, "rain", "rain", 1.0),
        (SOUNDS, "rain", " Rain. ", 1.0),
        (SOUNDS, "rain", '"rain"', 1.0),
        (SOUNDS, "rain", "RAIN!", 1.0),
        (SOUNDS, "dog", "dog", 1.0),
        (SOUNDS, "dog", "dog  bark", 0.0),
        (SOUNDS, "dog bark", "dog  bark", 1.0),
        (PAIRS, "second, then first", "second, then first.", 1.0),
        # Letters.
        (SOUNDS, "dog", "A", 1.0),
        (SOUNDS, "dog", "a.", 1.0),
        (SOUNDS, "dog bark", "(b)", 1.0),
        (SOUNDS, "rain", "c)", 1.0),
        (SOUNDS, "siren", "C", 0.0),
        (SOUNDS, "siren", "The answer is D.", 1.0),
        (SOUNDS, "siren", "option (d)", 1.0),
        (SOUNDS, "rain", "Answer: c", 1.0),
        (SOUNDS, "rain", "(c) rain", 1.0),
        (SOUNDS, "rain", "c. the rain", 1.0),
        (SOUNDS, "rain", "c: because of it", 1.0),
        # In a short phrase, as whole words; a longer option does not also match a shorter one.
        (SOUNDS, "rain", "it is rain", 1.0),
        (SOUNDS, "dog bark", "it is a dog bark", 1.0),
        (SOUNDS, "dog", "a dog", 1.0),
        (SOUNDS, "dog", "a siren", 0.0),
        (SOUNDS, "rain", "rain, rain, rain", 1.0),
        # Options that are letters: only their exact text counts.
        (NOTES, "B", "B", 1.0),
        (NOTES, "C#", "A", 0.0),
        (NOTES, "C#", "the note C#", 1.0),
        (NOTES, "C", "the note C#", 0.0),
        (NOTES, "C", "the note C.", 1.0),
        (YES_NO, "no", "no", 1.0),
        (YES_NO, "no", "No, they differ", 1.0),
        (YES_NO, "no", "yes it is", 0.0),
        # Numbers, in digits or words.
        (COUNTS, "2", "two", 1.0),
        (COUNTS, "2", "2 beeps", 1.0),
        (COUNTS, "3", "thirteen times", 0.0),
        (COUNTS, "1", "13", 0.0),
    ],
)
def test_a_choice_is_read(choices: tuple[str, ...], answer: str, response: str, expected: float) -> None:
    assert score(example(answer, choices), response) == Score(expected, "choice")


@pytest.mark.parametrize(
    ("choices", "response", "reason"),
    [
        (SOUNDS, "", "empty"),
        (SOUNDS, " . ", "empty"),
        (SOUNDS, "thunder", "no option"),
        (SOUNDS, "dogs", "no option"),
        (SOUNDS, "training", "no option"),
        (SOUNDS, "e", "no option"),
        (SOUNDS, "rain or siren", "more than one"),
        (SOUNDS, "dog, dog bark", "more than one"),
        (SOUNDS, "not rain", "negation"),
        (SOUNDS, "it isn't rain", "negation"),
        (SOUNDS, "(a) rain", "different options"),
        (SOUNDS, "it is " + "very " * 20 + "clearly rain", "longer"),
        (NOTES, "D", "no option"),
        (NOTES, "C-sharp", "no option"),
        (COUNTS, "2.5", "no option"),
        (COUNTS, "2 or 3", "more than one"),
        (COUNTS, "seven", "no option"),
    ],
)
def test_an_unclear_choice_is_unscored(choices: tuple[str, ...], response: str, reason: str) -> None:
    result = score(example(choices[0], choices), response)
    assert isinstance(result, Unscored), result
    assert reason in result.reason


def test_an_answer_outside_the_choices_is_unscored() -> None:
    result = score(example("thunder", SOUNDS), "rain")
    assert isinstance(result, Unscored)
    assert "not among the choices" in result.reason


@pytest.mark.parametrize(
    ("answer", "response", "tolerance", "expected"),
    [
        ("3", "3", 0.0, 1.0),
        ("3", "three", 0.0, 1.0),
        ("three", "3 times", 0.0, 1.0),
        ("3", "I count three beeps.", 0.0, 1.0),
        ("3", "3.0", 0.0, 1.0),
        ("3", "4", 0.0, 0.0),
        ("3", "4", 1.0, 1.0),
        ("120", "one hundred and twenty bpm", 0.0, 1.0),
        ("120", "118", 2.0, 1.0),
        ("120", "117", 2.0, 0.0),
        ("0.3", "0.2", 0.1, 1.0),
        ("3", "three (3)", 0.0, 1.0),
        ("-2", "minus two", 0.0, 1.0),
    ],
)
def test_a_number_is_read(answer: str, response: str, tolerance: float, expected: float) -> None:
    assert score(example(answer), response, numeric_tolerance=tolerance) == Score(expected, "number")


@pytest.mark.parametrize(
    ("response", "reason"), [("", "empty"), ("many", "no number"), ("two or three", "more than one"), ("A4", "no number")]
)
def test_an_unclear_number_is_unscored(response: str, reason: str) -> None:
    result = score(example("3"), response)
    assert isinstance(result, Unscored)
    assert reason in result.reason


@pytest.mark.parametrize(
    ("answer", "response", "expected"),
    [
        ("the cat sat", "the cat sat", 1.0),
        ("the cat sat", "The cat sat.", 1.0),
        ("the cat sat", "the dog sat", 2 / 3),
        ("the cat sat", "cat", 1 / 3),
        ("the cat sat", "a b c d e f g", 0.0),
        ("it's late", "it is late", 1.0),
        # One wrong digit of four costs a quarter; the normaliser alone would compare "3141" with "3142".
        ("three one four one", "three one four one", 1.0),
        ("three one four one", "3141", 1.0),
        ("three one four one", "three one four two", 3 / 4),
        ("three one four one", "three one", 1 / 2),
        ("three one", "three one four one five", 0.0),
        ("seven", "seven", 1.0),
        ("seven", "nine", 0.0),
    ],
)
def test_words_are_compared(answer: str, response: str, expected: float) -> None:
    result = score(example(answer, family="transcription"), response)
    assert isinstance(result, Score)
    assert result.value == pytest.approx(expected)


@pytest.mark.parametrize(("response", "reason"), [("", "empty"), ("  ", "empty"), ("...", "no words"), ("um", "no words")])
def test_a_response_without_words_is_unscored(response: str, reason: str) -> None:
    result = score(example("the cat sat", family="transcription"), response)
    assert isinstance(result, Unscored)
    assert reason in result.reason


def test_a_reference_without_words_is_unscored() -> None:
    result = score(example("um", family="transcription"), "um")
    assert isinstance(result, Unscored)
    assert "the answer contains no words" in result.reason


@pytest.mark.parametrize(
    ("built", "kind"),
    [
        (example("3", COUNTS), "choice"),
        (example("3"), "number"),
        (example("three", family="transcription"), "wer"),
        (example("rain then dog"), "wer"),
    ],
)
def test_the_kind_depends_on_choices_and_answer(built: Example, kind: str) -> None:
    assert kind_of(built) == kind


TEXTS = st.text(max_size=60)


@settings(deadline=None)
@given(TEXTS)
def test_any_response_gets_a_score_within_bounds_or_a_reason(response: str) -> None:
    for built in (example("rain", SOUNDS), example("C", NOTES), example("3"), example("three one", family="transcription")):
        result = score(built, response)
        assert result.kind == kind_of(built)
        assert isinstance(result, Unscored) or 0.0 <= result.value <= 1.0


OPTION = st.text("abcdefgh ", min_size=1, max_size=12).map(lambda text: " ".join(text.split())).filter(bool)
WORDS = st.lists(OPTION, min_size=2, max_size=6, unique=True)


@settings(deadline=None)
@given(WORDS, st.data())
def test_the_right_option_scores_one_and_a_wrong_one_zero(options: list[str], data: st.DataObject) -> None:
    answer, response = (data.draw(st.sampled_from(options)) for _ in range(2))
    assert score(example(answer, tuple(options)), response) == Score(float(response == answer), "choice")


@settings(deadline=None)
@given(st.integers(-(10**6), 10**6), st.integers(-(10**6), 10**6))
def test_whole_numbers_are_right_when_equal(answer: int, response: int) -> None:
    assert score(example(str(answer)), f"{response} Hz") == Score(float(answer == response), "number")
