"""Music sets: genres of GTZAN, and families, sources and notes of NSynth."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from coat_core.evaluation.benchmarks.data import Layout, damaged, read_rows, require_fields
from coat_core.evaluation.benchmarks.items import BenchmarkItem, Given
from coat_core.evaluation.benchmarks.rules import labels as rules
from coat_core.evaluation.benchmarks.rules.notes import note_verdict, pitch_measures, read_note
from coat_core.evaluation.benchmarks.suite import Licence, Reader, Suite
from coat_core.evaluation.benchmarks.totals import OfficialTotal, ScoredItem, accuracy_total
from coat_core.evaluation.scorers import Score, Unscored

GENRES = ("blues", "classical", "country", "disco", "hiphop", "jazz", "metal", "pop", "reggae", "rock")
FAMILIES = ("bass", "brass", "flute", "guitar", "keyboard", "mallet", "organ", "reed", "string", "synth_lead", "vocal")
SOURCES = ("acoustic", "electronic", "synthetic")
_HARNESSES = {
    "ultraeval_prefix": rules.comparison(rules.begins_with),
    "audio_flamingo_stem": rules.comparison(rules.same_stem),
    "exact_stripped_lower": rules.comparison(rules.exact_in_lower_case),
}
_SPLIT_FILE = "gtzan_fault_filtered_split.json"
_GTZAN = Layout(
    files={
        "fault-filtered-test": (_SPLIT_FILE,),
        "fault-filtered-valid": (_SPLIT_FILE,),
        "full": ("genres/*/*.wav|genres_original/*/*.wav",),
    },
    origin="hub data set marsyas/gtzan; fault-filtered lists: torchaudio 2.5.1 torchaudio/datasets/gtzan.py",
    hub="marsyas/gtzan",
    audio="genres/<genre>/<genre>.<number>.wav",
)
_NSYNTH = Layout(
    files={split: (f"nsynth-{split}/examples.json|{split}.json|nsynth_{split}*.json",) for split in ("test", "valid")},
    origin="magenta.tensorflow.org/datasets/nsynth (nsynth-test.jsonwav.tar.gz)",
    audio="nsynth-<split>/audio/<note_str>.wav",
)
_FLAMINGO = "NVIDIA/audio-flamingo issue 9: equal Porter stems, else the nearest label by an embedding model"
_NO_EMBEDDING = "all responses; without the embedding model the ones with another stem have no verdict"
_CC_BY = Licence("CC BY 4.0", "allowed")


def _read_gtzan(files: Sequence[Path], folder: Path, split: str) -> list[BenchmarkItem]:
    if split == "full":
        names = [path.stem for path in files]
    else:
        try:
            names = json.loads(files[0].read_text())["splits"][split.rpartition("-")[2]]
        except (ValueError, KeyError, TypeError) as error:
            raise damaged(files[0], _GTZAN, f"no list {split!r}") from error
    items = []
    for name in names:
        genre = name.partition(".")[0]
        if genre not in GENRES:
            raise damaged(files[0], _GTZAN, f"{name!r} names no genre")
        items.append(BenchmarkItem(name, "Which genre is this music?", GENRES, genre, f"genres/{genre}/{name}.wav", {"genre": genre}))
    return items


def _notes(files: Sequence[Path]) -> list[dict[str, object]]:
    rows = read_rows(files[0], _NSYNTH)
    fields = ("note_str", "pitch", "velocity", "instrument_family_str", "instrument_source_str", "qualities_str")
    require_fields(rows, fields, files[0], _NSYNTH)
    return rows


def _read_labels(field: str, question: str, options: tuple[str, ...]) -> Reader:
    def read(files: Sequence[Path], folder: Path, split: str) -> list[BenchmarkItem]:
        items = []
        for row in _notes(files):
            name, label = str(row["note_str"]), str(row[field])
            if label not in options:
                raise damaged(files[0], _NSYNTH, f"{name} has the label {label!r}")
            items.append(BenchmarkItem(name, question, options, label, f"nsynth-{split}/audio/{name}.wav", {"label": label}))
        return items

    return read


def tagged(row: dict[str, object]) -> str:
    """Return the note in Qwen-Audio's tags. The order of the published truth file is not known; the parser does not depend on it."""
    qualities = row["qualities_str"]
    sonic = "".join(f"<|sonic|>{quality}" for quality in qualities) if isinstance(qualities, list) else ""
    pitch, velocity, family = row["pitch"], row["velocity"], row["instrument_family_str"]
    return f"<|pitch|><|midi_pitch_{pitch}|><|velocity|><|midi_velocity_{velocity}|><|instrument|>{family}{sonic}"


