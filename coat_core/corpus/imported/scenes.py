"""Scenes of recordings and their tasks: the five families from words, events, emotions and notes.

A proposer makes a random scene from labels only. The importer requests several scenes for each clip and uses the one whose answers
are the least frequent so far. To add a task, add a `Task` to `TASKS` and its key to a proposer. To add a scene, add a proposer to
`SCENES`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from numpy.random import Generator

from coat_core.corpus.examples import Family
from coat_core.corpus.imported.composition import Layout
from coat_core.corpus.imported.index import Recording
from coat_core.corpus.imported.pool import Pool
from coat_core.corpus.questions import Facts, Task, fact

T = TypeVar("T")

_COUNTS = ("one", "two", "three", "four")
_PART_DBFS = -24.0
_LOW, _MIDDLE, _HIGH = 55, (58, 73), 76
"""Registers as MIDI notes: low up to G3, middle A#3 to C#5, high from E5. Notes between them have no register."""
_INTERVAL = (2, 12)
"""Range of the interval between two notes that are compared, in semitones."""

_YES_NO = ("yes", "no")
TASKS: dict[str, Task] = {
    task.key: task
    for task in (
        Task("words", ("What is said?", "Which words are spoken?", "Write down the words you hear."), fact("words")),
        Task("last_word", ("What is the last word?", "Which word comes last?"), fact("last_word")),
        Task("event", ("What sound is this?", "Which sound do you hear?"), fact("event"), lambda facts: facts["events"]),
        Task("event_present", ("Do you hear this sound: {named}?", "Is there a sound of {named}?"), fact("present"), _YES_NO),
        Task("first_event", ("Which sound comes first?", "What do you hear first?"), fact("first"), lambda facts: facts["events"]),
        Task("second_event", ("Which sound comes second?", "What do you hear second?"), fact("second"), lambda facts: facts["events"]),
        Task("event_count", ("How many times does the sound come?", "How often do you hear the sound?"), fact("count"), _COUNTS),
        Task(
            "instrument",
            ("Which instrument is playing?", "What instrument is this?"),
            fact("instrument"),
            lambda facts: facts["instruments"],
        ),
        Task(
            "register", ("Is the note low, middle or high?", "Which register is the note in?"), fact("register"), ("low", "middle", "high")
        ),
        Task("dynamic", ("Is the note played loud or soft?", "How is the note played?"), fact("dynamic"), ("loud", "soft")),
        Task(
            "interval",
            ("Does the second note go up, down or stay the same?", "Where does the second note go?"),
            fact("interval"),
            ("up", "down", "same"),
        ),
        Task("emotion", ("How does the speaker feel?", "Which emotion do you hear?"), fact("emotion"), lambda facts: facts["emotions"]),
        Task(
            "intensity",
            ("How strong is the emotion?", "Is the emotion normal or strong?"),
            fact("intensity"),
            lambda facts: facts["intensities"],
        ),
        Task(
            "same_speaker",
            ("Is it the same speaker both times?", "Do both sentences have the same speaker?"),
            fact("same_speaker"),
            _YES_NO,
        ),
        Task(
            "same_emotion",
            ("Is it the same emotion both times?", "Do both sentences have the same emotion?"),
            fact("same_emotion"),
            _YES_NO,
        ),
        Task(
            "event_order",
            ("Which comes first: {one} or {other}?", "Which do you hear first: {one} or {other}?"),
            fact("first"),
            lambda facts: facts["pair"],
        ),
        Task("event_absent", ("Which sound is not there?", "Which sound do you not hear?"), fact("absent"), lambda facts: facts["three"]),
        Task("higher_note", ("Which note is higher?", "Is the first or the second note higher?"), fact("higher"), ("first", "second")),
        Task(
            "same_instrument",
            ("Is it the same instrument both times?", "Do both notes have the same instrument?"),
            fact("same_instrument"),
            _YES_NO,
        ),
    )
}


