"""Numbers in text, written as digits or as English words."""

from __future__ import annotations

import math
import re
import unicodedata

from coat_core.corpus.normal_form import fold_characters

UNCLEAR = math.nan
"""Stands for a numeral with more than one reading: "2,5", "1,2,3", "1/2", "½", "two dozen"."""

_UNIT_WORDS = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve", "thirteen", "fourteen",
    "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
)  # fmt: skip
_UNITS = {word: number for number, word in enumerate(_UNIT_WORDS)}
_TENS = dict(zip(("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"), range(20, 100, 10), strict=True))
_SCALES = {"hundred": 100, "thousand": 1_000, "million": 1_000_000}
_TIMES = {"once": 1.0, "twice": 2.0, "thrice": 3.0}
_SIGNS = {"minus": -1, "negative": -1}
_VAGUE = frozenset(("dozen", "dozens", "half", "halves", "couple"))
_FRACTIONS = frozenset(("third", "thirds", "quarter", "quarters", "fifth", "fifths", "tenth", "tenths"))
_BEFORE_PRONOUN = frozenset(
    ("the", "this", "that", "first", "second", "third", "last", "next", "other", "another", "which", "each", "every", "any", "no",
     "some", "same", "right", "wrong", "correct", "former", "latter")
)  # fmt: skip

_BODY = "(?:[.,]?\\d|\u2044)(?:[.,:/^*\u00d7'_]?\\d|\u2044)*"
"""One digit a repetition: with `\\d+` inside, the time of a match that fails is exponential in the number of digits."""
_UNIT = r"(?:[hk]?hz|mhz|dbf?s?|m?s|x|h|hr|(?!(?:st|nd|rd|th)s?\b)[^\W\d_]{3,})"
_TOKEN = re.compile(rf"(?<![\w.])(?<![^\W\d_]-)([-+]?)({_BODY})({_UNIT}(?!\w))?(\w*)|[^\W\d_]+|[^\w\s]")
_CLEAR = re.compile(r"\d+|\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d*\.\d+")
_GLUED_UNIT = re.compile(rf"(?<![\w.])({_BODY})(?={_UNIT}(?!\w))")
_NUMBER_WORD = "|".join((*_UNITS, *_TENS, "a hundred"))
_BOUND = re.compile(
    rf"\bthan\b|\bat (?:least|most)\b|\b(?:over|under|above|below|beyond|almost|nearly|up to) (?=[-+.\d]|(?:{_NUMBER_WORD})\b)"
    r"|(?<![-=])[<>≤≥≠±]=?\s*(?=[-+.\d])|\d\+"
)


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
    """Return the numbers of a text in order: digits ("1,200", "-3.5", ".5", "440Hz") and English words ("negative twenty-one").

    A numeral with more than one reading is `UNCLEAR` (NaN): "2,5", "1,2,3", "1/2", "3²", "two and a half". Digits that are part
    of a word are not numbers: "MP3", "A4", "F-16", "3rd", "1e3". "one" after a determiner ("the first one") is not a number.
    """
    return _read(_tokens(text))


def parse_number(text: str) -> float | None:
    """Return the number that is the whole text ("7", "seven", "2.50", "minus 5"); None for any other text."""
    tokens = _tokens(text)
    found = _read(tokens)
    allowed = {*_UNITS, *_TENS, *_SCALES, *_SIGNS, "and", "a", "-", "+", "plus", "point", "."}
    others = any(isinstance(token, str) and token not in allowed for token in tokens)
    return found[0] if len(found) == 1 and not math.isnan(found[0]) and not others else None


def is_bound(text: str) -> bool:
    """Return whether a text gives a bound instead of a number: "at least 3", "more than 3", "over 3", "≥ 3", "3+"."""
    return _BOUND.search(fold_characters(text).casefold()) is not None


