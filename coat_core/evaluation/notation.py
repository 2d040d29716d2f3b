"""One spelling of labels, units, ranges, times and notes for the options of a question and a response to it."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from coat_core.corpus.normal_form import normalise_option
from coat_core.corpus.numerals import parse_number, split_units

_LABEL = re.compile(r"(?:(?:option|choice) )?(?:[(\[]([a-z1-9])[)\]][.:]? ?|([a-z])[.):] ?|([1-9])[.):] )(?=\S)")
_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_NAMED_NUMBER = re.compile(
    r"(^\W*(?:the )?(?:(?:correct |final )?(?:answer|option|choice)(?: is)?:?\s*)?(?:option |choice )?[(\[]?)([1-9])(?=[)\].:]|\W*$)",
    re.IGNORECASE,
)

_SPELLINGS = {
    "s": ("s", "sec", "secs", "second", "seconds"),
    "ms": ("ms", "msec", "millisecond", "milliseconds"),
    "min": ("min", "mins", "minute", "minutes"),
    "hz": ("hz", "hertz"),
    "khz": ("khz", "kilohertz"),
    "bpm": ("bpm", "beats per minute"),
    "db": ("db", "decibel", "decibels"),
    "percent": ("%", "percent", "per cent"),
}
_UNITS = {spelling: unit for unit, spellings in _SPELLINGS.items() for spelling in spellings}
_UNIT = re.compile(rf"(?<=\d)[ -]?({'|'.join(map(re.escape, sorted(_UNITS, key=len, reverse=True)))})(?!\w)", re.IGNORECASE)
_RANGE = re.compile(r"(?<=\d)\s*(?:-|\bto\b)\s*(?=\d)", re.IGNORECASE)
_TIME = re.compile(r"(?<![\d:])0(?=\d:\d\d)")
_FLAT = re.compile(r"(?<!\w)(?<!\d )([a-g])(?:[ -]?(?:flat|♭)(?!\w)|♭|b(?![a-z]))", re.IGNORECASE)
_SHARP = re.compile(r"(?<!\w)([a-g])(?:[ -]?sharp(?!\w)| ?[#♯])", re.IGNORECASE)
_RULES: tuple[tuple[re.Pattern[str], re.Pattern[str], str | Callable[[re.Match[str]], str]], ...] = (
    (_RANGE, _RANGE, "-"),
    (re.compile(r"\d:\d\d"), _TIME, ""),
    (_FLAT, _FLAT, "\\1♭"),
    (_SHARP, _SHARP, "\\1#"),
    (_UNIT, _UNIT, lambda match: f" {_UNITS[match[1].casefold()]}"),
)
"""What an option must contain, what is replaced, and by what."""
_QUANTITY_WORDS = 6
"""Words of the longest number and of the longest unit that are searched for."""


def split_labels(options: Sequence[str]) -> tuple[list[int], list[str], bool] | None:
    """Return the order of the options by their labels, their texts in this order, whether the labels are numbers; None without labels.

    ("(b) dog", "(a) cat") has the order [1, 0] and the texts ["cat", "dog"]. All options must have a label, the labels must be the
    first letters or numbers, and the texts must differ.
    """
    found = [_LABEL.match(option) for option in options]
    labels = [next(filter(None, match.groups())) for match in found if match]
    texts = [normalise_option(option[match.end() :]) for option, match in zip(options, found, strict=True) if match]
    if len(options) < 2 or sorted(labels) not in (list(_LETTERS[: len(options)]), [str(n + 1) for n in range(len(options))]):
        return None
    if not all(texts) or len(set(texts)) != len(texts):
        return None
    order = sorted(range(len(options)), key=labels.__getitem__)
    return order, [texts[index] for index in order], labels[0].isdecimal()


def letters_of_numbers(options: Sequence[str], clean: str) -> str:
    """Return a response to options that are labelled by numbers with the letter in place of a label: "2. dog" → "B. dog"."""
    if any(map(str.isdecimal, "".join(options))):
        return clean
    return _NAMED_NUMBER.sub(lambda match: match[1] + _LETTERS[int(match[2]) - 1].upper(), clean)


def one_spelling(options: Sequence[str]) -> Callable[[str], str]:
    """Return a function that gives options and a response the same spelling: "2 to 4" → "2-4", "25 %" → "25 percent", "B flat" → "B♭".

    A spelling is replaced only if an option contains one of its kind; of notes only if no option is a letter ("C", "C#"). Nothing is
    replaced if two options would become equal.
    """
    letters = any(len(option) == 1 and option.isalpha() for option in options)
    used = [(pattern, spelling) for condition, pattern, spelling in _RULES if any(map(condition.search, options))]
    used = [rule for rule in used if not (letters and rule[0] in (_FLAT, _SHARP))]

    def replace(text: str) -> str:
        for pattern, replacement in used:
            text = pattern.sub(replacement, text)
        return text

    return replace if len(set(map(replace, options))) == len(set(options)) else str


def quantity(text: str) -> tuple[float, str] | None:
    """Return the number and the unit of a text that consists of both ("ten seconds" → 10, "s"); None for any other text."""
    words = split_units(text).split()
    for end in range(min(_QUANTITY_WORDS, len(words) - 1), 0, -1):
        if (number := parse_number(" ".join(words[:end]))) is not None:
            return number, _unit_of(" ".join(words[end:]))
    return None


def states(text: str, number: float, unit: str) -> bool:
    """Return whether a text contains a number and this unit directly after it."""
    words = re.sub(r"[^\w\s.%'-]|[.,](?=\s|$)", " ", split_units(text)).split()
    for middle in range(1, len(words)):
        units = {_unit_of(" ".join(words[middle:end])) for end in range(middle + 1, min(middle + _QUANTITY_WORDS, len(words)) + 1)}
        starts = range(max(0, middle - _QUANTITY_WORDS), middle)
        if unit in units and any(parse_number(" ".join(words[start:middle])) == number for start in starts):
            return True
    return False


def _unit_of(text: str) -> str:
    return _UNITS.get(text, text[:-1] if len(text) > 3 and text.endswith("s") and not text.endswith("ss") else text)
