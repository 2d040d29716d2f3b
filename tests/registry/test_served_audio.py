"""Audio in a request to the served model: a path, or an audio file of any supported format in base64."""

from __future__ import annotations

import base64
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coat_core.corpus.audio import decode
from coat_core.errors import RegistryError
from tests.testing.audio_files import encode, mp3, noise, with_data_size

QUESTION = "What do you hear?"


@pytest.fixture(scope="module")
def read() -> Callable[[str, Any], Any]:
    from coat_core.registry.packaging import import_pyfunc

    import_pyfunc()
    import pandas as pd

    from coat_core.registry.served_model import read_table

    def read_rows(audio: str, question: Any = QUESTION) -> Any:
        return read_table(pd.DataFrame({"audio": [audio], "question": [question]}, dtype=object))[0].waveform

    return read_rows


FILES = {
    "wav": encode(noise(), "WAV"),
    "flac": encode(noise(), "FLAC"),
    "mp3": mp3(1.0),
    "mp3 with tag": b"ID3\x03\x00\x00\x00\x00\x00\x14" + bytes(20) + mp3(1.0),
    "vorbis": encode(noise(), "OGG", "VORBIS"),
    "opus": encode(noise(), "OGG", "OPUS"),
    "rf64": encode(noise(), "RF64", "PCM_16"),
    "w64": encode(noise(), "W64", "PCM_16"),
    "aiff": encode(noise(), "AIFF"),
    "au": encode(noise(), "AU", "PCM_16"),
    "caf": encode(noise(), "CAF", "PCM_16"),
    "sph": encode(noise(), "NIST", "PCM_16"),
    "streamed wav": with_data_size(encode(noise(), "WAV"), 0),
}
FORMS: dict[str, Callable[[bytes], str]] = {
    "base64": lambda data: base64.b64encode(data).decode(),
    "lines": lambda data: base64.encodebytes(data).decode(),
    "url-safe": lambda data: base64.urlsafe_b64encode(data).decode().rstrip("="),
    "audio/mpeg": lambda data: f"data:audio/mpeg;base64,{base64.b64encode(data).decode()}",
    "parameters": lambda data: f"DATA:audio/ogg; codecs=opus ;base64,{base64.b64encode(data).decode()}",
    "no type": lambda data: f"data:;base64,{base64.b64encode(data).decode()}",
    "escaped": lambda data: "data:audio/wav;base64," + base64.b64encode(data).decode().replace("+", "%2B").replace("=", "%3D"),
}


@pytest.mark.parametrize("kind", FILES)
@pytest.mark.parametrize("form", FORMS)
def test_audio_of_every_format_and_form_is_decoded(tmp_path: Path, read: Any, kind: str, form: str) -> None:
    (tmp_path / "clip").write_bytes(FILES[kind])
    assert np.array_equal(read(FORMS[form](FILES[kind])), decode(tmp_path / "clip"))


REFUSED = {
    "long name": "a" * 300 + ".wav",
    "long name of base64 letters": "a" * 300,
    "very long name": "folder/" * 2000 + "clip.wav",
    "missing file": "missing.wav",
    "missing file of base64 letters": "clips/dog",
    "nul": "clip\0.wav",
    "surrogate": "clip\ud83d.wav",
    "text": base64.b64encode(b"this is not audio, it is text " * 20).decode(),
    "cut flac": base64.b64encode(FILES["flac"][:9000]).decode(),
    "cut wav": base64.b64encode(FILES["wav"][:9000]).decode(),
    "empty uri": "data:audio/wav;base64,",
    "no comma": "data:audio/wav;base64",
    "not base64": "data:audio/wav," + "x" * 400,
    "wrong letters": "data:audio/wav;base64,UklGR!!!",
    "silent by mixing": base64.b64encode(encode(np.stack([noise(), -noise()], axis=1), "WAV")).decode(),
    "video": base64.b64encode(b"\x00\x00\x00\x18ftypmp42" + bytes(400)).decode(),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_other_audio_is_refused_by_row(read: Any, kind: str) -> None:
    with pytest.raises(RegistryError, match="row 0: ") as caught:
        read(REFUSED[kind])
    assert len(str(caught.value)) < 1000
    assert "/tmp" not in str(caught.value)


@pytest.mark.parametrize("question", ["", " \n\t", None, 7, float("nan"), " ", "\u200b"])
def test_a_blank_question_is_refused_by_row(read: Any, question: Any) -> None:
    with pytest.raises(RegistryError, match="row 0 has no question"):
        read(FORMS["base64"](FILES["wav"]), question)
