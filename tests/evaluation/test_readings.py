"""Every response of the tables is read as a careful person reads it."""

# ruff: noqa: RUF001

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from coat_core.corpus.normal_form import has_words, normalise_option, normalise_words
from coat_core.evaluation.scorers import Score, Unscored, read_choice, score
from tests.evaluation import readings_choices, readings_notation, readings_wordings
from tests.evaluation.readings_numbers import NUMBERS, WORDS
from tests.testing.scored import scored_example as example

ROWS = (*readings_choices.ROWS, *readings_notation.ROWS, *readings_wordings.ROWS)


def _ids(rows: tuple[tuple[object, ...], ...]) -> list[str]:
    return [f"{row[0]}-{number}" for number, row in enumerate(rows)]


def read(choices: tuple[str, ...], response: str) -> str | None:
    found = read_choice([normalise_option(choice) for choice in choices], response)
    return None if isinstance(found, Unscored) else choices[found]


@pytest.mark.parametrize(("kind", "choices", "response", "reading"), ROWS, ids=_ids(ROWS))
def test_a_choice_is_read(kind: str, choices: tuple[str, ...], response: str, reading: str | None) -> None:
    assert read(choices, response) == reading, kind
    for answer in choices:
        if normalise_option(answer):
            result = score(example(answer, choices), response)
            assert isinstance(result, Unscored) if reading is None else result == Score(float(answer == reading), "choice")


@pytest.mark.parametrize(("kind", "response", "number"), NUMBERS, ids=_ids(NUMBERS))
def test_a_number_is_read(kind: str, response: str, number: float | None) -> None:
    other = score(example("987654"), response)
    if number is None:
        assert isinstance(other, Unscored), kind
    else:
        assert score(example(str(number)), response) == Score(1.0, "number"), kind
        assert other == Score(0.0, "number"), kind


@pytest.mark.parametrize(("kind", "answer", "response", "value"), WORDS, ids=_ids(WORDS))
def test_words_are_compared(kind: str, answer: str, response: str, value: float | None) -> None:
    result = score(example(answer, family="transcription"), response)
    if value is None:
        assert isinstance(result, Unscored), kind
    else:
        assert isinstance(result, Score), result
        assert result.value == pytest.approx(value), kind


@pytest.mark.parametrize("answer", ["um", "[laughter]", "?", "", "(coughs)", "hmm, uh", "..."])
def test_an_answer_without_words_is_known_to_the_contract(answer: str) -> None:
    assert not has_words(answer)
    assert isinstance(score(example(answer, family="transcription"), "go home"), Unscored)


@pytest.mark.parametrize(
    ("answer", "choices"),
    [("thunder", ("rain", "dog")), ("rain", ("rain", "Rain.")), ("!", ("!", "dog")), ("x²", ("x²", "x2")), ("rain", ())],
    ids=["not-among", "twice", "punctuation", "superscript", "no-choices"],
)
def test_an_example_that_cannot_be_scored_is_unscored(answer: str, choices: tuple[str, ...]) -> None:
    result = score(example(answer, choices), "rain")
    assert isinstance(result, Unscored)
    assert "not among the choices" in result.reason


def test_the_tables_are_large_enough() -> None:
    assert len(ROWS) + len(NUMBERS) + len(WORDS) >= 400
    assert len({row[:3] for row in ROWS}) == len(ROWS)


PIECES = st.sampled_from(
    [
        "A",
        "B",
        "b.",
        "(c)",
        "dog",
        "cat",
        "not",
        "no",
        "isn't",
        "isn’t",
        "or",
        "and",
        "option",
        "answer",
        "is",
        "the",
        "\\boxed{B}",
        "<answer>",
        "**",
        "`",
        "~~",
        "3",
        "2,5",
        "½",
        "-5",
        "440Hz",
        "hundred",
        "point",
        "a",
        "I",
        "yes",
        "maybe",
        "?",
        "\n",
        ":",
        "/",
        "٣",
        "３",
        "²",
        "⁄",
        "\u200b",
        "�",
        "❌",
        "9999999999999999",
        "[",
        "]",
        "<",
        "|",
        "\\text{",
        "}",
        "$",
        "million",
        "twenty",
        "once",
        "%",
    ]
)
TEXTS = st.one_of(
    st.text(st.characters(), max_size=60), st.lists(PIECES, max_size=12).map(" ".join), st.lists(PIECES, max_size=12).map("".join)
)
OPTION = st.one_of(
    st.text(max_size=12),
    st.text("abcdefgh '-#", min_size=1, max_size=10),
    st.sampled_from(("no", "yes", "not", "can", "can't", "it", "A", "B", "C#", "3", "three", "3.5", "440 Hz", "not rain", "a dog", "or")),
)
OPTIONS = (
    st.lists(OPTION, min_size=2, max_size=5, unique_by=normalise_option)
    .map(tuple)
    .filter(lambda o: all(map(normalise_option, o)) and "`" not in "".join(o))
)


