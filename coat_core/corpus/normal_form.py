"""Normal forms of text, shared by the data contract and the scorers: two texts are the same answer if their normal forms are equal."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from functools import cache

_APOSTROPHES = "\u2018\u2019\u201a\u201b\u02bc\u02b9\u02bb\u02bd\u00b4\u2032\uff07\u0060"
_QUOTES = "\u201c\u201d\u201e\u201f\u00ab\u00bb\u2033\uff02"
_HYPHENS = "\u2010\u2011\u2012\u2013\u2212\ufe63\uff0d"
_DASHES = "\u2014\u2015"
_CHARACTERS = str.maketrans(
    dict.fromkeys(_APOSTROPHES, "'") | dict.fromkeys(_QUOTES, '"') | dict.fromkeys(_HYPHENS, "-") | dict.fromkeys(_DASHES, " - ")
)
_INVISIBLE = re.compile("[\u00ad\u034f\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f\ufe00-\ufe0f\ufeff\u20e3]")
_ENCLOSING = "\"'*"
_FILLERS = "\u2800\u3164\u115f\u1160\uffa0"
"""Characters of the categories letter and symbol that are displayed as nothing (Braille blank, Hangul fillers)."""


def is_blank(text: str) -> bool:
    """Return whether a text shows nothing: only spaces, control and format characters, combining marks and fillers."""
    return all(unicodedata.category(character)[0] in "CZM" or character in _FILLERS for character in text)


def fold_characters(text: str) -> str:
    """Return a text in NFKC with one apostrophe, one quotation mark, one hyphen, and without invisible characters.

    U+2019 and the other apostrophes become "'", so "isn’t" equals "isn't"; a long dash becomes " - ".
    """
    # Before NFKC, which makes a space and a combining mark of some apostrophes.
    visible = _INVISIBLE.sub("", text.translate(_CHARACTERS))
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", visible).translate(_CHARACTERS))


def normalise_option(text: str) -> str:
    """Return the normal form of a choice: folded characters, lower case, single spaces, no enclosing quotes, no final punctuation.

    Two choices with the same normal form cannot be told apart in a response. It is "" for a text of punctuation only.
    The function is idempotent.
    """
    return _fixed_point(_normalise_once, text)


def _normalise_once(text: str) -> str:
    folded = " ".join(fold_characters(text).casefold().split())
    return folded.strip(_ENCLOSING).rstrip(".!?,;:").strip(_ENCLOSING + " ")


def _fixed_point(function: Callable[[str], str], text: str) -> str:
    while (result := function(text)) != text:
        text = result
    return text


def normalise_words(text: str) -> str:
    """Normalise English text as the Whisper paper does before WER (arXiv 2212.04356, appendix C).

    Apostrophes are folded before, because the normaliser expands only "don't" with U+0027. The table of British spellings is not
    part of transformers and is not used. The result has no letter or digit for a text of fillers ("um"), annotations
    ("[laughter]") or punctuation: see `has_words`.
    """
    folded = fold_characters(text)
    english, basic = _normalisers()
    try:
        return english(folded).strip()
    except (ValueError, ArithmeticError):
        # The number reader of transformers raises on a few texts, e.g. on a number of more than 4,300 digits.
        return basic(folded).strip()


def has_words(text: str) -> bool:
    """Return whether a transcript or open answer can be scored by words: its normal form contains a letter or a digit."""
    return any(map(str.isalnum, normalise_words(text)))


@cache
def _normalisers() -> tuple[Callable[[str], str], Callable[[str], str]]:
    from transformers.models.whisper.english_normalizer import BasicTextNormalizer, EnglishTextNormalizer

    return EnglishTextNormalizer({}), BasicTextNormalizer()
