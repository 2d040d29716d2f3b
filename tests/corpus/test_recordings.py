"""Corpora composed from an index of recordings."""

from __future__ import annotations

import csv
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import pytest

from coat_core.corpus.audio import decode, measure, read_header
from coat_core.corpus.examples import FAMILIES, Example, read_manifest
from coat_core.corpus.imported.corpus import import_corpus
from coat_core.corpus.imported.index import read_index
from coat_core.errors import CorpusError
from coat_core.storage import sha256_tree
from tests.testing.recordings import RECORDINGS, assert_splits_apart, import_settings, needs_recordings, write_tone


def write_index(folder: Path, rows: list[dict[str, Any]]) -> None:
    names = [
        "path",
        "corpus",
        "duration_s",
        "group",
        "transcript",
        "event",
        "emotion",
        "intensity",
        "instrument",
        "note",
        "midi",
        "dynamic",
    ]
    with (folder / "index.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, names, restval="")
        writer.writeheader()
        writer.writerows(rows)


def made_recordings(folder: Path) -> list[dict[str, Any]]:
    """Write a small folder with every kind of label; return its rows."""
    rows: list[dict[str, Any]] = []

    def add(name: str, frequency: float, **labels: Any) -> None:
        write_tone(folder / f"{name}.wav", frequency)
        rows.append({"path": f"{name}.wav", "duration_s": 0.8, **labels})

    for speaker in range(3):
        for number, word in enumerate(("one", "two", "three")):
            add(f"word/{speaker}{word}", 100 + 40 * speaker + 9 * number, corpus="words", group=f"s{speaker}", transcript=word)
    for number, event in enumerate(("dog_bark", "rain", "sea waves", "crying_baby")):
        for source in range(4):
            add(f"event/{number}{source}", 300 + 50 * number + source, corpus="events", group=f"{number}-{source}", event=event)
    for actor in range(7):
        for number, emotion in enumerate(("calm", "sad", "angry", "happy")):
            for intensity in ("normal", "strong"):
                name = f"emotion/{actor}{emotion}{intensity}"
                add(name, 500 + 10 * actor + number, corpus="acts", group=f"a{actor}", emotion=emotion, intensity=intensity)
    for instrument in ("flute", "oboe", "horn", "tuba"):
        for midi in (*range(45, 56), *range(60, 73), *range(76, 87)):
            for dynamic in ("piano", "forte"):
                labels = {"group": instrument, "instrument": instrument, "note": f"n{midi}", "midi": midi, "dynamic": dynamic}
                add(f"note/{instrument}{midi}{dynamic}", 8 * midi, corpus="notes", **labels)
    write_index(folder, rows)
    return rows


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    made_recordings(folder)
    return folder


def assert_balanced(examples: list[Example], split: str, limit: float = 1.5) -> None:
    """No answer of a task with choices is more than `limit` times as frequent as if all were equal."""
    answers: dict[str, Counter[str]] = defaultdict(Counter)
    places: dict[tuple[str, int], Counter[int]] = defaultdict(Counter)
    for example in examples:
        if example.split == split and example.choices is not None:
            answers[example.task][example.answer] += 1
            places[example.task, len(example.choices)][example.choices.index(example.answer)] += 1
    for task, counts in answers.items():
        assert max(counts.values()) <= limit * sum(counts.values()) / len(counts), (task, counts)
        assert len(counts) > 1, task
    for (task, shown), counts_of_place in places.items():
        assert max(counts_of_place[place] for place in range(shown)) - min(counts_of_place[place] for place in range(shown)) <= 1, task


def test_a_folder_of_recordings_gives_clips_of_five_families(made: Path, tmp_path: Path) -> None:
    import_corpus(import_settings("recordings", train=30, validation=6, test=12), made, tmp_path / "corpus")
    examples = read_manifest(tmp_path / "corpus" / "manifest.jsonl")
    assert {example.family for example in examples} == set(FAMILIES)
    assert len({example.id for example in examples}) == len(examples)
    clips = {(example.split, example.family, example.audio) for example in examples}
    assert Counter((split, family) for split, family, _ in clips) == {
        (split, family): count for split, count in (("train", 30), ("validation", 6), ("test", 12)) for family in FAMILIES
    }
    for example in examples:
        path = tmp_path / "corpus" / example.audio
        facts = measure(path)
        assert facts.error is None
        assert (facts.sha256, facts.sample_rate_hz) == (example.sha256, 16000)
        assert facts.duration_s == pytest.approx(example.duration_s, abs=1e-6)
        assert 1.0 <= example.duration_s <= 8.0
        assert example.choices is None or (example.answer in example.choices and len(set(example.choices)) == len(example.choices))
        assert "_" not in example.prompt + example.answer
    assert_splits_apart(examples)
    assert_balanced(examples, "train")


def test_the_same_seed_gives_the_same_bytes_and_another_seed_does_not(made: Path, tmp_path: Path) -> None:
    for name, seed in (("a", 7), ("b", 7), ("c", 8)):
        import_corpus(import_settings("recordings", seed, train=3, validation=2, test=2), made, tmp_path / name)
    assert sha256_tree(tmp_path / "a") == sha256_tree(tmp_path / "b")
    assert sha256_tree(tmp_path / "a") != sha256_tree(tmp_path / "c")


def test_no_answer_can_be_guessed_from_the_wording(made: Path, tmp_path: Path) -> None:
    """For every task with choices, the most frequent answer to a wording is at chance."""
    import_corpus(import_settings("recordings", train=120, validation=2, test=2), made, tmp_path / "corpus")
    examples = [e for e in read_manifest(tmp_path / "corpus" / "manifest.jsonl") if e.split == "train" and e.choices]
    guesses: dict[str, Counter[str]] = defaultdict(Counter)
    for example in examples:
        assert example.choices is not None
        guesses[f"{example.task}: {example.question.split(':')[0]}"][example.answer] += 1
    for wording, counts in guesses.items():
        total = sum(counts.values())
        share = 1 / len(counts)
        if total >= 20 and len(counts) <= 4:
            assert max(counts.values()) / total < share + 3.5 * (share * (1 - share) / total) ** 0.5, (wording, counts)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"path": "../outside.wav"}, "line 3: path '../outside.wav' is outside the data folder"),
        ({"path": "nowhere.wav"}, "line 3: path 'nowhere.wav' is missing"),
        ({"group": ""}, "line 3: group is empty"),
        ({"duration_s": "long"}, "line 3: duration_s is 'long', not a number"),
        ({"duration_s": "nan"}, "line 3: duration_s is nan"),
    ],
)
def test_a_bad_row_of_an_index_is_named(made: Path, tmp_path: Path, change: dict[str, str], words: str) -> None:
    write_tone(tmp_path / "outside.wav", 200)
    folder = tmp_path / "recordings"
    write_tone(folder / "a.wav", 100)
    good = {"path": "a.wav", "corpus": "words", "group": "s", "transcript": "one", "duration_s": 0.8}
    write_index(folder, [good, {**good, **change}])
    with pytest.raises(CorpusError) as raised:
        import_corpus(import_settings("recordings"), folder, tmp_path / "corpus")
    assert words in str(raised.value)
    assert not (tmp_path / "corpus").exists()


