from __future__ import annotations

import pytest

from coat_core.corpus.numerals import is_bound, numbers_in, parse_number


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("7", [7]),
        ("seven", [7]),
        ("-3.5", [-3.5]),
        ("minus three", [-3]),
        ("1,200 Hz", [1200]),
        ("twenty-one", [21]),
        ("Twenty one.", [21]),
        ("one hundred and five", [105]),
        ("two thousand three hundred and forty-five", [2345]),
        ("five hundred thousand", [500_000]),
        ("one two", [1, 2]),
        ("one and two", [1, 2]),
        ("twenty thirty", [20, 30]),
        ("3 beeps and 4 claps", [3, 4]),
        ("2-3", [2, 3]),
        (".5", [0.5]),
        ("440Hz", [440]),
        ("negative five", [-5]),
        ("a hundred and twenty", [120]),
        ("two point five", [2.5]),
        ("2 hundred", [200]),
        ("the first one", []),
        ("the only one", []),
        ("only one beep", [1]),
        ("3rd", []),
        ("A4", []),
        ("phone", []),
        ("someone", []),
        ("hundred", []),
        ("", []),
    ],
)
def test_numbers_are_found(text: str, numbers: list[float]) -> None:
    assert numbers_in(text) == numbers


@pytest.mark.parametrize(
    ("text", "number"),
    [
        (".5", 0.5),
        ("negative five", -5),
        ("+5", 5),
        ("440Hz", None),
        ("2,5", None),
        ("1/2", None),
        ("3", 3),
        ("three", 3),
        ("Three.", 3),
        ("twenty-one", 21),
        ("3 Hz", None),
        ("one two", None),
        ("rain", None),
        ("", None),
    ],
)
def test_a_whole_text_is_parsed_as_a_number(text: str, number: float | None) -> None:
    assert parse_number(text) == number


@pytest.mark.parametrize("text", ["2,5", "1,2,3", "1/2", "½", "3²", "12:30", "two dozen", "one third", "hundred and five", "1.2.3"])
def test_a_numeral_with_more_than_one_reading_is_unclear(text: str) -> None:
    assert any(number != number for number in numbers_in(text))
    assert parse_number(text) is None


@pytest.mark.parametrize(("text", "bound"), [("at least 3", True), ("over three", True), ("≥3", True), ("3+", True), ("about 3", False)])
def test_a_bound_is_not_a_number(text: str, bound: bool) -> None:
    assert is_bound(text) == bound
