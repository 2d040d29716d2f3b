"""Scorers: `(example, response) → Score | Unscored`, pure functions of saved responses.

A response without a readable answer is *unscored*: it counts as wrong in accuracy, and its share is reported separately. A scorer
never raises on data: an example that cannot be scored is unscored, with the reason.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from coat_core.corpus.examples import Example
from coat_core.corpus.normal_form import normalise_option, normalise_words
from coat_core.corpus.numerals import UNCLEAR, is_bound, numbers_in, parse_number
from coat_core.evaluation.choices import NoChoice, choose
from coat_core.evaluation.statements import asks, denies, doubts, fold_lines, strip_markup

Kind = Literal["choice", "wer", "number"]


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
    if example.family != "transcription" and parse_number(example.label) is not None:
        return "number"
    return "wer"


def score(example: Example, response: str, *, numeric_tolerance: float = 0.0) -> Score | Unscored:
    """Score one response with the scorer of its example's kind.

    Args:
        example: the question, its choices and its answer.
        response: the model's response, without the end of turn.
        numeric_tolerance: largest absolute error of a correct numeric answer.
    """
    kind = kind_of(example)
    if kind == "choice":
        return score_choice(example, response)
    if kind == "number":
        return score_number(example, response, tolerance=numeric_tolerance)
    return score_words(example, response)


def score_choice(example: Example, response: str) -> Score | Unscored:
    """Score a multiple-choice response: 1 if it names the right option and no other, 0 if it names a wrong one.

    The rules are those of `coat_core.evaluation.choices`. An example without choices, or whose answer is not exactly one of them, is
    unscored: the contract quarantines such rows.
    """
    options = [normalise_option(choice) for choice in example.choices or ()]
    answer = normalise_option(example.label)
    if not answer or options.count(answer) != 1:
        return Unscored("the answer is not among the choices, or not only once", "choice")
    chosen = read_choice(options, response)
    return chosen if isinstance(chosen, Unscored) else Score(float(options[chosen] == answer), "choice")


def read_choice(options: Sequence[str], response: str) -> int | Unscored:
    """Return the index of the option that a response names, or the reason why none is; options are as `normalise_option` returns them."""
    chosen = choose(options, response)
    return Unscored(chosen.reason, "choice") if isinstance(chosen, NoChoice) else chosen


def score_number(example: Example, response: str, *, tolerance: float = 0.0) -> Score | Unscored:
    """Score a numeric response, digits or words: 1 if it is within `tolerance` (absolute, in the answer's unit) of the answer.

    A response with several numbers, an unclear numeral ("2,5", "1/2"), a bound ("at least 3"), a negation ("not 3") or an alternative
    ("3 or more"), and a question ("Is it 3?") are unscored. Units are not read: "440Hz" is 440.
    """
    expected = parse_number(example.label)
    if expected is None:
        return Unscored("the answer is not a number", "number")
    text = strip_markup(response)
    if not text.strip():
        return Unscored("empty response", "number")
    found = numbers_in(text)
    if not found:
        return Unscored("contains no number", "number")
    if UNCLEAR in found:
        return Unscored("contains an unclear number", "number")
    if len(set(found)) > 1:
        return Unscored("contains more than one number", "number")
    lower = fold_lines(text).casefold()
    if denies(lower) or doubts(lower) or is_bound(lower):
        return Unscored("contains a number next to a negation, a bound or an alternative", "number")
    if asks(lower):
        return Unscored("asks a question", "number")
    # 1e-9 absorbs binary rounding, e.g. |0.3 - 0.2| <= 0.1.
    return Score(float(abs(found[0] - expected) <= tolerance + 1e-9), "number")


def score_words(example: Example, response: str) -> Score | Unscored:
    """Score transcriptions and open answers: 1 - word error rate after the Whisper English normaliser, at least 0.

    The normaliser joins spoken digits ("three one" → "31"), so one wrong digit would make the whole sequence wrong. If the
    reference consists of digits only, both sides are compared digit by digit. An answer or a response without words after
    normalisation ("um", "[laughter]") is unscored: the contract quarantines such answers (jiwer #98).
    """
    import jiwer

    reference, hypothesis = normalise_words(example.label), normalise_words(response)
    if not any(map(str.isalnum, reference)):
        return Unscored("the answer contains no words", "wer")
    if not any(map(str.isalnum, hypothesis)):
        return Unscored("contains no words" if response.strip() else "empty response", "wer")
    if (digits := _split_digits(reference)).replace(" ", "").isdigit():
        reference, hypothesis = digits, _split_digits(hypothesis)
    return Score(min(1.0, max(0.0, 1.0 - float(jiwer.wer(reference, hypothesis)))), "wer")


def _split_digits(text: str) -> str:
    # The normaliser writes a digit 1 that stands alone as "one": "9 1" → "9 one".
    words = re.sub(r"(?<!\bno )\bone\b", "1", text).split()
    return " ".join(" ".join(word) if word.isdigit() else word for word in words)
