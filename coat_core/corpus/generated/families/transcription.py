"""Transcription: synthesised sequences of words."""

from __future__ import annotations

from numpy.random import Generator

from coat_core.corpus.generated.families.recipe import WORDS, Performers, Recipe
from coat_core.corpus.generated.mixing import Waveform, sequence
from coat_core.corpus.generated.speech import Synthesiser
from coat_core.corpus.questions import Facts, Task


def _complete(facts: Facts, rng: Generator) -> None:
    facts["words"] = (facts["first"], *(WORDS[int(i)] for i in rng.integers(len(WORDS), size=facts["count"] - 1)))


def _render(facts: Facts, performers: Performers, rng: Generator, synthesiser: Synthesiser) -> Waveform:
    rate, pitch = int(rng.choice([-15, 0, 15])), int(rng.choice([-6, 0, 6]))
    words = [synthesiser.speak(word, performers.voice, rate=rate, pitch=pitch) for word in facts["words"]]
    return sequence(words, list(rng.uniform(0.08, 0.2, size=len(words) - 1)))


_WORDS = Task("words", ("What does the speaker say?", "Transcribe the speech."), lambda facts: " ".join(facts["words"]))
_FIRST = Task("first_word", ("What is the first word?", "Which word is spoken first?"), lambda facts: facts["words"][0])
_LAST = Task("last_word", ("What is the last word?", "Which word is spoken last?"), lambda facts: facts["words"][-1])

RECIPES = (Recipe("words", "voice", {"count": (1, 2, 3, 4), "first": WORDS}, (_WORDS, _FIRST, _LAST), _complete, _render),)
