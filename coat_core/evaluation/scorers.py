"""Scorers: `(example, response) → Score | Unscored`, pure functions of saved responses.

A response without a readable answer is *unscored*: it counts as wrong in accuracy, and its share is reported separately.
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
"""A longer response is unscored unless it is exactly an option: options are not searched in long text."""

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
    """A response without a readable answer, and the reason."""

    reason: str
    kind: Kind


def kind_of(example: Example) -> Kind:
    """Return how responses to an example are scored: by its choices, as a number, or by words (1 - WER)."""
    if example.choices is not None:
        return "choice"
    if example.family != "transcription" and parse_number(example.answer) is not None:
        return "number"
    return "wer"


def score(example: Example, response: str, *, numeric_tolerance: float = 0.0) -> Score | Unscored:
    """Score one response with the scorer of its example's kind.

    Args:
        example: the question, its choices and its answer.
        response: the model's response, without the end of turn.
        numeric_tolerance: largest absolute error of a correct numeric answer.

    Raises:
        EvaluationError: the example's answer is not among its choices, or contains no words.
    """
    kind = kind_of(example)
    if kind == "choice":
        return score_choice(example, response)
    if kind == "number":
        return score_number(example, response, tolerance=numeric_tolerance)
    return score_words(example, response)


def normalise_option(text: str) -> str:
    """Return a text in lower case, in one Unicode form and with single spaces, without enclosing quotes and final punctuation."""
    folded = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    return folded.strip("\"'`“”‘’*").rstrip(".!?,;:").strip("\"'`“”‘’* ")  # noqa: RUF001


def score_choice(example: Example, response: str) -> Score | Unscored:
    """Score a multiple-choice response: 1 if it names the right option and no other, 0 if it names a wrong one.

    Rules, in order: the exact text of an option; its letter ("A", "(b)", "c."), unless an option is itself a letter; the letter
    with a text that does not contradict it; the only option that occurs, as whole words, in a short phrase.

    Raises:
        EvaluationError: the example has no choices, or its answer is not among them.
    """
    options = [normalise_option(choice) for choice in example.choices or ()]
    if normalise_option(example.answer) not in options:
        raise EvaluationError(
            f"{example.id}: the answer is not among the choices",
            field="answer",
            value=example.answer,
            allowed=list(example.choices or ()),
            next_step="run the contract stage, which quarantines such rows",
        )
    chosen = read_choice(options, response)
    return chosen if isinstance(chosen, Unscored) else Score(float(options[chosen] == normalise_option(example.answer)), "choice")


def read_choice(options: Sequence[str], response: str) -> int | Unscored:
    """Return the index of the option that a response names, or the reason why none is; options are as `normalise_option` returns them."""
    text = normalise_option(response)
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
        return Unscored("names an option next to a negation", "choice")
    return index


def _pattern(option: str) -> str:
    # '#' and '-' are part of a word: "C" does not occur in "C#", nor "A" in "A-flat"; "3" does not occur in "3.5".
    return rf"(?<![\w#♯♭-])(?<!\d\.){re.escape(option)}(?![\w#♯♭-])(?!\.\d)"


def _blank(option: str, text: str) -> str:
    return re.sub(_pattern(option), " · ", text)


def _named_options(options: Sequence[str], text: str) -> set[int]:
    """Return the indices of the options that occur in a text; longest first, so that "dog bark" does not also match "dog"."""
    named = set()
    for index in sorted(range(len(options)), key=lambda i: (-len(options[i]), i)):
        rest = _blank(options[index], text)
        if rest != text:
            named.add(index)
            text = rest
    return named


def _numbered_options(options: Sequence[str], text: str) -> set[int]:
    """Return the indices of the options equal to the only number of a text, in digits or words ("two" for "2")."""
    found = set(numbers_in(text))
    return {i for i, option in enumerate(options) if parse_number(option) in found} if len(found) == 1 else set()


def score_number(example: Example, response: str, *, tolerance: float = 0.0) -> Score | Unscored:
    """Score a numeric response, digits or words: 1 if it is within `tolerance` (absolute, in the answer's unit) of the answer.

    Raises:
        EvaluationError: the answer is not a number.
    """
    expected = parse_number(example.answer)
    if expected is None:
        raise EvaluationError(f"{example.id}: the answer is not a number", field="answer", value=example.answer)
    if not response.strip():
        return Unscored("empty response", "number")
    found = set(numbers_in(response))
    if not found:
        return Unscored("contains no number", "number")
    if len(found) > 1:
        return Unscored("contains more than one number", "number")
    # 1e-9 absorbs binary rounding, e.g. |0.3 - 0.2| ≤ 0.1.
    return Score(float(abs(found.pop() - expected) <= tolerance + 1e-9), "number")


def score_words(example: Example, response: str) -> Score | Unscored:
    """Score transcriptions and open answers: 1 - word error rate after the Whisper English normaliser, at least 0.

    The normaliser joins spoken digits ("three one" → "31"), so one wrong digit would make the whole sequence wrong. If the
    reference consists of digits only, both sides are compared digit by digit.

    Raises:
        EvaluationError: the answer contains no words.
    """
    import jiwer

    reference, hypothesis = normalise_words(example.answer), normalise_words(response)
    if not any(map(str.isalnum, reference)):
        raise EvaluationError(f"{example.id}: the answer contains no words", field="answer", value=example.answer)
    if not any(map(str.isalnum, hypothesis)):
        return Unscored("contains no words" if response.strip() else "empty response", "wer")
    if reference.replace(" ", "").isdigit():
        reference, hypothesis = _split_digits(reference), _split_digits(hypothesis)
    return Score(min(1.0, max(0.0, 1.0 - float(jiwer.wer(reference, hypothesis)))), "wer")


def normalise_words(text: str) -> str:
    """Normalise English text as the Whisper paper does before WER (arXiv 2212.04356, appendix C).

    The table of British spellings is not part of transformers and is not used.
    """
    return str(_normaliser()(text)).strip()


@cache
def _normaliser() -> Callable[[str], str]:
    from transformers.models.whisper.english_normalizer import EnglishTextNormalizer

    normaliser: Callable[[str], str] = EnglishTextNormalizer({})
    return normaliser


def _split_digits(text: str) -> str:
    return " ".join(" ".join(word) if word.isdigit() else word for word in text.split())
