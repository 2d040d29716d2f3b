"""The index of recordings is read strictly: nothing is joined, cut, ignored or left out without a word."""

from __future__ import annotations

import unicodedata
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from coat_core.corpus.imported.corpus import import_corpus
from coat_core.corpus.imported.index import Index, load_index, read_index
from coat_core.errors import AudioError, CorpusError
from tests.testing.recordings import import_settings, write_tone

HEADER = "path,corpus,group,transcript"
NOTES = "path,corpus,group,instrument,midi"
GOOD = "a.wav,words,s0,one"


@pytest.fixture(scope="module")
def audio(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("audio")
    for name in ("a.wav", "b.wav", "c.wav"):
        write_tone(folder / name, 200)
    return folder


def index_of(audio: Path, text: str | bytes) -> Path:
    (audio / "index.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    return audio


BAD = {
    "unquoted comma": (f"{HEADER}\n{GOOD}\nb.wav,words,s0,Hello, my name is Kim\n", "line 3", "5 fields, the header has 4"),
    "missing field": (f"{HEADER}\n{GOOD}\nb.wav,words\n", "line 3", "2 fields, the header has 4"),
    "stray quote": (f'{HEADER}\n{GOOD}\nb.wav,words,s0,"two\nc.wav,words,s0,three\n', "line 3", "quotation mark"),
    "stray quote that is closed later": (f'{HEADER}\nb.wav,words,s0,"two\nc.wav,words,s0,three"\n', "line 2", "quotation mark"),
    "cp1252": (f"{HEADER}\n{GOOD}\nb.wav,words,s0,caf\xe9\n".encode("cp1252"), "line 3", "is not UTF-8"),
    "UTF-16": (f"{HEADER}\n{GOOD}\n".encode("utf-16"), "line 1", "UTF-16"),
    "a column twice": (f"{HEADER},group\n{GOOD},s1\n", "line 1", "more than once"),
    "offset": (f"{HEADER},offset\n{GOOD},\nb.wav,words,s0,two,1.5\n", "line 3", "offset is '1.5', but a recording is used whole"),
    "end": (f"{HEADER},end\nb.wav,words,s0,two,2\n", "line 2", "end is '2', but a recording is used whole"),
    "channel": (f"{HEADER},channel\nb.wav,words,s0,two,1\n", "line 2", "channel is '1', but a recording is used whole"),
    "punctuation as a label": (f"{HEADER},event\n{GOOD},\nb.wav,words,s0,,?\n", "line 3", "event is '?', allowed: text with a letter"),
    "pitch": (f"{NOTES}\na.wav,notes,g,flute,60.5\n", "line 2", "midi is 60.5, allowed: a whole number from 0 to 127"),
    "pitch out of range": (f"{NOTES}\na.wav,notes,g,flute,440\n", "line 2", "midi is 440, allowed"),
    "one file in two groups": (f"{HEADER}\n{GOOD}\na.wav,words,s1,one\n", "line 3", "is also in line 2, there in group 'words:s0'"),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_line_of_an_index_is_named(audio: Path, kind: str) -> None:
    text, line, words = BAD[kind]
    with pytest.raises(CorpusError) as raised:
        read_index(index_of(audio, text))
    assert f"{line}: " in str(raised.value)
    assert words in str(raised.value)


def test_every_bad_line_is_named_up_to_twenty(audio: Path) -> None:
    rows = [GOOD, "nowhere.wav,words,s0,two", "b.wav,words,s0,a, b", "b.wav,,s0,two", *["b.wav,words,,two"] * 30]
    with pytest.raises(CorpusError) as raised:
        read_index(index_of(audio, "\n".join([HEADER, *rows])))
    message = str(raised.value)
    assert [f"line {number}: " in message for number in range(2, 36)] == [False, *[True] * 20, *[False] * 13]
    assert "line 3: path 'nowhere.wav' is missing" in message
    assert "line 5: corpus is empty" in message
    assert "and 13 more" in message


GOOD_FILES = {
    "byte order mark": b"\xef\xbb\xbf" + f"{HEADER}\n{GOOD}\n".encode(),
    "semicolons": f"{HEADER}\n{GOOD}\n".replace(",", ";").encode(),
    "CRLF": f"{HEADER}\r\n{GOOD}\r\n\r\n".encode(),
    "quoted comma": f'{HEADER}\na.wav,words,s0,"one, two"\n'.encode(),
    "field of 200,000 characters": f"{HEADER},note_text\n{GOOD},{'x' * 200_000}\n".encode(),
    "pandas index": f",{HEADER}\n0,{GOOD}\n".encode(),
}


@pytest.mark.parametrize("kind", GOOD_FILES)
def test_a_table_of_another_program_is_read(audio: Path, kind: str) -> None:
    (recording,) = read_index(index_of(audio, GOOD_FILES[kind]))
    assert recording.transcript == ("one, two" if kind == "quoted comma" else "one")
    assert (recording.path.name, recording.group) == ("a.wav", "words:s0")


def test_rows_that_are_set_aside_are_counted_with_their_lines(audio: Path) -> None:
    rows = [GOOD, "b.wav,words,s0,", "b.wav,words,s0,um", "c.wav,words,s1,[laughter]", "c.wav,other,s1,two"]
    index = load_index(index_of(audio, "\n".join([HEADER, *rows])))
    assert [recording.transcript for recording in index.recordings] == ["one", "two"]
    assert index.summary() == (
        "index.csv: 5 rows read; label word 2; corpus other 1, words 1; "
        "set aside: 3: 1 without a known label (line 3), 2 whose transcript has no word (lines 4, 5)"
    )


def test_a_group_of_an_index_is_an_opaque_string(audio: Path) -> None:
    rows = ["a.wav,words,spk1+noisy,one", "b.wav,words,spk1_noisy,one", "c.wav,words,+,one"]
    groups = [recording.group for recording in read_index(index_of(audio, "\n".join([HEADER, *rows])))]
    assert groups == ["words:spk1+noisy", "words:spk1_noisy", "words:+"]


def test_labels_in_two_unicode_forms_are_one_label(audio: Path) -> None:
    rows = ["a.wav,acts,s1,caf\u00e9", "b.wav,acts,s2,cafe\u0301"]
    assert len({recording.transcript for recording in read_index(index_of(audio, "\n".join([HEADER, *rows])))}) == 1


@pytest.mark.parametrize("samples", [np.zeros(8000), np.resize([1.0, -1.0], 8000) / 32768], ids=["zeros", "one step of 16 bits"])
def test_a_silent_recording_is_named(tmp_path: Path, samples: np.ndarray) -> None:
    folder = tmp_path / "data"
    rows = []
    for speaker in range(3):
        for word in ("one", "two", "three"):
            name = f"{speaker}{word}.wav"
            write_tone(folder / name, 300 + speaker)
            rows.append(f"{name},words,s{speaker},{word}")
    for speaker in range(3):
        soundfile.write(folder / f"{speaker}two.wav", samples, 16000)
    index_of(folder, "\n".join([HEADER, *rows]))
    with pytest.raises(AudioError, match=r"two\.wav: the recording is silent"):
        import_corpus(import_settings("recordings", train=8, validation=8, test=8), folder, tmp_path / "corpus")
    assert not (tmp_path / "corpus").exists()


def index_or_message(folder: Path) -> Index | str:
    try:
        return load_index(folder)
    except CorpusError as error:
        return str(error)


@settings(derandomize=True, deadline=None, max_examples=300)
@given(st.lists(st.sampled_from(["a.wav", "words", "s0", "one", ",", ",", "\n", "\n", '"', " ", "\r", "é", "\0", "offset"]), max_size=30))
def test_any_index_is_read_or_refused_by_line(tmp_path_factory: pytest.TempPathFactory, pieces: list[str]) -> None:
    folder = tmp_path_factory.getbasetemp() / "any-index"
    if not folder.exists():
        write_tone(folder / "a.wav", 200)
    text = "".join([HEADER, "\n", GOOD, "\n", *pieces])
    index = index_or_message(index_of(folder, text))
    if isinstance(index, str):
        assert "line " in index
        return
    rows = [line for line in text.replace("\r", "\n").split("\n")[1:] if line.replace(",", "").replace('"', "").strip()]
    assert len(index.recordings) + len(index.unlabelled) + len(index.unscorable) == len(rows)


LINKS = {"link to a file": "link.wav", "link to a folder": "linked/b.wav", "absolute path": "{blobs}/b.wav"}


@pytest.mark.parametrize("kind", LINKS)
def test_a_recording_outside_the_folder_needs_corpus_roots(tmp_path: Path, kind: str) -> None:
    folder, blobs = tmp_path / "data", tmp_path / "blobs"
    write_tone(blobs / "b.wav", 300)
    folder.mkdir()
    (folder / "link.wav").symlink_to(blobs / "b.wav")
    (folder / "linked").symlink_to(blobs)
    name = LINKS[kind].format(blobs=blobs)
    index_of(folder, f"{HEADER}\n{name},words,s0,one\n")
    with pytest.raises(CorpusError, match=r"line 2: path .* is outside the data folder.*corpus\.roots"):
        read_index(folder)
    for roots in ([str(blobs)], ["../blobs"]):
        (recording,) = read_index(folder, roots)
        assert recording.path.resolve() == blobs / "b.wav"


@pytest.mark.parametrize(("written", "stored"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_a_name_in_another_unicode_form_is_found(tmp_path: Path, written: Literal["NFC", "NFD"], stored: Literal["NFC", "NFD"]) -> None:
    write_tone(tmp_path / unicodedata.normalize(stored, "café/naïve.wav"), 300)
    name = unicodedata.normalize(written, "café/naïve.wav")
    (recording,) = read_index(index_of(tmp_path, f"{HEADER}\n{name},words,s0,one\n"))
    assert recording.path.is_file()


@pytest.mark.parametrize("name", ["a" * 300 + ".wav", "a/" * 3000 + "b.wav", "https://example.org/a.wav", "."])
def test_a_name_that_is_no_file_is_named(audio: Path, name: str) -> None:
    with pytest.raises(CorpusError, match="line 2: path "):
        read_index(index_of(audio, f"{HEADER}\n{name},words,s0,one\n"))
