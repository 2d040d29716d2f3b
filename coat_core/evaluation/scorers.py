"""Scorers: `(example, response) → Score | Unscored`. Pure, so a scoring fix needs no new responses.

A response that cannot be read is *unscored*, never guessed at: it counts as wrong in accuracy and is reported as its own number.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

from coat_core.corpus.examples import Example
from coat_core.errors import EvaluationError
from coat_core.evaluation.numerals import numbers_in, parse_number

Kind = Literal["choice", "wer", "number"]

MAX_PHRASE_WORDS = 16
"""An option is looked for inside a response only up to this length: a longer one is rambling, not an answer."""

_HEDGES = frozenset(("not", "no", "nor", "neither", "never", "none", "or", "n't", "cannot"))
_LETTER = re.compile(r"\(?([a-z])\)?[.):]?")
_LETTER_THEN_TEXT = re.compile(r"(?:\(([a-z])\)|([a-z])[.):])\s*(.+)")
_NAMED_LETTER = re.compile(r"(?:.*\s)?(?:answer|option|choice)(?:\s+is)?\s*:?\s*\(?([a-z])\)?\.?")


@dataclass(frozen=True)
class Score:
    """A score in [0, 1]; 1 is best."""

    value: float
    kind: Kind


@dataclass(frozen=True)
class Unscored:
    """A response that could not be read, and why."""

    reason: str
    kind: Kind


Scorer = Callable[[Example, str], Score | Unscored]


def kind_of(example: Example) -> Kind:
    """Return how an example's answer is scored: by its choices, as a number, or else by its words (1 - WER)."""
    if example.choices is not None:
        return "choice"
    if example.family != "transcription" and parse_number(example.answer) is not None:
        return "number"
    return "wer"


def score(example: Example, response: str, *, numeric_tolerance: float = 0.0) -> Score | Unscored:
    """Score one response by the kind of its example.

    Args:
        example: the question, its choices and its answer.
        response: what the model said, without the end of turn.
        numeric_tolerance: largest absolute error that counts as right where the answer is a number.

    Raises:
        EvaluationError: the example's answer is not among its choices, or holds no words.
    """
    kind = kind_of(example)
    if kind == "choice":
        return score_choice(example, response)
    if kind == "number":
        return score_number(example, response, tolerance=numeric_tolerance)
    return score_words(example, response)


def plain(text: str) -> str:
    """Return a text in one case, one Unicode form and single spaces, without quotes around it or punctuation after it."""
    folded = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    return folded.strip("\"'`“”‘’*").rstrip(".!?,;:").strip("\"'`“”‘’* ")  # noqa: RUF001


def score_choice(example: Example, response: str) -> Score | Unscored:
    """Score a multiple-choice response: 1 if it names the right option and no other, 0 if it names a wrong one.

    Read in this order: the option's exact text; its letter ("A", "(b)", "c."), unless options are letters themselves; the
    letter with a text that agrees; the one option that stands in a short phrase as whole words.

    Raises:
        EvaluationError: the example has no choices, or its answer is not among them.
    """
    options = [plain(choice) for choice in example.choices or ()]
    if plain(example.answer) not in options:
        raise EvaluationError(
            f"{example.id}: the answer is not among the choices",
            field="answer",
            value=example.answer,
            allowed=list(example.choices or ()),
            next_step="run the contract stage, which sets such rows aside",
        )
    chosen = read_choice(options, response)
    return chosen if isinstance(chosen, Unscored) else Score(float(options[chosen] == plain(example.answer)), "choice")