def test_a_missing_index_and_missing_columns_are_errors(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="no index"):
        import_corpus(import_settings("recordings"), tmp_path, tmp_path / "corpus")
    (tmp_path / "index.csv").write_text("path,group\n")
    with pytest.raises(CorpusError, match="columns are missing: corpus"):
        import_corpus(import_settings("recordings"), tmp_path, tmp_path / "corpus")


@needs_recordings
@pytest.mark.recordings
@pytest.mark.slow
def test_every_real_recording_decodes_and_its_header_is_close() -> None:
    recordings = read_index(RECORDINGS)
    assert len(recordings) == 3450
    assert Counter(recording.role for recording in recordings) == {"word": 1200, "event": 320, "emotion": 960, "note": 970}
    padded = 0
    for recording in recordings:
        facts = measure(recording.path)
        assert facts.error is None
        assert facts.duration_s is not None
        assert facts.header_duration_s is not None
        assert facts.duration_s == pytest.approx(recording.duration_s, abs=0.01), recording.path
        excess = facts.header_duration_s - facts.duration_s
        if recording.path.suffix == ".mp3":
            padded += excess > 0.01
            assert 0 <= excess <= 0.5
        else:
            assert abs(excess) < 1e-6
    # The header of every MP3 exceeds its decoded duration; a contract on header durations would quarantine all of them.
    assert padded == 970


@needs_recordings
@pytest.mark.recordings
def test_each_format_of_the_recordings_decodes_to_16_khz() -> None:
    first = {recording.corpus: recording for recording in reversed(read_index(RECORDINGS))}
    assert {read_header(recording.path).format for recording in first.values()} == {"WAV", "OGG", "FLAC", "MP3"}
    for recording in first.values():
        assert decode(recording.path).size == pytest.approx(16000 * recording.duration_s, abs=160)


@needs_recordings
@pytest.mark.recordings
@pytest.mark.slow
def test_the_real_recordings_give_a_balanced_and_reproducible_corpus(tmp_path: Path) -> None:
    for name in ("a", "b"):
        import_corpus(import_settings("recordings", train=12, validation=12, test=80), RECORDINGS, tmp_path / name)
    assert sha256_tree(tmp_path / "a") == sha256_tree(tmp_path / "b")
    examples = read_manifest(tmp_path / "a" / "manifest.jsonl")
    assert_splits_apart(examples)
    assert_balanced(examples, "test")
    assert {example.family for example in examples} == set(FAMILIES)
    held_out = {group for example in examples if example.split == "test" for group in example.groups}
    assert Counter(group.split(":")[0] for group in held_out)["ravdess"] == 5
