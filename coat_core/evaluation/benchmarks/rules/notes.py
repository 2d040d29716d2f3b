"""Qwen-Audio's reading of the notes of NSynth (QwenLM/Qwen-Audio b50fb95 `evaluate_note_analysis.py`, `heareval_score.py`).

The model writes tags: `<|pitch|><|midi_pitch_49|><|velocity|><|midi_velocity_25|><|instrument|>bass<|sonic|>dark`. An absent or
unreadable pitch or velocity becomes 128, on both sides: a truth without a pitch and an empty response agree.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from coat_core.evaluation.benchmarks.items import MISSING, BenchmarkItem, Given
from coat_core.evaluation.benchmarks.verdicts import Rule, Verdict, judged, left_out, stopped

ABSENT = 128
_NUMBER = {name: re.compile(rf"<\|{name}\|><\|midi_{name}_([0-9]+)\|>") for name in ("pitch", "velocity")}
_TEXT = {name: re.compile(rf"<\|{name}\|>([^<\n]*)") for name in ("instrument", "sonic")}


@dataclass(frozen=True)
class Note:
    """What the tags say: MIDI pitch and velocity (128: absent), instrument and qualities as text."""

    pitch: int
    velocity: int
    instrument: str
    sonic: str


def read_note(text: str) -> Note:
    """Return the note that a text describes; the first tag of a kind counts, and a blank between two tags breaks them."""
    numbers = {name: _first_number(pattern, text) for name, pattern in _NUMBER.items()}
    texts = {name: match[1] if (match := pattern.search(text)) else "" for name, pattern in _TEXT.items()}
    return Note(numbers["pitch"], numbers["velocity"], texts["instrument"], texts["sonic"])


def _first_number(pattern: re.Pattern[str], text: str) -> int:
    match = pattern.search(text)
    # Python reads at most 4,300 digits; the script would stop there.
    return int(match[1]) if match and len(match[1]) < 1000 else ABSENT


def note_verdict(part: str) -> Rule:
    """Return the rule for one part of the note, "pitch", "velocity" or "instrument"; the parts of both sides must be equal."""

    def rule(item: BenchmarkItem, given: Given) -> Verdict:
        if given is MISSING:
            return left_out("missing", "no row")
        if given is None:
            return stopped("TypeError: a pattern searches in null")
        truth, note = read_note(item.answer or ""), read_note(given)
        return judged(getattr(truth, part) == getattr(note, part))

    return rule


def pitch_measures(references: Sequence[int], predictions: Sequence[int]) -> dict[str, float] | None:
    """Return `top1` and `chroma` as the script computes them; None for no notes.

    The pitch class is computed on the index in the sorted list of the pitches that occur, not on MIDI numbers. With gaps in that list
    a note one octave off is wrong; without gaps it is right.

    Args:
        references: n MIDI pitches.
        predictions: n MIDI pitches.
    """
    if not references:
        return None
    index = {pitch: place for place, pitch in enumerate(sorted({*references, *predictions}))}
    pairs = [(index[truth], index[given]) for truth, given in zip(references, predictions, strict=True)]
    return {
        "top1": sum(truth == given for truth, given in pairs) / len(pairs),
        "chroma": sum((truth - given) % 12 == 0 for truth, given in pairs) / len(pairs),
    }