def read_choice(options: Sequence[str], response: str) -> int | Unscored:
    """Return the index of the option that a response names (options as `plain` writes them), or why it cannot be told."""
    text = plain(response)
    if not text:
        return Unscored("empty response", "choice")
    if text in options:
        return options.index(text)
    lettered = not any(len(option) == 1 and option.isalpha() for option in options)
    if lettered:
        whole = _LETTER.fullmatch(text) or _NAMED_LETTER.fullmatch(text)
        if whole and (index := ord(whole[1]) - ord("a")) < len(options):
            return index
        if pair := _LETTER_THEN_TEXT.fullmatch(text):
            index = ord(pair[1] or pair[2]) - ord("a")
            named = _named_options(options, pair[3])
            if index < len(options) and named <= {index}:
                return index
            return Unscored("its letter and its text name different options", "choice")
    if len(text.split()) > MAX_PHRASE_WORDS:
        return Unscored(f"longer than {MAX_PHRASE_WORDS} words", "choice")
    named = _named_options(options, text)
    if len(named) > 1:
        return Unscored("names more than one option", "choice")
    if not named:
        named = _numbered_options(options, text)
    if len(named) != 1:
        return Unscored("names no option", "choice")
    (index,) = named
    rest = _blank(options[index], text).replace("n't", " n't").split()
    if _HEDGES & set(rest) and not _HEDGES & set(options[index].split()):
        return Unscored("names an option beside a negation", "choice")
    return index


def _pattern(option: str) -> str:
    # '#' and '-' join: "C" is not in "C#", nor "A" in "A-flat"; "3" is not in "3.5".
    return rf"(?<![\w#♯♭-])(?<!\d\.){re.escape(option)}(?![\w#♯♭-])(?!\.\d)"


def _blank(option: str, text: str) -> str:
    return re.sub(_pattern(option), " · ", text)


def _named_options(options: Sequence[str], text: str) -> set[int]:
    """Indices of the options in a text, longest first, so that "dog bark" does not name "dog" too."""
    named = set()
    for index in sorted(range(len(options)), key=lambda i: (-len(options[i]), i)):
        rest = _blank(options[index], text)
        if rest != text:
            named.add(index)
            text = rest
    return named


def _numbered_options(options: Sequence[str], text: str) -> set[int]:
    """Indices of the options that are the one number of a text, written the other way ("two" for "2")."""
    found = set(numbers_in(text))
    return {i for i, option in enumerate(options) if parse_number(option) in found} if len(found) == 1 else set()


def score_number(example: Example, response: str, *, tolerance: float = 0.0) -> Score | Unscored:
    """Score a numeric response, digits or words: 1 within `tolerance` (absolute, in the answer's unit) of the answer.

    Raises:
        EvaluationError: the answer is not a number.
    """
    wanted = parse_number(example.answer)
    if wanted is None:
        raise EvaluationError(f"{example.id}: the answer is not a number", field="answer", value=example.answer)
    if not response.strip():
        return Unscored("empty response", "number")
    found = set(numbers_in(response))
    if not found:
        return Unscored("holds no number", "number")
    if len(found) > 1:
        return Unscored("holds more than one number", "number")
    # The slack is for decimal fractions that binary floats miss, e.g. |0.3 - 0.2| ≤ 0.1.
    return Score(float(abs(found.pop() - wanted) <= tolerance + 1e-9), "number")


def score_words(example: Example, response: str) -> Score | Unscored:
    """Score spoken or open text: 1 - word error rate after the Whisper English normaliser, not below 0.

    The normaliser joins spoken digits ("three one" → "31"), which would make one wrong digit a wrong sequence: where the
    reference is digits only, both sides are compared digit by digit.

    Raises:
        EvaluationError: the answer holds no words.
    """
    import jiwer

    reference, heard = normalise_words(example.answer), normalise_words(response)
    if not any(map(str.isalnum, reference)):
        raise EvaluationError(f"{example.id}: the answer holds no words", field="answer", value=example.answer)
    if not any(map(str.isalnum, heard)):
        return Unscored("holds no words" if response.strip() else "empty response", "wer")
    if reference.replace(" ", "").isdigit():
        reference, heard = _apart(reference), _apart(heard)
    return Score(min(1.0, max(0.0, 1.0 - float(jiwer.wer(reference, heard)))), "wer")


def normalise_words(text: str) -> str:
    """Return a text as the Whisper paper (arXiv 2212.04356, appendix C) normalises English before WER.

    The table of British spellings is no part of transformers and is left out: both sides are spelt by the same corpus.
    """
    return str(_normaliser()(text)).strip()


@cache
def _normaliser() -> Callable[[str], str]:
    from transformers.models.whisper.english_normalizer import EnglishTextNormalizer

    normaliser: Callable[[str], str] = EnglishTextNormalizer({})
    return normaliser


def _apart(text: str) -> str:
    return " ".join(" ".join(word) if word.isdigit() else word for word in text.split())