@settings(deadline=None, max_examples=100)
@given(TEXTS, TEXTS, OPTIONS)
def test_no_text_raises(response: str, answer: str, options: tuple[str, ...]) -> None:
    for built in (
        example(options[0], options), example(answer, options), example(answer, (answer,)), example("3"), example(answer),
        example(answer, family="transcription"),
    ):  # fmt: skip
        result = score(built, response)
        assert isinstance(result, Unscored) or 0.0 <= result.value <= 1.0


@settings(deadline=None, max_examples=100)
@given(OPTIONS)
def test_the_exact_text_of_an_option_is_read(options: tuple[str, ...]) -> None:
    for option in options:
        for response in (option, f" {option}. ", f"“{option}”", unicodedata.normalize("NFD", option), option.upper().lower()):
            if normalise_option(response) == normalise_option(option):
                assert read(options, response) == option


@settings(deadline=None, max_examples=100)
@given(
    OPTIONS,
    st.sampled_from(
        ["{} or {}", "{}, {}", "{} and {}", "Either {} or {}.", "{}/{}", "maybe {}, maybe {}", "{}\n{}", "It is {}. It is {}."]
    ),
)
def test_a_response_that_names_two_options_is_never_scored(options: tuple[str, ...], form: str) -> None:
    one, other = options[:2]
    assume(normalise_option(one) not in normalise_option(other) and normalise_option(other) not in normalise_option(one))
    response = form.format(one, other)
    assume(normalise_option(response) not in map(normalise_option, options))
    assert read(options, response) in (None, *options[2:])


@pytest.mark.parametrize("form", ["{} or {}", "({}) ({})", "{}, {}", "{}/{}", "options {} and {}", "Answer: {}. Answer: {}.", "{}\n{}"])
@settings(deadline=None, max_examples=15)
@given(st.sampled_from("ABCD"), st.sampled_from("ABCD"), st.booleans())
def test_two_letters_are_never_scored(form: str, one: str, other: str, lower: bool) -> None:
    assume(one != other)
    response = form.format(one, other)
    assert read(("dog", "cat", "rain", "siren"), response.lower() if lower else response) is None


NEGATIONS = (
    "not {}",
    "It is not {}",
    "It isn't {}.",
    "It isn’t {}",
    "never {}",
    "anything but {}",
    "neither {}",
    "I don't think it's {}",
    "{} is wrong",
)


@settings(deadline=None, max_examples=100)
@given(OPTIONS, st.sampled_from(NEGATIONS))
def test_a_negated_option_is_never_read(options: tuple[str, ...], form: str) -> None:
    for option in options:
        response = form.format(option)
        if normalise_option(response) not in map(normalise_option, options):
            assert read(options, response) != option


@pytest.mark.parametrize("form", NEGATIONS)
def test_a_negated_letter_is_never_read(form: str) -> None:
    for letter in ("B", "option B", "(b)", "the answer B"):
        assert read(("dog", "cat", "rain"), form.format(letter)) is None


@settings(deadline=None, max_examples=100)
@given(TEXTS)
def test_normal_forms_are_idempotent_and_the_same_for_nfc_and_nfd(text: str) -> None:
    assert normalise_option(normalise_option(text)) == normalise_option(text)
    assert normalise_option(unicodedata.normalize("NFD", text)) == normalise_option(unicodedata.normalize("NFC", text))
    assert isinstance(normalise_words(text), str)
