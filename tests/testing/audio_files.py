"""Audio files in memory, and changes of their headers."""

from __future__ import annotations

import io
import tempfile
from pathlib import Path

import numpy as np
import soundfile

_MPEG1_KBPS = (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)


def noise(seconds: float = 1.0, rate: int = 16000, channels: int = 1, seed: int = 0) -> np.ndarray:
    samples = np.random.default_rng(seed).uniform(-0.3, 0.3, (int(seconds * rate), channels))
    return samples[:, 0] if channels == 1 else samples


def encode(samples: np.ndarray, form: str, subtype: str | None = None, rate: int = 16000, **options: object) -> bytes:
    if form == "SD2":
        # libsndfile writes the header to a second file, `._` and the name of the first; without a name, to the working folder.
        with tempfile.TemporaryDirectory() as folder:
            soundfile.write(f"{folder}/clip.sd2", samples, rate, format=form, subtype=subtype, **options)
            return Path(folder, "clip.sd2").read_bytes()
    stream = io.BytesIO()
    soundfile.write(stream, samples, rate, format=form, subtype=subtype, **options)
    return stream.getvalue()


def mp3(seconds: float, *, loud: str = "all", mode: str = "VARIABLE", rate: int = 44100) -> bytes:
    """An MP3 file (MPEG-1 layer III) whose `start` or `end` is louder, so that a variable bit rate differs."""
    samples = noise(seconds, rate)
    fade = {"all": slice(0, 0), "start": slice(len(samples) // 4, None), "end": slice(0, len(samples) // 4)}[loud]
    samples[fade] *= 0.001
    return encode(samples, "MP3", rate=rate, bitrate_mode=mode, compression_level=0.5)


def mp3_frames(data: bytes) -> list[bytes]:
    """The frames of an MPEG-1 layer III file at 44.1 kHz without tags; the first is the Info header."""
    frames = []
    while data:
        size = 144000 * _MPEG1_KBPS[data[2] >> 4] // 44100 + (data[2] >> 1 & 1)
        frames.append(data[:size])
        data = data[size:]
    return frames


def without_info(data: bytes) -> bytes:
    return b"".join(mp3_frames(data)[1:])


def with_info_count(data: bytes, count: int) -> bytes:
    at = max(data.find(b"Xing"), data.find(b"Info")) + 8
    return data[:at] + count.to_bytes(4, "big") + data[at + 4 :]


def with_flac_total(data: bytes, frames: int) -> bytes:
    """Rewrite the 36-bit total of STREAMINFO (bytes 18-25 contain rate, channels, depth and total)."""
    word = int.from_bytes(data[18:26], "big") >> 36 << 36 | frames
    return data[:18] + word.to_bytes(8, "big") + data[26:]


def with_data_size(data: bytes, size: int, *, after: bytes = b"data", width: int = 4, skip: int = 0, order: str = "little") -> bytes:
    """Rewrite the size field that follows a chunk's name."""
    at = data.index(after) + len(after) + skip
    return data[:at] + size.to_bytes(width, order) + data[at + width :]  # type: ignore[arg-type]