@dataclass(frozen=True)
class Scene:
    """Recordings in their order, the layout of the clip, and the keys and facts of its tasks."""

    parts: tuple[Recording, ...]
    layout: Layout
    tasks: tuple[str, ...]
    facts: Facts


Proposer = Callable[[Pool, Generator], Scene | None]
"""Returns a random scene, or None if the recordings do not allow it. Its name is part of a seed: renaming it changes the corpus."""


def spoken_words(pool: Pool, rng: Generator) -> Scene | None:
    """One to four words of one speaker."""
    if not pool.words:
        return None
    recordings = pool.words[_pick(rng, sorted(pool.words))]
    parts = tuple(_pick(rng, recordings) for _ in range(int(rng.integers(1, 5))))
    if sum(part.duration_s for part in parts) > pool.max_words_s:
        return None
    words = [part.transcript for part in parts]
    layout = Layout(whole=True, level_dbfs=_PART_DBFS, gap_s=(0.08, 0.25))
    return Scene(
        parts, layout, ("words", "last_word") if len(parts) > 1 else ("words",), {"words": " ".join(words), "last_word": words[-1]}
    )


def one_event(pool: Pool, rng: Generator) -> Scene | None:
    """One sound event."""
    events = sorted(pool.events)
    if len(events) < 4:
        return None
    event = _pick(rng, events)
    present = bool(rng.integers(2))
    named = event if present else _pick(rng, [other for other in events if other != event])
    facts = {"event": event, "events": events, "named": named, "present": _yes(present)}
    return Scene((_pick(rng, pool.events[event]),), Layout(part_s=4.0, level_dbfs=_PART_DBFS), ("event", "event_present"), facts)


def two_events(pool: Pool, rng: Generator) -> Scene | None:
    """Two different events, one after the other."""
    events = sorted(pool.events)
    if len(events) < 4:
        return None
    first, second, absent = (events[i] for i in rng.permutation(len(events))[:3])
    one, other = (first, second) if rng.integers(2) else (second, first)
    facts = {"first": first, "second": second, "events": events, "one": one, "other": other, "pair": (one, other), "absent": absent}
    facts["three"] = (first, second, absent)
    parts = (_pick(rng, pool.events[first]), _pick(rng, pool.events[second]))
    return Scene(parts, Layout(part_s=2.5, level_dbfs=_PART_DBFS), ("first_event", "second_event"), facts)


def ordered_events(pool: Pool, rng: Generator) -> Scene | None:
    """Two different events, for reasoning tasks."""
    scene = two_events(pool, rng)
    return scene and Scene(scene.parts, scene.layout, ("event_order", "event_absent"), scene.facts)


def counted_events(pool: Pool, rng: Generator) -> Scene | None:
    """One to four bursts of one recording."""
    if len(pool.countable) < 2 or len(pool.events) < 4:
        return None
    event = _pick(rng, sorted(pool.countable))
    repeats = int(rng.integers(1, 5))
    facts = {"event": event, "events": sorted(pool.events), "count": _COUNTS[repeats - 1]}
    layout = Layout(repeats=repeats, level_dbfs=_PART_DBFS, gap_s=(0.3, 0.5))
    return Scene((_pick(rng, pool.countable[event]),), layout, ("event_count", "event"), facts)


def one_note(pool: Pool, rng: Generator) -> Scene | None:
    """One note at its recorded level."""
    instruments = sorted(pool.instruments)
    if len(instruments) < 4:
        return None
    note = _pick(rng, pool.instruments[_pick(rng, instruments)])
    register = "low" if note.midi <= _LOW else "high" if note.midi >= _HIGH else "middle" if _MIDDLE[0] <= note.midi <= _MIDDLE[1] else ""
    if not register or not note.dynamic:
        return None
    facts = {"instrument": note.instrument, "instruments": instruments, "register": register, "dynamic": note.dynamic}
    return Scene((note,), Layout(), ("instrument", "register", "dynamic"), facts)


