"""Our reading of a response: the scorers of `coat_core.evaluation`. What names no answer is unscored and counts as wrong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from coat_core.corpus.examples import Example, Family
from coat_core.corpus.normal_form import normalise_option
from coat_core.evaluation.benchmarks.items import MISSING, BenchmarkItem, Given
from coat_core.evaluation.scorers import Kind, Score, Unscored, score_choice, score_words

Strict = Callable[[BenchmarkItem, Given], Score | Unscored]


def strict_choice(item: BenchmarkItem, given: Given) -> Score | Unscored:
    """Score a response to a question with options: 1 if it names the right option and no other."""
    absent = _absent(given, "choice")
    return absent if absent is not None else score_choice(_example(item, "understanding"), str(given))


def strict_words(item: BenchmarkItem, given: Given) -> Score | Unscored:
    """Score a transcript: 1 - word error rate after Whisper's normaliser without its table of spellings, at least 0."""
    absent = _absent(given, "wer")
    return absent if absent is not None else score_words(_example(item, "transcription"), str(given))


def token_overlap(item: BenchmarkItem, given: Given) -> Score | Unscored:
    """Score an open answer by the F1 of its words against the reference: a stand-in for a judge, never comparable with one."""
    absent = _absent(given, "wer")
    if absent is not None:
        return absent
    truth, response = item.answer or "", str(given)
    if not normalise_option(truth) or not normalise_option(response):
        return Unscored("no words", "wer")
    return Score(word_overlap(truth, response), "wer")


def word_overlap(reference: str, response: str) -> float:
    """Return the F1 of the words of two texts, repetitions counted; 0 if one has none."""
    truth, words = (Counter(normalise_option(text).split()) for text in (reference, response))
    common = (truth & words).total()
    return 2 * common / (truth.total() + words.total()) if common else 0.0


def scorable(item: BenchmarkItem) -> bool:
    """Return whether a response could be right in our reading: the answer is exactly one of the options, or there are no options."""
    if item.choices is None:
        return bool(item.answer)
    options = [normalise_option(option) for option in item.options]
    return item.answer is not None and options.count(normalise_option(item.answer)) == 1


def _absent(given: Given, kind: Kind) -> Unscored | None:
    if given is MISSING or given is None:
        return Unscored("no response", kind)
    return None


def _example(item: BenchmarkItem, family: Family) -> Example:
    # A published row may contain what our manifests refuse, e.g. options without an answer: no validation.
    choices = item.options if item.choices is not None else None
    return Example.model_construct(
        id=item.id, audio=item.audio, sha256="", duration_s=0.0, sample_rate_hz=0, split="test", group=item.id, family=family, task="",
        question=item.question, choices=choices, answer=item.answer or "", source="", licence="",
    )  # fmt: skip
