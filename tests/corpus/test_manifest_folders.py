"""Audio folders: splits by folder, metadata in JSON Lines, links, `corpus.roots`, and names in two Unicode forms."""

from __future__ import annotations

import json
import shutil
import unicodedata
from pathlib import Path
from typing import Literal

import pytest

from coat_core.corpus.imported.summary import SUMMARY
from coat_core.errors import CorpusError, SettingsError
from coat_core.storage import read_json
from tests.testing.manifests import corpus_of, import_rows, import_table, imported, settings, write_tones


@pytest.fixture
def data(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


def write_table(folder: Path, *names: str) -> None:
    write_tones(folder, *names)
    (folder / "metadata.csv").write_text("file_name,transcription\n" + "".join(f"{name},{name}\n" for name in names))


@pytest.mark.parametrize(
    ("folder", "split"),
    [
        *((name, "train") for name in ("train", "training", "data/train", "train-clean-100", "Train")),
        *((name, "validation") for name in ("validation", "val", "valid", "dev", "dev_other")),
        *((name, "test") for name in ("test", "testing", "eval", "evaluation", "a/test/b", "test1")),
    ],
)
def test_a_folder_gives_the_split(data: Path, folder: str, split: str) -> None:
    names = [f"{folder}/{number}.wav" for number in range(6)]
    write_table(data, *names)
    assert {example.split for example in imported("audiofolder", data)} == {split}


def test_each_split_has_a_metadata_file_of_its_own(data: Path) -> None:
    for folder in ("train", "validation", "test"):
        write_table(data / folder, *(f"{folder}{number}.wav" for number in range(3)))
    examples = imported("audiofolder", data)
    assert len(examples) == 9
    assert all(example.answer.startswith(example.split) for example in examples)
    assert {example.source for example in examples} == {f"{split}/metadata.csv" for split in ("train", "validation", "test")}


@pytest.mark.parametrize("folder", ["", "train", "data/test"])
def test_metadata_in_json_lines_is_read(data: Path, folder: str) -> None:
    write_tones(data / folder, "sub/a.wav")
    row = {"file_name": "sub/a.wav", "question": "Who?", "answer": "Kim", "choices": ["Kim", "Hello, Kim"]}
    (data / folder / "metadata.jsonl").write_text(json.dumps(row) + "\n")
    (example,) = imported("audiofolder", data)
    assert (example.question, example.answer, example.choices) == ("Who?", "Kim", ("Kim", "Hello, Kim"))


def test_words_that_only_contain_a_keyword_give_no_split(data: Path) -> None:
    names = [f"{folder}/{number}.wav" for folder in ("trainer", "contest", "values", "latest") for number in range(8)]
    write_table(data, *names)
    assert {example.split for example in imported("audiofolder", data)} == {"train", "validation", "test"}


def test_a_split_that_contradicts_its_folder_is_named(data: Path) -> None:
    write_tones(data, "train/a.wav", "test/b.wav", "train/test/c.wav")
    with pytest.raises(CorpusError) as raised:
        import_table(data, "file_name,transcription,split\ntrain/a.wav,x,test\ntest/b.wav,x,test\ntrain/test/c.wav,x,test\n")
    message = str(raised.value)
    assert "line 2, row 1: split is 'test', but the folder of 'train/a.wav' is that of train" in message
    assert "line 4, row 3: the folders of the file give two splits: 'train' (train) and 'test' (test)" in message


def test_the_rows_of_a_manifest_keep_their_splits(data: Path) -> None:
    write_tones(data, "train/a.wav")
    (example,) = import_rows(data, [{"audio_filepath": "train/a.wav", "text": "x", "split": "test"}])
    assert example.split == "test"


def test_metadata_that_is_missing_or_double_is_named(data: Path) -> None:
    write_tones(data, "a.wav")
    with pytest.raises(CorpusError, match=r"no metadata\.csv or metadata\.jsonl"):
        imported("audiofolder", data)
    (data / "metadata.jsonl").write_text('{"file_name": "a.wav", "text": "x"}\n')
    with pytest.raises(CorpusError, match=r"a folder contains metadata\.csv and metadata\.jsonl"):
        import_table(data, "file_name,transcription\na.wav,x\n")


def test_a_file_with_rows_in_two_metadata_files_is_named(data: Path) -> None:
    write_table(data / "train", "a.wav")
    with pytest.raises(CorpusError, match=r"audio 'a\.wav' also has a row in metadata\.csv \(line 2, row 1\)"):
        import_table(data, "file_name,transcription\ntrain/a.wav,x\n")


def test_audio_files_without_a_row_are_listed(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_tones(data, "train/a.wav", "train/b.wav", "c.flac", ".cache/d.wav")
    import_table(data, "file_name,transcription\ntrain/a.wav,x\n")
    assert "set aside: 2 audio files without a row: c.flac, train/b.wav" in capsys.readouterr().out
    assert read_json(corpus_of(data) / SUMMARY)["files_without_row"] == ["c.flac", "train/b.wav"]


def snapshot(root: Path) -> tuple[Path, Path]:
    """Make a snapshot folder of links to `blobs`, as huggingface_hub does; return both folders."""
    blobs, folder = root / "blobs", root / "snapshots" / "0123abcd"
    (folder / "train").mkdir(parents=True)
    write_tones(root / "tones", "a.wav")
    blobs.mkdir()
    shutil.copy(root / "tones" / "a.wav", blobs / "1f3e")
    (blobs / "2a2a").write_text("file_name,transcription\ntrain/a.wav,x\n")
    (folder / "train" / "a.wav").symlink_to(Path("../../../blobs/1f3e"))
    (folder / "metadata.csv").symlink_to(Path("../../blobs/2a2a"))
    return folder, blobs


@pytest.mark.parametrize("form", ["absolute", "relative to the audio folder"])
def test_a_snapshot_of_links_is_read_when_roots_allow_it(tmp_path: Path, form: str) -> None:
    folder, blobs = snapshot(tmp_path)
    with pytest.raises(CorpusError) as raised:
        imported("audiofolder", folder)
    assert "line 2, row 1: audio 'train/a.wav' is outside the data folder (a link to " in str(raised.value)
    assert "blobs/1f3e" in str(raised.value)
    assert "corpus.roots" in str(raised.value)
    assert not corpus_of(folder).exists()
    (example,) = imported("audiofolder", folder, roots=[str(blobs) if form == "absolute" else "../../blobs"])
    assert (example.split, Path(example.audio).suffix) == ("train", ".wav")


def test_absolute_paths_are_read_when_roots_allow_them(data: Path, tmp_path: Path) -> None:
    write_tones(tmp_path / "audio", "a.wav", "deep/b.wav")
    write_tones(tmp_path / "audio-other", "c.wav")
    rows = [{"audio_filepath": str(tmp_path / "audio" / name), "text": name} for name in ("a.wav", "deep/b.wav")]
    with pytest.raises(CorpusError, match=r"is outside the data folder; to allow it, add its folder to `corpus\.roots`"):
        import_rows(data, rows)
    roots = ["unused", str(tmp_path / "audio")]
    assert len(import_rows(data, rows, roots=roots)) == 2
    other = {"audio_filepath": str(tmp_path / "audio-other" / "c.wav"), "text": "c"}
    with pytest.raises(CorpusError, match=r"line 3, row 3: audio .*c\.wav"):
        import_rows(data, [*rows, other], roots=roots)
    climbing = {"audio_filepath": str(tmp_path / "audio" / ".." / "audio-other" / "c.wav"), "text": "c"}
    with pytest.raises(CorpusError, match="outside"):
        import_rows(data, [climbing], roots=roots)


def test_roots_are_a_list(data: Path) -> None:
    assert settings("manifest", roots=["/a", "b"]).roots == ("/a", "b")
    assert settings("manifest").roots == ()
    with pytest.raises((SettingsError, ValueError), match="roots"):
        settings("manifest", roots="/a")


def test_broken_and_circular_links_are_named(data: Path) -> None:
    (data / "broken.wav").symlink_to("none.wav")
    (data / "circle.wav").symlink_to("circle.wav")
    with pytest.raises(CorpusError) as raised:
        import_table(data, "file_name,transcription\nbroken.wav,x\ncircle.wav,x\n")
    assert "line 2, row 1: audio 'broken.wav' is missing: it is a link to 'none.wav', which does not exist" in str(raised.value)
    assert "line 3, row 2: audio 'circle.wav' is not the name of a file" in str(raised.value)


@pytest.mark.parametrize("written", ["NFC", "NFD"])
@pytest.mark.parametrize("stored", [("NFC", "NFC"), ("NFD", "NFD"), ("NFC", "NFD")])
def test_a_file_name_is_found_in_any_unicode_form(
    data: Path, written: Literal["NFC", "NFD"], stored: tuple[Literal["NFC", "NFD"], Literal["NFC", "NFD"]]
) -> None:
    name = "Björk/Sigur Rós – ágætis.wav"
    folder, file = name.split("/")
    write_tones(data / unicodedata.normalize(stored[0], folder), unicodedata.normalize(stored[1], file))
    (example,) = import_table(data, f"file_name,transcription\n{unicodedata.normalize(written, name)},ágætis\n")
    assert example.answer == unicodedata.normalize("NFC", "ágætis")
