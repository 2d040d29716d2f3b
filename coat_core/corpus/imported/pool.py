"""The recordings of one split, grouped by label."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import cached_property

from coat_core.corpus.audio import SAMPLE_RATE_HZ
from coat_core.corpus.imported.composition import Waveform, active, steadiest
from coat_core.corpus.imported.index import Recording

_STEADY_DB = -16.0
"""Lowest level of a 20 ms frame of a countable burst, relative to the loudest frame of its recording: a burst contains no pause."""
_BURST_S = 0.45


class Pool:
    """The recordings of one split by label.

    Args:
        recordings: all recordings of the split.
        load: returns the waveform of a recording.
        max_words_s: longest total duration of the words in a clip.
    """

    def __init__(self, recordings: Sequence[Recording], load: Callable[[Recording], Waveform], max_words_s: float) -> None:
        self.words = _by(recordings, "word", lambda r: r.group)
        self.events = _by(recordings, "event", lambda r: r.event)
        self.actors = {
            actor: _by(takes, "emotion", lambda r: r.emotion) for actor, takes in _by(recordings, "emotion", lambda r: r.group).items()
        }
        self.instruments = _by(recordings, "note", lambda r: r.instrument)
        self.emotions = sorted({r.emotion for r in recordings if r.emotion})
        self.intensities = sorted({r.intensity for r in recordings if r.role == "emotion" and r.intensity})
        self.max_words_s = max_words_s
        self._load = load
        self._possible: dict[str, bool] = {}

    def possible(self, name: str, attempt: Callable[[Pool], bool]) -> bool:
        """Return whether scene `name` can be made of these recordings. The result of `attempt` is cached."""
        if name not in self._possible:
            self._possible[name] = attempt(self)
        return self._possible[name]

    @cached_property
    def countable(self) -> dict[str, list[Recording]]:
        """Recordings with a burst that is steady enough to be repeated and counted, by event."""

        def steady(recording: Recording) -> bool:
            return steadiest(active(self._load(recording)), int(_BURST_S * SAMPLE_RATE_HZ))[1] >= _STEADY_DB

        kept = {event: [r for r in recordings if steady(r)] for event, recordings in self.events.items()}
        return {event: recordings for event, recordings in kept.items() if recordings}


def _by(recordings: Sequence[Recording], role: str, key: Callable[[Recording], str]) -> dict[str, list[Recording]]:
    grouped: dict[str, list[Recording]] = defaultdict(list)
    for recording in recordings:
        if recording.role == role:
            grouped[key(recording)].append(recording)
    return dict(grouped)
