"""Import of manifests and audio folders."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest

from coat_core.corpus.audio import measure
from coat_core.corpus.examples import read_manifest
from coat_core.corpus.imported.corpus import import_corpus
from coat_core.errors import CorpusError
from tests.testing.recordings import assert_splits_apart, import_settings, write_tone


def write_manifest_rows(folder: Path, rows: list[dict[str, Any]]) -> Path:
    path = folder / "manifest.json"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_nemo_manifest_keeps_format_duration_and_groups(tmp_path: Path) -> None:
    for number in range(40):
        write_tone(tmp_path / "data" / f"{number}.{'ogg' if number % 2 else 'wav'}", 100 + number, rate=44100)
    rows: list[dict[str, Any]] = [
        {"audio_filepath": f"{n}.{'ogg' if n % 2 else 'wav'}", "text": f"word {n}", "group": f"speaker{n // 2}"} for n in range(40)
    ]
    rows[0] |= {"duration": 0.8, "split": "test", "licence": "CC0-1.0"}
    rows[2] |= {"question": "What is it?", "answer": "a tone", "choices": ["a tone", "a song"], "family": "music", "task": "kind"}
    rows.append({"audio_filepath": str(tmp_path / "data" / "0.wav"), "text": "the same audio, with its absolute path"})
    import_corpus(import_settings("manifest"), write_manifest_rows(tmp_path / "data", rows), tmp_path / "corpus")
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


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EMFILE])
@pytest.mark.parametrize("function", ["sha256_file", "shutil.copyfile"])
def test_a_fault_of_the_machine_is_no_mistake_of_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str, number: int) -> None:
    write_tone(tmp_path / "data/0.wav", 100)
    manifest = write_manifest_rows(tmp_path / "data", [{"audio_filepath": "0.wav", "text": "one"}])

    def fail(path: Path, *_: Any) -> None:
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr(f"coat_core.corpus.imported.clips.{function}", fail)
    with pytest.raises(OSError, match=os.strerror(number)):
        import_corpus(import_settings("manifest"), manifest, tmp_path / "corpus")
    assert not (tmp_path / "corpus").exists()


def test_a_file_that_the_row_may_not_read_is_a_mistake_of_the_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_tone(tmp_path / "data/0.wav", 100)
    manifest = write_manifest_rows(tmp_path / "data", [{"audio_filepath": "0.wav", "text": "one"}])

    def fail(path: Path) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr("coat_core.corpus.imported.clips.sha256_file", fail)
    with pytest.raises(CorpusError, match=r"audio '0\.wav' cannot be read: Permission denied"):
        import_corpus(import_settings("manifest"), manifest, tmp_path / "corpus")


def test_an_audio_folder_is_imported_with_its_metadata(tmp_path: Path) -> None:
    for number in range(30):
        write_tone(tmp_path / "data" / "clips" / f"{number}.flac", 100 + number)
    lines = ["file_name,transcription,question,answer,choices,family,split"]
    lines += [f"clips/{number}.flac,hello {number},,,,," for number in range(29)]
    lines.append("clips/29.flac,,Which way?,up,up | down,music,validation")
    (tmp_path / "data" / "metadata.csv").write_text("\n".join(lines) + "\n")
    import_corpus(import_settings("audiofolder"), tmp_path / "data", tmp_path / "corpus")
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


def test_unreadable_audio_is_imported_for_the_contract(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_text("not audio")
    import_corpus(
        import_settings("manifest"), write_manifest_rows(tmp_path, [{"audio_filepath": "a.wav", "text": "a"}]), tmp_path / "corpus"
    )
    (example,) = read_manifest(tmp_path / "corpus" / "manifest.jsonl")
    assert (example.duration_s, example.sample_rate_hz) == (0.0, 0)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"audio_filepath": "../outside.wav", "text": "a"}, "row 2: audio '../outside.wav' is outside the data folder"),
        ({"audio_filepath": "/etc/hostname", "text": "a"}, "is outside the data folder"),
        ({"audio_filepath": "link.wav", "text": "a"}, "row 2: audio 'link.wav' is outside the data folder"),
        ({"audio_filepath": "none.wav", "text": "a"}, "row 2: audio 'none.wav' is missing"),
        ({"text": "a"}, "row 2: the audio file is not given"),
        ({"audio_filepath": "a.wav"}, "row 2: neither a transcription nor an answer is given"),
        ({"audio_filepath": "a.wav", "answer": "a"}, "row 2: question and answer must be given together"),
        ({"audio_filepath": "a.wav", "text": "a", "duration": "long"}, "row 2: duration is 'long'"),
        ({"audio_filepath": "a.wav", "text": "a", "duration": float("nan")}, "row 2: duration is nan"),
        ({"audio_filepath": "a.wav", "text": "a", "split": "dev"}, "row 2: split is 'dev', allowed: train, validation, test"),
        ({"audio_filepath": "a.wav", "text": "a", "family": "cooking"}, "row 2: family is 'cooking'"),
        ({"audio_filepath": "a.wav", "text": 5}, "row 2: transcription is 5, allowed: text"),
        ({"audio_filepath": "a.wav", "text": "a", "choices": "a|b"}, "row 2: choices is 'a|b', allowed: a list of texts"),
    ],
)
def test_a_bad_row_of_a_manifest_is_named_and_nothing_is_written(tmp_path: Path, row: dict[str, Any], words: str) -> None:
    write_tone(tmp_path / "outside.wav", 100)
    write_tone(tmp_path / "data" / "a.wav", 100)
    (tmp_path / "data" / "link.wav").symlink_to(tmp_path / "outside.wav")
    manifest = write_manifest_rows(tmp_path / "data", [{"audio_filepath": "a.wav", "text": "a"}, row])
    with pytest.raises(CorpusError) as raised:
        import_corpus(import_settings("manifest"), manifest, tmp_path / "corpus")
    assert words in str(raised.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "outside.wav"]
