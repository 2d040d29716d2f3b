"""Segments of audio files, cut exactly at the sample rate and with the channels of the file, and stored without loss."""

from __future__ import annotations

import io
import math
import struct
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

from coat_core.corpus.imported.rows import Segment

ROUNDING_S = 0.1
"""Largest error of a stated duration that is taken as rounding: manifests round to one to three digits, and the duration of an MP3 may
count the padding of its encoder. An end that exceeds the end of the file by at most this much is the end of the file."""
MAX_SOURCE_S = 24 * 3600.0
"""Longest file that is cut. The limit on the number of samples applies as well."""
MAX_SOURCE_CHANNELS = 64
"""Most channels of a file that is cut: a row may select one channel of a microphone array."""
_FLAC_CHANNELS = 8


def cut(samples: NDArray[np.float32], rate: int, segment: Segment) -> NDArray[np.float32] | None:
    """Return the samples of a segment `[n, channels]`, or None if it is the whole file.

    The first sample is ⌊start · rate⌋ and the number of samples is ⌊duration · rate⌋, as in NeMo's `AudioSegment.from_file`.

    Args:
        samples: all samples of the file `[N, channels]`.
        rate: its sample rate in Hz.
        segment: start, duration or end in seconds, and channels.

    Raises:
        ValueError: the segment is outside the file, or contains no sample.
    """
    total, channels = samples.shape
    length_s = total / rate
    first = _frames(segment.start_s, rate)
    if first >= total:
        raise ValueError(f"the segment starts at {segment.start_s:g} s, allowed: less than the duration of the file, {length_s:g} s")
    if segment.end_s is not None:
        last = _frames(segment.end_s, rate)
    elif segment.duration_s is not None:
        last = first + _frames(segment.duration_s, rate)
    else:
        last = total
    if last > total + ROUNDING_S * rate:
        raise ValueError(f"the segment ends at {last / rate:g} s, allowed: at most the duration of the file, {length_s:g} s")
    last = min(last, total)
    if last <= first:
        raise ValueError(f"the segment contains no sample at {rate} Hz")
    selected = segment.channels
    if selected is not None and max(selected) >= channels:
        raise ValueError(f"channel is {max(selected)}, allowed: 0 to {channels - 1} (the file has {channels} channels)")
    if (first, last) == (0, total) and (selected is None or selected == tuple(range(channels))):
        return None
    part = samples[first:last]
    return np.ascontiguousarray(part if selected is None else part[:, list(selected)])


def encode(samples: NDArray[np.float32], rate: int) -> tuple[bytes, str]:
    """Encode samples `[N, channels]` without loss; return the bytes and the suffix of the file name. Equal samples give equal bytes.

    FLAC with 16 or 24 bits if the samples have these values exactly, else WAV with 32-bit float samples.
    """
    if samples.shape[1] <= _FLAC_CHANNELS:
        for bits, subtype, shift in ((16, "PCM_16", 16), (24, "PCM_24", 8)):
            scaled = samples.astype(np.float64) * 2 ** (bits - 1)
            if np.array_equal(scaled, np.rint(scaled)) and scaled.min() >= -(2 ** (bits - 1)) and scaled.max() < 2 ** (bits - 1):
                stream = io.BytesIO()
                try:
                    soundfile.write(stream, scaled.astype(np.int32) << shift, rate, format="FLAC", subtype=subtype)
                except soundfile.SoundFileError:
                    break  # FLAC does not have this sample rate.
                return stream.getvalue(), ".flac"
    return _float_wav(samples, rate), ".wav"


def suffix_of(path: Path) -> str:
    """Return the suffix of a file name in lower case, or "" if it is not that of an audio format."""
    suffix = path.suffix.lower()
    return suffix if suffix[1:].isascii() and suffix[1:].isalnum() and len(suffix) <= 8 else ""


def _frames(seconds: float, rate: int) -> int:
    # 0.29 s at 100 Hz are 28.999999999999996 in binary floating point, but 29 samples.
    return math.floor(seconds * rate + 1e-6)


def _float_wav(samples: NDArray[np.float32], rate: int) -> bytes:
    """Return a WAV file of IEEE float samples. libsndfile would add a PEAK chunk that contains the time of day."""
    channels = samples.shape[1]
    data = np.ascontiguousarray(samples, dtype="<f4").tobytes()
    layout = struct.pack("<HHIIHHH", 3, channels, rate, rate * channels * 4, channels * 4, 32, 0)
    chunks = b"fmt " + struct.pack("<I", len(layout)) + layout
    chunks += b"fact" + struct.pack("<II", 4, samples.shape[0])
    chunks += b"data" + struct.pack("<I", len(data)) + data
    return b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WAVE" + chunks
