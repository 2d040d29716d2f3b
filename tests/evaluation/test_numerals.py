from __future__ import annotations

import pytest

from coat_core.evaluation.numerals import numbers_in, parse_number


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
    [("3", 3), ("three", 3), ("Three.", 3), ("twenty-one", 21), ("3 Hz", None), ("one two", None), ("rain", None), ("", None)],
)
def test_a_whole_text_is_parsed_as_a_number(text: str, number: float | None) -> None:
    assert parse_number(text) == number
