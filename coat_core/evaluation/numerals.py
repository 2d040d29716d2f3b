"""Numbers in text, written as digits or as English words."""

from __future__ import annotations

import re

_UNIT_WORDS = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve", "thirteen", "fourteen",
    "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
)  # fmt: skip
_UNITS = {word: number for number, word in enumerate(_UNIT_WORDS)}
_TENS = dict(zip(("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"), range(20, 100, 10), strict=True))
_SCALES = {"hundred": 100, "thousand": 1_000, "million": 1_000_000}
_TOKEN = re.compile(r"(?<![\w.])[-−]?\d+(?:,\d{3})*(?:\.\d+)?(?![\w]|[.,]\d)|[^\W\d_]+|[^\w\s]")


def _digits(token: str) -> float | None:
    cleaned = token.replace(",", "").replace("−", "-")
    return float(cleaned) if re.fullmatch(r"-?\d+(?:\.\d+)?", cleaned) else None


class _Words:
    """Value of the number words read so far, e.g. one · hundred · and · twenty · five."""

    def __init__(self) -> None:
        self.total, self.current, self.last = 0, 0, ""

    def accepts(self, word: str) -> bool:
        """Return whether `word` continues the number; "one two" and "twenty thirty" are two numbers."""
        if not self.last:
            return word in _UNITS or word in _TENS
        if word in _SCALES:
            return self.last not in _SCALES or _SCALES[word] > _SCALES[self.last]
        if word in _TENS:
            return self.last in _SCALES
        return word in _UNITS and (self.last in _SCALES or (self.last in _TENS and 0 < _UNITS[word] < 10))

    def add(self, word: str) -> None:
        if word in _SCALES:
            self.current *= _SCALES[word]
            if word != "hundred":
                self.total, self.current = self.total + self.current, 0
        else:
            self.current += _UNITS[word] if word in _UNITS else _TENS[word]
        self.last = word

    @property
    def value(self) -> float:
        return float(self.total + self.current)


def numbers_in(text: str) -> list[float]:
    """Return the numbers of a text in order: digits ("1,200", "-3.5") and English words ("twenty-one")."""
    tokens = _TOKEN.findall(text.casefold())
    found: list[float] = []
    index = 0
    while index < len(tokens):
        value = _digits(tokens[index])
        if value is not None:
            found.append(value)
            index += 1
            continue
        words = _Words()
        negative = index > 0 and tokens[index - 1] == "minus"
        while index < len(tokens):
            joined = tokens[index] in ("and", "-") and words.last and index + 1 < len(tokens)
            if joined and (words.last in _SCALES) == (tokens[index] == "and") and words.accepts(tokens[index + 1]):
                index += 1
            if not words.accepts(tokens[index]):
                break
            words.add(tokens[index])
            index += 1
        if words.last:
            found.append(-words.value if negative else words.value)
        else:
            index += 1
    return found


def parse_number(text: str) -> float | None:
    """Return the number that is the whole text ("7", "seven", "2.50"); None for any other text."""
    found = numbers_in(text)
    allowed = {*_UNITS, *_TENS, *_SCALES, "and", "-", "minus", "."}
    others = any(_digits(token) is None and token not in allowed for token in _TOKEN.findall(text.casefold()))
    return found[0] if len(found) == 1 and not others else None
