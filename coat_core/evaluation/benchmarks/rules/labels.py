"""Rules for one label of a closed list: emotion, genre, instrument, vocal sound.

Qwen2-Audio (595360e `evaluate_emotion.py`, `evaluate_vocal_sound.py`) compares exactly after removing blanks on the left only. Qwen-Audio
(b50fb95) removes them on both sides. UltraEval-Audio (9b69da6) accepts what begins with the label. Audio Flamingo (NVIDIA/audio-flamingo
issue 9) compares Porter stems, and gives everything else the label nearest in the embedding of all-MiniLM-L6-v2.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from coat_core.evaluation.benchmarks.items import MISSING, BenchmarkItem, Given
from coat_core.evaluation.benchmarks.rules.porter import stem
from coat_core.evaluation.benchmarks.verdicts import Rule, Verdict, judged, left_out, stopped

Nearest = Callable[[str, Sequence[str]], str]
"""Text and labels in alphabetical order → the nearest label."""


def exact_after_left_strip(answer: str, response: str) -> bool:
    """Return Qwen2-Audio's comparison: a blank or newline at the end is a mistake."""
    return response.lstrip() == answer


def exact_after_strip(answer: str, response: str) -> bool:
    """Return Qwen-Audio's comparison."""
    return response.strip() == answer


def begins_with(answer: str, response: str) -> bool:
    """Return UltraEval-Audio's comparison: "popular music" is "pop"."""
    return response.strip().lower().startswith(answer.strip().lower())


def exact_in_lower_case(answer: str, response: str) -> bool:
    """Return whether both are equal in lower case without blanks around them."""
    return response.strip().lower() == answer.strip().lower()


def same_stem(answer: str, response: str) -> bool:
    """Return the first step of Audio Flamingo's rule: the Porter stems are equal, without `.`, `,` and `;`."""
    return _stemmed(response) == _stemmed(answer)


def _stemmed(text: str) -> str:
    return stem(text.translate(str.maketrans("", "", ".,;")).strip().lower())


def comparison(compare: Callable[[str, str], bool]) -> Rule:
    """Return the rule of a script that compares strings; null stops it, an absent row is not counted.

    Args:
        compare: answer and response → right or not.
    """

    def rule(item: BenchmarkItem, given: Given) -> Verdict:
        if given is MISSING:
            return left_out("missing", "no row")
        if given is None:
            return stopped("AttributeError: a method of null")
        if item.answer is None:
            return left_out("needs_model", "the published file has no answer")
        right = compare(item.answer, given)
        return judged(right) if right or given.strip() else Verdict(0.0, "empty")

    return rule


def audio_flamingo(nearest: Nearest | None = None) -> Rule:
    """Return Audio Flamingo's rule: equal stems are right, else the nearest label decides.

    Args:
        nearest: the embedding model. Without one, a response whose stem is not the answer's gets no verdict: the published rule
            would still give it a label.
    """

    def rule(item: BenchmarkItem, given: Given) -> Verdict:
        if given is MISSING:
            return left_out("missing", "no row")
        if given is None:
            return stopped("AttributeError: a method of null")
        if item.answer is None:
            return left_out("needs_model", "the published file has no answer")
        if same_stem(item.answer, given):
            return judged(True)
        if nearest is None:
            return left_out("needs_model", "the nearest label needs the embedding model all-MiniLM-L6-v2")
        return judged(nearest(given, sorted(item.options)) == item.answer)

    return rule


VOCAL_SOUND_WORDS = {
    "Laughter": "laughter",
    "Sigh": "sigh",
    "Cough": "cough",
    "Throat clearing": "throat",
    "Sniff": "sniff",
    "Sneeze": "sneeze",
}
"""Label → the word that lmms-eval searches, in its order."""


def first_vocal_sound(answer: str, response: str) -> bool:
    """Return lmms-eval's comparison (75571cf): the first class of its own order whose word occurs anywhere is taken."""
    text = response.lower()
    return next((label for label, word in VOCAL_SOUND_WORDS.items() if word in text), None) == answer
