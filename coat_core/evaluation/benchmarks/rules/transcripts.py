"""Word error rates of transcripts under published normalisers (LibriSpeech).

Whisper (openai/whisper c0d2f62): the English normaliser on both sides. Qwen2-Audio (595360e `evaluate_asr.py`): tags of the form `<|…|>`
become blanks and blanks before punctuation go, then the English and the basic normaliser, so `$`, `%` and `.` are lost. Qwen-Audio
(b50fb95): no normaliser, lower case only, punctuation stays and counts. The English normaliser is that of transformers; its table of
British spellings is a file of openai/whisper, `whisper/normalizers/english.json`, which transformers does not contain.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from coat_core.evaluation.benchmarks.items import MISSING, BenchmarkItem, Given
from coat_core.evaluation.benchmarks.verdicts import Rule, Verdict, left_out, stopped

Normaliser = Callable[[str], str]
_TAG = re.compile(r"<\|.*?\|>")


@dataclass(frozen=True)
class WordErrors:
    """Edits between two transcripts and the words of the reference."""

    edits: int
    reference_words: int

    @property
    def rate(self) -> float | None:
        """Edits over reference words, above 1 for long responses; None for a reference without words."""
        return self.edits / self.reference_words if self.reference_words else None


def word_errors(reference: str, hypothesis: str) -> WordErrors:
    """Count substitutions, insertions and deletions of words between blanks (Levenshtein distance)."""
    import jiwer

    words, given = reference.split(), hypothesis.split()
    if not words or not given:
        return WordErrors(max(len(words), len(given)), len(words))
    output = jiwer.process_words(" ".join(words), " ".join(given))
    return WordErrors(output.substitutions + output.insertions + output.deletions, len(words))


def whisper_english(spellings: Mapping[str, str]) -> Normaliser:
    """Return Whisper's English normaliser.

    Args:
        spellings: British → American, the content of openai/whisper's `english.json`.
    """
    from transformers.models.whisper.english_normalizer import EnglishTextNormalizer

    english: Any = EnglishTextNormalizer(dict(spellings))

    def normalise(text: str) -> str:
        try:
            return str(english(text)).strip()
        except (ValueError, ArithmeticError):
            # The reader of number words raises on a few texts, e.g. on a number of more than 4,300 digits.
            return " ".join(text.lower().split())

    return normalise


def qwen2_audio_script(spellings: Mapping[str, str]) -> Normaliser:
    """Return Qwen2-Audio's chain for English: both normalisers of Whisper after the cleaning of tags and blanks."""
    from transformers.models.whisper.english_normalizer import BasicTextNormalizer

    english, basic = whisper_english(spellings), BasicTextNormalizer()
    return lambda text: str(basic(english(_cleaned(text)))).strip()


def qwen_audio(text: str) -> str:
    """Return Qwen-Audio's form of a text: no tags, lower case, punctuation kept."""
    return _cleaned(text).lower()


def _cleaned(text: str) -> str:
    text = re.sub(r"\s+", " ", _TAG.sub(" ", text))
    return re.sub(r" ([!,.?;:])", r"\1", text).lstrip(" ")


def transcript_verdict(normalise: Normaliser) -> Rule:
    """Return the rule that gives an item its word error rate, with `edits` and `reference_words` in the details.

    A reference that is empty after normalisation has no rate; as the first of a set it stops Qwen2-Audio's script (IndexError), later it
    adds nothing to either sum. The corpus rate is the sum of edits over the sum of reference words, not the mean of the items' rates.
    """

    def rule(item: BenchmarkItem, given: Given) -> Verdict:
        if given is MISSING:
            return left_out("missing", "no row")
        if given is None:
            return stopped("TypeError: a pattern searches in null")
        errors = word_errors(normalise(item.answer or ""), normalise(given))
        details = {"edits": errors.edits, "reference_words": errors.reference_words}
        if errors.rate is None:
            return Verdict(None, "empty", "the reference has no words after normalisation", details=details)
        return Verdict(errors.rate, "matched" if errors.edits == 0 else "wrong", details=details)

    return rule