def _read_tagged(files: Sequence[Path], folder: Path, split: str) -> list[BenchmarkItem]:
    return [
        BenchmarkItem(str(row["note_str"]), "<|note_analysis|>", None, tagged(row), f"nsynth-{split}/audio/{row['note_str']}.wav")
        for row in _notes(files)
    ]


def strict_instrument(item: BenchmarkItem, given: Given) -> Score | Unscored:
    """Score the instrument of a tagged note in lower case and without blanks around it; a response without the tag is unscored."""
    note = read_note(given) if isinstance(given, str) else None
    if note is None or not note.instrument.strip():
        return Unscored("contains no instrument tag" if note else "no response", "choice")
    return Score(float(note.instrument.strip().lower() == read_note(item.answer or "").instrument), "choice")


def note_total(rows: Sequence[ScoredItem]) -> OfficialTotal:
    """Return accuracy of the instrument, with pitch, pitch class and velocity in `further`; pitches are compared by index."""
    pairs = [(read_note(row.item.answer or ""), read_note(row.given)) for row in rows if isinstance(row.given, str)]
    pitches = pitch_measures([truth.pitch for truth, _ in pairs], [note.pitch for _, note in pairs]) or {}
    velocity = sum(truth.velocity == note.velocity for truth, note in pairs) / len(pairs) if pairs else None
    return replace(accuracy_total(rows), further={**pitches, "velocity": velocity})


GTZAN = Suite(
    name="gtzan",
    title="GTZAN genres",
    layout=_GTZAN,
    licence=Licence("clips without a clear licence; lists BSD-2-Clause", "unclear"),
    read=_read_gtzan,
    prompt=lambda item: f"{item.question} Choices: {', '.join(item.options)}.",
    prompt_source="ours",
    rule_of=lambda folder: rules.audio_flamingo(),
    rule_name=_FLAMINGO,
    metric="accuracy; always with the name of the split",
    denominator=_NO_EMBEDDING,
    harnesses=_HARNESSES,
    groups=("genre",),
)
NSYNTH_FAMILY, NSYNTH_SOURCE = (
    Suite(
        name=f"nsynth_{kind}",
        title=f"NSynth, instrument {kind}",
        layout=_NSYNTH,
        licence=_CC_BY,
        read=_read_labels(f"instrument_{kind}_str", question, options),
        prompt=lambda item: f"{item.question} Choices: {', '.join(item.options)}.",
        prompt_source="ours",
        rule_of=lambda folder: rules.audio_flamingo(),
        rule_name=_FLAMINGO,
        metric="accuracy",
        denominator=_NO_EMBEDDING,
        harnesses=_HARNESSES,
        groups=("label",),
    )
    for kind, question, options in (
        ("family", "Which instrument family plays this note?", FAMILIES),
        ("source", "How was this note made?", SOURCES),
    )
)
NSYNTH_NOTES = Suite(
    name="nsynth_notes",
    title="NSynth, notes in Qwen-Audio's tags",
    layout=_NSYNTH,
    licence=_CC_BY,
    read=_read_tagged,
    prompt=lambda item: item.question,
    prompt_source="tag of QwenLM/Qwen-Audio b50fb95",
    rule_of=lambda folder: note_verdict("instrument"),
    rule_name="QwenLM/Qwen-Audio b50fb95 evaluate_note_analysis.py, heareval_score.py",
    metric="accuracy of the instrument; pitch, pitch class and velocity beside it",
    denominator="all responses; absent pitch and velocity become 128 on both sides",
    total=note_total,
    strict=strict_instrument,
    strict_name="accuracy of the instrument; a response without the tag counts as wrong",
    harnesses={"pitch": note_verdict("pitch"), "velocity": note_verdict("velocity")},
)
