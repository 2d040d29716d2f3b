"""Corpora made of existing audio: an index of recordings, a manifest, an audio folder."""

from __future__ import annotations

import csv
import json
import os
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from coat_core.corpus.audio import decode, measure, probe
from coat_core.corpus.examples import FAMILIES, SPLITS, Example, read_manifest
from coat_core.corpus.imported.index import read_index
from coat_core.corpus.imported.recordings import import_corpus
from coat_core.corpus.splits import atoms, split_groups, split_rows
from coat_core.errors import CorpusError
from coat_core.settings import CorpusSettings
from coat_core.storage import sha256_tree

RECORDINGS = Path(os.environ.get("COAT_RECORDINGS", Path(__file__).parents[3] / "shared" / "recordings"))
real = pytest.mark.skipif(
    not (RECORDINGS / "index.csv").is_file(), reason="the recordings are not beside the checkout (../shared/recordings)"
)
SHARES = {"train": 6, "validation": 2, "test": 2}


def settings(kind: str, seed: int = 7, **counts: int) -> CorpusSettings:
    return CorpusSettings.model_validate({"kind": kind, "path": "x", "seed": seed, "clips_per_family": counts or SHARES})


def tone(path: Path, frequency: float, seconds: float = 0.8, rate: int = 16000) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, 0.2 * np.sin(2 * np.pi * frequency * np.arange(int(seconds * rate)) / rate), rate)


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
    """A small folder with every kind of label."""
    rows: list[dict[str, Any]] = []

    def add(name: str, frequency: float, **labels: Any) -> None:
        tone(folder / f"{name}.wav", frequency)
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


def assert_splits_apart(examples: list[Example]) -> None:
    groups, audio = defaultdict(set), defaultdict(set)
    for example in examples:
        audio[example.sha256].add(example.split)
        for atom in atoms(example.group):
            groups[atom].add(example.split)
    assert all(len(splits) == 1 for splits in groups.values())
    assert all(len(splits) == 1 for splits in audio.values())
    assert {example.split for example in examples} == set(SPLITS)


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


def test_a_folder_of_recordings_gives_five_families(made: Path, tmp_path: Path) -> None:
    import_corpus(settings("recordings", train=30, validation=6, test=12), made, tmp_path / "corpus")
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
        import_corpus(settings("recordings", seed, train=3, validation=2, test=2), made, tmp_path / name)
    assert sha256_tree(tmp_path / "a") == sha256_tree(tmp_path / "b")
    assert sha256_tree(tmp_path / "a") != sha256_tree(tmp_path / "c")


def test_no_answer_hangs_on_the_question(made: Path, tmp_path: Path) -> None:
    """For every task with a closed answer set, the best guess from the wording is no better than chance."""
    import_corpus(settings("recordings", train=120, validation=2, test=2), made, tmp_path / "corpus")
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


def test_one_dealing_keeps_every_stratum_in_every_split() -> None:
    strata = {f"{stratum}{number}": stratum for stratum, count in (("a", 3), ("b", 4), ("c", 16), ("d", 40)) for number in range(count)}
    dealt = split_groups(strata, seed=1)
    counts = Counter((strata[group], split) for group, split in dealt.items())
    assert [counts["a", split] for split in SPLITS] == [1, 1, 1]
    assert [counts["b", split] for split in SPLITS] == [2, 1, 1]
    assert [counts["c", split] for split in SPLITS] == [9, 2, 5]
    assert [counts["d", split] for split in SPLITS] == [22, 6, 12]
    assert dealt != split_groups(strata, seed=2)
    with pytest.raises(CorpusError, match="too few groups"):
        split_groups({"x": "s", "y": "s"}, seed=1)


