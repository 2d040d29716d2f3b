"""Rows that mean a part of their file: times, channels, and keys that would change the audio."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from coat_core.corpus.audio import read_samples
from coat_core.corpus.imported import clips
from coat_core.errors import CorpusError
from tests.testing.audio_files import mp3
from tests.testing.manifests import corpus_of, import_rows, import_table, write_noise, write_tones

RATE = 8000


@pytest.fixture
def data(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


SEGMENTS: dict[str, tuple[dict[str, Any], slice]] = {
    "offset and duration": ({"offset": 0.5, "duration": 0.25}, slice(4000, 6000)),
    "offset alone": ({"offset": 0.5}, slice(4000, 16000)),
    "start and end": ({"start": 1.0, "end": 1.5}, slice(8000, 12000)),
    "start and duration": ({"start": 1, "duration": 0.5}, slice(8000, 12000)),
    "end alone": ({"end": 0.5}, slice(0, 4000)),
    "start_time and end_time": ({"start_time": "0.5", "end_time": "0.75"}, slice(4000, 6000)),
    "start, end and duration": ({"start": 1.0, "end": 1.5, "duration": 0.5}, slice(8000, 12000)),
    "begin": ({"begin": 1.75}, slice(14000, 16000)),
    "offset zero with a duration": ({"offset": 0, "duration": 0.5}, slice(0, 4000)),
    "one sample before a rounding error": ({"offset": 0.29, "duration": 0.29}, slice(2320, 4640)),
    "between two samples": ({"offset": 0.50009, "duration": 0.25009}, slice(4000, 6000)),
    "end rounded up": ({"offset": 1.5, "duration": 0.51}, slice(12000, 16000)),
    "three samples": ({"offset": 1.0, "duration": 0.000375}, slice(8000, 8003)),
}


@pytest.mark.parametrize("kind", SEGMENTS)
def test_a_segment_is_cut_exactly(data: Path, kind: str) -> None:
    samples = write_noise(data / "a.wav", 2.0, RATE)
    keys, part = SEGMENTS[kind]
    (example,) = import_rows(data, [{"audio_filepath": "a.wav", "text": "x", **keys}])
    _, cut = read_samples(corpus_of(data) / example.audio)
    np.testing.assert_array_equal(cut, samples[part])
    assert (example.duration_s, example.sample_rate_hz) == (len(cut) / RATE, RATE)


@pytest.mark.parametrize(
    ("name", "subtype", "suffix"),
    [
        ("a.wav", "PCM_16", ".flac"),
        ("a.wav", "PCM_24", ".flac"),
        ("a.wav", "FLOAT", ".wav"),
        ("a.flac", "PCM_16", ".flac"),
        ("a.ogg", "VORBIS", ".wav"),
    ],
)
def test_a_segment_keeps_every_bit_and_gives_the_same_file_again(data: Path, name: str, subtype: str, suffix: str) -> None:
    write_noise(data / name, 2.0, 44100, channels=2, subtype=subtype)
    samples = soundfile.read(data / name, dtype="float32", always_2d=True)[0]
    rows = [{"audio_filepath": name, "text": "x", "offset": 0.5, "duration": 1.0}] * 2
    one, other = import_rows(data, rows)
    assert (one.audio, Path(one.audio).suffix, one.split) == (other.audio, suffix, other.split)
    np.testing.assert_array_equal(read_samples(corpus_of(data) / one.audio)[1], samples[22050:66150])
    (again, _) = import_rows(data, rows)
    assert again == one


@pytest.mark.parametrize(
    ("keys", "columns"),
    [
        pytest.param({"channel": 1}, [1], id="channel"),
        pytest.param({"channel_selector": 0}, [0], id="channel_selector"),
        pytest.param({"channel_selector": [2, 0]}, [2, 0], id="list of channels"),
        pytest.param({"channel": "2"}, [2], id="channel as text"),
        pytest.param({"channel_selector": "average"}, [0, 1, 2], id="average of all"),
    ],
)
def test_a_channel_is_selected(data: Path, keys: dict[str, Any], columns: list[int]) -> None:
    samples = write_noise(data / "a.wav", 1.0, RATE, channels=3)
    whole, part = import_rows(
        data, [{"audio_filepath": "a.wav", "text": "x", **keys}, {"audio_filepath": "a.wav", "text": "x", "offset": 0.5, **keys}]
    )
    np.testing.assert_array_equal(read_samples(corpus_of(data) / whole.audio)[1], samples[:, columns])
    np.testing.assert_array_equal(read_samples(corpus_of(data) / part.audio)[1], samples[4000:, columns])
    assert whole.split == part.split


def test_segments_of_a_table_are_cut_and_the_whole_file_is_copied(data: Path) -> None:
    write_noise(data / "a.wav", 2.0, RATE)
    table = "file_name,transcription,offset,duration\na.wav,x,0.5,0.25\na.wav,y,0,2.0\na.wav,z,,\n"
    cut, whole, without = import_table(data, table)
    assert cut.duration_s == 0.25
    assert whole.audio == without.audio
    assert (corpus_of(data) / whole.audio).read_bytes() == (data / "a.wav").read_bytes()
    assert {cut.group, whole.group, without.group} == {cut.group}


def test_a_file_with_many_segments_is_decoded_once(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    samples = write_noise(data / "a.wav", 4.0, RATE)
    write_noise(data / "b.wav", 1.0, RATE)
    decoded = []

    def counted(path: Path, **limits: Any) -> Any:
        decoded.append(path.name)
        return read_samples(path, **limits)

    monkeypatch.setattr(clips, "read_samples", counted)
    rows = [{"audio_filepath": "a.wav", "text": f"word {n}", "offset": n / 100, "duration": 0.05} for n in range(300)]
    rows[150:150] = [{"audio_filepath": "b.wav", "text": "b", "offset": 0.5}]
    examples = import_rows(data, rows)
    assert sorted(decoded) == ["a.wav", "b.wav"]
    assert len(examples) == 301
    np.testing.assert_array_equal(read_samples(corpus_of(data) / examples[300].audio)[1], samples[23920:24320])


def test_segments_of_a_file_are_in_one_split_although_their_speakers_differ(data: Path) -> None:
    rows = []
    for name in ("a.wav", "b.wav", "c.wav", "d.wav", "e.wav", "f.wav"):
        write_tones(data, name, seconds=2.0)
        rows += [{"audio_filepath": name, "text": "x", "offset": n / 4, "duration": 0.2, "group": f"{name}{n}"} for n in range(8)]
    examples = import_rows(data, rows)
    assert all(len({example.split for example in examples[8 * n : 8 * n + 8]}) == 1 for n in range(6))
    assert len({example.split for example in examples}) > 1


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        pytest.param({"offset": 2.0}, "the segment starts at 2 s, allowed: less than the duration of the file, 2 s", id="start"),
        pytest.param({"offset": 1.5, "duration": 1.0}, "the segment ends at 2.5 s, allowed: at most", id="end"),
        pytest.param({"start": 500, "end": 1500}, "the segment starts at 500 s", id="milliseconds"),
        pytest.param({"offset": 0, "duration": 1e308}, "duration is 1e+308, allowed: at most 1e+09 seconds", id="too large"),
        pytest.param({"offset": -0.5}, "offset is -0.5, allowed: 0 or more seconds", id="negative"),
        pytest.param({"offset": 0.5, "duration": 0}, "duration is 0, allowed: more than 0 seconds", id="no duration"),
        pytest.param({"start": 1.0, "end": 0.5}, "end is 0.5, allowed: more than the start, 1 s", id="reversed"),
        pytest.param({"start": 1.0, "end": 1.5, "duration": 0.7}, "end is 1.5, but start and duration give 1.7 s", id="contradiction"),
        pytest.param({"offset": 1.0, "start": 0.5}, "offset is 1.0 and start is 0.5: they must be equal", id="two starts"),
        pytest.param({"offset": "00:00:01"}, "offset is '00:00:01', not a number of seconds", id="clock time"),
        pytest.param({"offset": [0.5]}, "offset is [0.5], not a number of seconds", id="list"),
        pytest.param({"offset": 1.0, "duration": 0.00001}, "the segment contains no sample at 8000 Hz", id="no sample"),
        pytest.param({"channel": 1}, "channel is 1, allowed: 0 to 0 (the file has 1 channels)", id="channel"),
        pytest.param({"channel": "left"}, "channel is 'left', allowed: an index from 0", id="name of a channel"),
        pytest.param({"channel": -1}, "channel is -1, allowed: an index from 0", id="negative channel"),
        pytest.param({"speed": 1.1}, "the key 'speed' (value 1.1) may change the audio", id="speed"),
        pytest.param({"gain_db": -3}, "the key 'gain_db' (value -3) may change the audio", id="gain"),
        pytest.param({"volume": 0.5}, "the key 'volume'", id="volume"),
        pytest.param({"trim": True}, "the key 'trim'", id="trim"),
        pytest.param({"sox_effects": [["tempo", "1.1"]]}, "the key 'sox_effects'", id="effects"),
        pytest.param({"start_sample": 8000}, "the key 'start_sample'", id="samples"),
        pytest.param({"startTime": 1.0}, "the key 'startTime' is not known; write 'start_time'", id="spelling"),
        pytest.param({"offset_ms": 500}, "the key 'offset_ms'", id="unit in the name"),
        pytest.param({"channels": [0]}, "the key 'channels'", id="channels"),
        pytest.param({"sample_rate": 16000}, "the row states sample_rate_hz 16000, the file has 8000", id="sample rate"),
        pytest.param({"num_channels": 2}, "the row states channels 2, the file has 1", id="number of channels"),
    ],
)
def test_a_segment_that_cannot_be_cut_is_named_and_nothing_is_written(data: Path, keys: dict[str, Any], words: str) -> None:
    write_noise(data / "a.wav", 2.0, RATE)
    rows = [{"audio_filepath": "a.wav", "text": "x", "offset": 1.0}, {"audio_filepath": "a.wav", "text": "x", **keys}]
    with pytest.raises(CorpusError) as raised:
        import_rows(data, rows)
    assert "rows.jsonl: line 2, row 2: " in str(raised.value)
    assert words in str(raised.value)
    assert not corpus_of(data).exists()


def test_a_segment_of_an_unreadable_file_is_named(data: Path) -> None:
    (data / "a.wav").write_text("not audio")
    with pytest.raises(CorpusError, match=r"line 1, row 1: a segment of audio 'a\.wav' cannot be cut"):
        import_rows(data, [{"audio_filepath": "a.wav", "text": "x", "offset": 1.0}])


def test_facts_and_names_that_change_nothing_are_accepted(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_noise(data / "a.wav", 2.0, RATE)
    keys = {"sample_rate": 8000, "num_channels": 1, "segment_id": "s1", "pred_text": "y", "lang": "en", "pitch_mean": 120}
    (example,) = import_rows(data, [{"audio_filepath": "a.wav", "text": "x", **keys}])
    assert example.duration_s == 2.0
    assert "ignored keys (rows): lang 1, pitch_mean 1, pred_text 1, segment_id 1" in capsys.readouterr().out


@pytest.mark.parametrize("stated", [2.0137, 2.014, 2.01, 2.02, 2.0, 2.1, "2.01"])
def test_a_rounded_duration_of_a_whole_file_is_replaced_by_the_measured_one(data: Path, stated: float | str) -> None:
    write_noise(data / "a.wav", 2.0137, 16000)
    [example] = import_rows(data, [{"audio_filepath": "a.wav", "text": "x", "duration": stated}])
    assert example.duration_s == round(2.0137 * 16000) / 16000


@pytest.mark.parametrize("stated", [1.9, 2.2, 2, 1.0])
def test_another_duration_of_a_whole_file_stays_for_the_contract_to_report(data: Path, stated: float) -> None:
    write_noise(data / "a.wav", 2.05 if stated != 2 else 2.4, 16000)
    [example] = import_rows(data, [{"audio_filepath": "a.wav", "text": "x", "duration": stated}])
    assert example.duration_s == stated


def test_the_duration_of_an_mp3_may_count_the_padding_of_its_encoder(data: Path) -> None:
    (data / "a.mp3").write_bytes(mp3(1.0))
    [example] = import_rows(data, [{"audio_filepath": "a.mp3", "text": "x", "duration": 1.045}])
    assert example.duration_s == 1.0


@pytest.mark.parametrize("over", [0.01, 0.05, 0.1])
def test_a_segment_ends_with_its_file_if_its_end_is_rounded_up(data: Path, over: float) -> None:
    samples = write_noise(data / "a.wav", 2.0, RATE)
    [example] = import_rows(data, [{"audio_filepath": "a.wav", "text": "x", "offset": 1.5, "duration": 0.5 + over}])
    np.testing.assert_array_equal(read_samples(corpus_of(data) / example.audio)[1], samples[12000:])


FACTS = {
    "channels": 1, "n_channels": 1, "num_channels": 1, "samplerate": 8000, "num_samples": 16000, "n_samples": 16000,
    "bits_per_sample": 16, "sample_width": 2, "sample_format": "s16", "channel_layout": "mono",
}  # fmt: skip


@pytest.mark.parametrize("key", FACTS)
def test_a_key_that_states_a_fact_of_the_file_is_read(data: Path, key: str) -> None:
    write_noise(data / "a.wav", 2.0, RATE)
    [example] = import_rows(data, [{"audio_filepath": "a.wav", "text": "x", key: FACTS[key]}])
    assert example.duration_s == 2.0


@pytest.mark.parametrize(("key", "value"), [("channels", 2), ("samplerate", 16000), ("num_samples", 8000), ("channels", [0])])
def test_a_key_that_states_another_fact_is_refused(data: Path, key: str, value: object) -> None:
    write_noise(data / "a.wav", 2.0, RATE)
    with pytest.raises(CorpusError, match=r"line 1, row 1: .*(the row states|the key 'channels')"):
        import_rows(data, [{"audio_filepath": "a.wav", "text": "x", key: value}])