def split_units(text: str) -> str:
    """Return a text in lower case with a space between digits and the unit that follows: "440hz" → "440 hz"."""
    return _GLUED_UNIT.sub(r"\1 ", text)


def _tokens(text: str) -> list[str | float]:
    """Return words and symbols as strings and numerals as floats."""
    # NFKC would make "32" of "3²": such characters become the fraction slash (U+2044), which no clear numeral contains.
    kept = "".join("\u2044" if unicodedata.category(c) == "No" else c for c in text)
    folded = fold_characters(kept).casefold()
    digits = "".join(str(unicodedata.decimal(c)) if c.isdecimal() else c for c in folded)
    tokens: list[str | float] = []
    for match in _TOKEN.finditer(re.sub(r"\.{2,}", " ; ", digits)):
        sign, body, unit, rest = match.groups()
        if body is None or rest:
            tokens.append(match[0])
            continue
        value = float(body.replace(",", "")) if _CLEAR.fullmatch(body) else UNCLEAR
        tokens.append((-value if sign == "-" else value) if math.isfinite(value) else UNCLEAR)
        if unit:
            tokens.append(unit)
    return tokens


def _read(tokens: list[str | float]) -> list[float]:
    found: list[float] = []
    index = 0
    while index < len(tokens):
        value, after = _number_at(tokens, index)
        if value is None:
            index += 1
            continue
        if index and (sign := _SIGNS.get(str(tokens[index - 1]))):
            value *= sign
        found.append(UNCLEAR if math.isnan(value) else value)
        index = after
    return found


def _number_at(tokens: list[str | float], index: int) -> tuple[float | None, int]:
    """Return the number that begins at a token, or None, and the index of the token after it."""
    token = tokens[index]
    before = tokens[index - 1] if index else ""
    after = tokens[index + 1] if index + 1 < len(tokens) else ""
    if isinstance(token, float):
        index += 1
        while index < len(tokens) and tokens[index] in _SCALES:
            token, index = token * _SCALES[str(tokens[index])], index + 1
        return token, index
    if token in _VAGUE or (token in _FRACTIONS and (isinstance(before, float) or before == "a" or before in _UNITS)):
        return UNCLEAR, index + 1
    if token in _TIMES and before != "at" and after not in ("as", "the", "upon"):
        return _TIMES[token], index + 1
    if token == "one" and (after == "of" or before in _BEFORE_PRONOUN or (index > 1 and tokens[index - 2] in ("the", "this", "that"))):
        return None, index + 1
    if token in _SCALES:
        # "hundred and five" without "a" or "one".
        following = tokens[index + 2] if after == "and" and index + 2 < len(tokens) else after
        return (UNCLEAR if isinstance(following, float) or following in (*_UNITS, *_TENS) else None), index + 1
    return _words_at(tokens, index)


def _words_at(tokens: list[str | float], index: int) -> tuple[float | None, int]:
    words = _Words()
    if tokens[index] in ("a", "an") and index + 1 < len(tokens) and tokens[index + 1] in _SCALES:
        words.add("one")
        index += 1
    while index < len(tokens) and not isinstance(token := tokens[index], float):
        following = tokens[index + 1] if index + 1 < len(tokens) else ""
        if token in ("and", "-") and words.last and isinstance(following, str):
            if (words.last in _SCALES) == (token == "and") and words.accepts(following):
                index, token = index + 1, following
        elif token == "point" and words.last and following in _UNIT_WORDS[:10]:
            return _decimals(words.value, tokens, index + 1)
        if not words.accepts(token):
            break
        words.add(token)
        index += 1
    return (words.value, index) if words.last else (None, index + 1)


def _decimals(whole: float, tokens: list[str | float], index: int) -> tuple[float, int]:
    digits = ""
    while index < len(tokens) and tokens[index] in _UNIT_WORDS[:10]:
        digits += str(_UNITS[str(tokens[index])])
        index += 1
    return float(f"{whole:.0f}.{digits}"), index