def test_rows_that_share_a_key_stay_together() -> None:
    keys = [[f"g{number}"] for number in range(400)] + [["g0", "h"], ["h", "pinned"], ["pinned"]]
    splits = split_rows(keys, [None] * 402 + ["test"], {"train": 6.0, "validation": 2.0, "test": 2.0}, seed=3)
    assert {splits[0], *splits[400:]} == {"test"}
    counts = Counter(splits[1:400])
    assert 200 < counts["train"] < 280
    assert 50 < counts["test"] < 110


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"path": "../outside.wav"}, "line 3: path '../outside.wav' leaves the data folder"),
        ({"path": "nowhere.wav"}, "line 3: path 'nowhere.wav' is missing"),
        ({"group": ""}, "line 3: group is empty"),
        ({"duration_s": "long"}, "line 3: duration_s is 'long', not a number"),
        ({"duration_s": "nan"}, "line 3: duration_s is nan"),
    ],
)
def test_a_bad_row_of_an_index_is_named(made: Path, tmp_path: Path, change: dict[str, str], words: str) -> None:
    tone(tmp_path / "outside.wav", 200)
    folder = tmp_path / "recordings"
    tone(folder / "a.wav", 100)
    good = {"path": "a.wav", "corpus": "words", "group": "s", "transcript": "one", "duration_s": 0.8}
    write_index(folder, [good, {**good, **change}])
    with pytest.raises(CorpusError) as raised:
        import_corpus(settings("recordings"), folder, tmp_path / "corpus")
    assert words in str(raised.value)
    assert not (tmp_path / "corpus").exists()


def test_an_index_that_is_none_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="no index"):
        import_corpus(settings("recordings"), tmp_path, tmp_path / "corpus")
    (tmp_path / "index.csv").write_text("path,group\n")
    with pytest.raises(CorpusError, match="columns are missing: corpus"):
        import_corpus(settings("recordings"), tmp_path, tmp_path / "corpus")


# Manifests and audio folders


def write_manifest_rows(folder: Path, rows: list[dict[str, Any]]) -> Path:
    path = folder / "manifest.json"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_nemo_manifest_keeps_format_duration_and_groups(tmp_path: Path) -> None:
    for number in range(40):
        tone(tmp_path / "data" / f"{number}.{'ogg' if number % 2 else 'wav'}", 100 + number, rate=44100)
    rows: list[dict[str, Any]] = [
        {"audio_filepath": f"{n}.{'ogg' if n % 2 else 'wav'}", "text": f"word {n}", "group": f"speaker{n // 2}"} for n in range(40)
    ]
    rows[0] |= {"duration": 0.8, "split": "test", "licence": "CC0-1.0"}
    rows[2] |= {"question": "What is it?", "answer": "a tone", "choices": ["a tone", "a song"], "family": "music", "task": "kind"}
    rows.append({"audio_filepath": str(tmp_path / "data" / "0.wav"), "text": "the same audio, by its full path"})
    import_corpus(settings("manifest"), write_manifest_rows(tmp_path / "data", rows), tmp_path / "corpus")
    examples = read_manifest(tmp_path / "corpus" / "manifest.jsonl")
    assert len(examples) == 41
    assert_splits_apart(examples)
    assert {examples[0].split, examples[1].split, examples[40].split} == {"test"}
    assert (examples[0].answer, examples[0].family, examples[0].licence, examples[1].licence) == (
        "word 0",
        "transcription",
        "CC0-1.0",
        "unknown",
    )
    assert (examples[2].family, examples[2].task, examples[2].choices) == ("music", "kind", ("a tone", "a song"))
    assert examples[40].audio == examples[0].audio
    for example in examples:
        facts = measure(tmp_path / "corpus" / example.audio)
        assert (facts.sha256, facts.sample_rate_hz) == (example.sha256, example.sample_rate_hz)
        assert facts.duration_s == pytest.approx(example.duration_s, abs=0.01)
    assert (tmp_path / "corpus" / examples[1].audio).suffix == ".ogg"


def test_an_audio_folder_is_read_with_its_metadata(tmp_path: Path) -> None:
    for number in range(30):
        tone(tmp_path / "data" / "clips" / f"{number}.flac", 100 + number)
    lines = ["file_name,transcription,question,answer,choices,family,split"]
    lines += [f"clips/{number}.flac,hello {number},,,,," for number in range(29)]
    lines.append("clips/29.flac,,Which way?,up,up | down,music,validation")
    (tmp_path / "data" / "metadata.csv").write_text("\n".join(lines) + "\n")
    import_corpus(settings("audiofolder"), tmp_path / "data", tmp_path / "corpus")
    examples = read_manifest(tmp_path / "corpus" / "manifest.jsonl")
    assert_splits_apart(examples)
    last = examples[-1]
    assert (last.question, last.answer, last.choices, last.family, last.split) == (
        "Which way?",
        "up",
        ("up", "down"),
        "music",
        "validation",
    )
    assert (examples[3].answer, examples[3].choices, examples[3].sample_rate_hz) == ("hello 3", None, 16000)