def note_step(pool: Pool, rng: Generator) -> Scene | None:
    """Two notes of one instrument with different dynamics, so that a repeated note is not the same file."""
    instruments = sorted(pool.instruments)
    if len(instruments) < 4:
        return None
    recordings = pool.instruments[_pick(rng, instruments)]
    one = _pick(rng, recordings)
    near = [r for r in recordings if r.dynamic != one.dynamic and _comparable(one, r)]
    same = [r for r in recordings if r.dynamic != one.dynamic and r.midi == one.midi]
    other = _pick(rng, same if same and rng.integers(2) else near or same) if near or same else None
    if other is None:
        return None
    interval = "same" if one.midi == other.midi else "up" if other.midi > one.midi else "down"
    facts = {"interval": interval, "instrument": one.instrument, "instruments": instruments}
    return Scene((one, other), Layout(level_dbfs=_PART_DBFS), ("interval", "instrument"), facts)


def two_notes(pool: Pool, rng: Generator) -> Scene | None:
    """Two notes of different pitch, for reasoning tasks."""
    instruments = sorted(pool.instruments)
    if len(instruments) < 2:
        return None
    one = _pick(rng, pool.instruments[_pick(rng, instruments)])
    same = bool(rng.integers(2))
    others = [r for name in instruments if (name == one.instrument) == same for r in pool.instruments[name] if _comparable(one, r)]
    if not others:
        return None
    other = _pick(rng, others)
    facts = {"higher": "first" if one.midi > other.midi else "second", "same_instrument": _yes(same)}
    return Scene((one, other), Layout(level_dbfs=_PART_DBFS), ("higher_note", "same_instrument"), facts)


def one_emotion(pool: Pool, rng: Generator) -> Scene | None:
    """One acted sentence at its recorded level."""
    if len(pool.emotions) < 4:
        return None
    takes = pool.actors[_pick(rng, sorted(pool.actors))]
    emotion = _pick(rng, sorted(takes))
    take = _pick(rng, takes[emotion])
    facts = {"emotion": emotion, "emotions": pool.emotions, "intensity": take.intensity, "intensities": pool.intensities}
    # If an emotion has only one intensity, it determines the answer.
    both = len({r.intensity for r in takes[emotion]}) == len(pool.intensities) > 1
    return Scene((take,), Layout(), ("emotion", "intensity") if both else ("emotion",), facts)


def two_sentences(pool: Pool, rng: Generator) -> Scene | None:
    """Two acted sentences with the same or another speaker and the same or another emotion; all four combinations occur."""
    if len(pool.actors) < 2 or len(pool.emotions) < 2:
        return None
    same_speaker, same_emotion = bool(rng.integers(2)), bool(rng.integers(2))
    actors = sorted(pool.actors)
    first = _pick(rng, actors)
    second = first if same_speaker else _pick(rng, [actor for actor in actors if actor != first])
    one = _pick(rng, pool.actors[first][_pick(rng, sorted(pool.actors[first]))])
    emotions = [emotion for emotion in sorted(pool.actors[second]) if (emotion == one.emotion) == same_emotion]
    takes = [r for emotion in emotions for r in pool.actors[second][emotion] if r.path != one.path]
    if not takes:
        return None
    facts = {"same_speaker": _yes(same_speaker), "same_emotion": _yes(same_emotion)}
    return Scene((one, _pick(rng, takes)), Layout(part_s=3.2, level_dbfs=_PART_DBFS), ("same_speaker", "same_emotion"), facts)


SCENES: dict[Family, tuple[Proposer, ...]] = {
    "transcription": (spoken_words,),
    "understanding": (one_event, two_events, counted_events),
    "music": (one_note, note_step, one_note),
    "emotion": (one_emotion,),
    "reasoning": (two_sentences, ordered_events, two_notes),
}


def _comparable(one: Recording, other: Recording) -> bool:
    return _INTERVAL[0] <= abs(one.midi - other.midi) <= _INTERVAL[1]


def _pick(rng: Generator, options: Sequence[T]) -> T:
    return options[int(rng.integers(len(options)))]


def _yes(value: bool) -> str:
    return "yes" if value else "no"