def test_unreadable_audio_reaches_the_contract(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_text("no sound")
    import_corpus(settings("manifest"), write_manifest_rows(tmp_path, [{"audio_filepath": "a.wav", "text": "a"}]), tmp_path / "corpus")
    (example,) = read_manifest(tmp_path / "corpus" / "manifest.jsonl")
    assert (example.duration_s, example.sample_rate_hz) == (0.0, 0)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"audio_filepath": "../outside.wav", "text": "a"}, "row 2: audio '../outside.wav' leaves the data folder"),
        ({"audio_filepath": "/etc/hostname", "text": "a"}, "leaves the data folder"),
        ({"audio_filepath": "link.wav", "text": "a"}, "row 2: audio 'link.wav' leaves the data folder"),
        ({"audio_filepath": "none.wav", "text": "a"}, "row 2: audio 'none.wav' is missing"),
        ({"text": "a"}, "row 2: it names no audio file"),
        ({"audio_filepath": "a.wav"}, "row 2: it has neither a transcript nor an answer"),
        ({"audio_filepath": "a.wav", "answer": "a"}, "row 2: question and answer go together"),
        ({"audio_filepath": "a.wav", "text": "a", "duration": "long"}, "row 2: duration is 'long'"),
        ({"audio_filepath": "a.wav", "text": "a", "duration": float("nan")}, "row 2: duration is nan"),
        ({"audio_filepath": "a.wav", "text": "a", "split": "dev"}, "row 2: split is 'dev', allowed: train, validation, test"),
        ({"audio_filepath": "a.wav", "text": "a", "family": "cooking"}, "row 2: family is 'cooking'"),
        ({"audio_filepath": "a.wav", "text": 5}, "row 2: transcription is 5, allowed: text"),
        ({"audio_filepath": "a.wav", "text": "a", "choices": "a|b"}, "row 2: choices is 'a|b', allowed: a list of texts"),
    ],
)
def test_a_bad_row_of_a_manifest_is_named_and_nothing_is_written(tmp_path: Path, row: dict[str, Any], words: str) -> None:
    tone(tmp_path / "outside.wav", 100)
    tone(tmp_path / "data" / "a.wav", 100)
    (tmp_path / "data" / "link.wav").symlink_to(tmp_path / "outside.wav")
    manifest = write_manifest_rows(tmp_path / "data", [{"audio_filepath": "a.wav", "text": "a"}, row])
    with pytest.raises(CorpusError) as raised:
        import_corpus(settings("manifest"), manifest, tmp_path / "corpus")
    assert words in str(raised.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "outside.wav"]


# The real recordings


@real
@pytest.mark.recordings
@pytest.mark.slow
def test_every_real_recording_decodes_and_its_header_is_near() -> None:
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
    # All MP3s claim more than they hold; a contract that trusted headers would throw them out.
    assert padded == 970


@real
@pytest.mark.recordings
def test_each_format_of_the_recordings_decodes_to_16_khz() -> None:
    first = {recording.corpus: recording for recording in reversed(read_index(RECORDINGS))}
    assert {probe(recording.path).format for recording in first.values()} == {"WAV", "OGG", "FLAC", "MP3"}
    for recording in first.values():
        assert decode(recording.path).size == pytest.approx(16000 * recording.duration_s, abs=160)


@real
@pytest.mark.recordings
@pytest.mark.slow
def test_the_real_recordings_make_a_balanced_corpus_twice_the_same(tmp_path: Path) -> None:
    for name in ("a", "b"):
        import_corpus(settings("recordings", train=12, validation=12, test=80), RECORDINGS, tmp_path / name)
    assert sha256_tree(tmp_path / "a") == sha256_tree(tmp_path / "b")
    examples = read_manifest(tmp_path / "a" / "manifest.jsonl")
    assert_splits_apart(examples)
    assert_balanced(examples, "test")
    assert {example.family for example in examples} == set(FAMILIES)
    held_out = {atom for example in examples if example.split == "test" for atom in atoms(example.group)}
    assert Counter(atom.split(":")[0] for atom in held_out)["ravdess"] == 5
