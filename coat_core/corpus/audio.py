"""Reading, measuring and writing audio files.

All formats of libsndfile (WAV, FLAC, Ogg, MP3, …) are read by the same functions. Headers are used only to check limits before
decoding. Durations and levels are measured on the decoded samples.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from coat_core.errors import AudioError
from coat_core.storage import sha256_file, write_bytes

SAMPLE_RATE_HZ = 16000
MAX_DURATION_S = 600.0
MAX_CHANNELS = 8
MIN_SAMPLE_RATE_HZ, MAX_SAMPLE_RATE_HZ = 1000, 192_000
MAX_SAMPLES = 64_000_000
"""Largest number of samples, over all channels, that is decoded (10 minutes of 48 kHz stereo have 58 million)."""
HEADER_TOLERANCE_S = 0.5
"""Largest difference between header duration and decoded duration of lossy formats: MP3 headers count the encoder's padding."""
FLOOR_DBFS = -120.0
"""Level reported for digital silence instead of minus infinity."""

_LOSSLESS = ("WAV", "WAVEX", "RF64", "FLAC", "AIFF", "AU", "CAF", "W64")
_CLIPPED = 32766.5 / 32768.0
_BLOCK_S = 1.0


@dataclass(frozen=True)
class AudioHeader:
    """Fields of a file's header, read without decoding. Frames are samples per channel."""

    frames: int
    sample_rate_hz: int
    channels: int
    format: str
    subtype: str

    @property
    def duration_s(self) -> float:
        """Duration in seconds according to the header."""
        return self.frames / self.sample_rate_hz

    @property
    def lossless(self) -> bool:
        """Whether the format is lossless: the number of decoded frames must equal `frames`."""
        return self.format in _LOSSLESS


@dataclass(frozen=True)
class AudioFacts:
    """Measurements of one file at its own sample rate, over all channels. `error` contains the reason when the file is unreadable."""

    path: str
    sha256: str | None = None
    duration_s: float | None = None
    """Decoded duration."""
    header_duration_s: float | None = None
    sample_rate_hz: int | None = None
    channels: int | None = None
    peak_dbfs: float | None = None
    rms_dbfs: float | None = None
    clipped_share: float | None = None
    """Share of samples at full scale."""
    error: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the measurements as a JSON object."""
        return asdict(self)


def read_header(path: Path) -> AudioHeader:
    """Read a file's header.

    Raises:
        AudioError: the file is missing, is not audio, declares more data than it contains, or does not declare its length.
    """
    path = Path(path)
    if not path.is_file():
        raise AudioError("an audio file is missing", field="audio", value=str(path), next_step="check the manifest's path column")
    try:
        with soundfile.SoundFile(str(path)) as stream:
            header = AudioHeader(int(stream.frames), int(stream.samplerate), int(stream.channels), str(stream.format), str(stream.subtype))
    except (soundfile.SoundFileError, OSError, ValueError, TypeError) as error:
        raise _unreadable(path, f"not a readable audio file ({_reason(error)})") from error
    if header.format in ("WAV", "WAVEX"):
        _check_riff(path)
    if header.frames <= 0:
        raise _unreadable(path, "the audio file contains no samples")
    return header


def decode(
    path: Path, *, sample_rate_hz: int = SAMPLE_RATE_HZ, max_duration_s: float = MAX_DURATION_S, max_channels: int = MAX_CHANNELS
) -> NDArray[np.float32]:
    """Decode a file to mono float32 `[N]` at `sample_rate_hz`. Channels are averaged; soxr (HQ) resamples.

    Raises:
        AudioError: the header exceeds a limit (checked before decoding), or the samples are invalid. The message names the file.
    """
    header, samples = _read(Path(path), max_duration_s, max_channels)
    mono = samples[:, 0] if header.channels == 1 else samples.mean(axis=1, dtype=np.float32)
    if header.sample_rate_hz != sample_rate_hz:
        mono = soxr.resample(mono, header.sample_rate_hz, sample_rate_hz, quality="HQ")
    return np.ascontiguousarray(mono, dtype=np.float32)


def measure(path: Path, *, max_duration_s: float = MAX_DURATION_S, max_channels: int = MAX_CHANNELS) -> AudioFacts:
    """Measure a file at its own sample rate. A defect of the file is returned as `error`; no exception is raised."""
    path = Path(path)
    digest = None
    try:
        digest = sha256_file(path) if path.is_file() else None
        header, samples = _read(path, max_duration_s, max_channels)
    except (AudioError, OSError) as error:
        return AudioFacts(path=str(path), sha256=digest, error=str(error))
    level = np.abs(samples)
    return AudioFacts(
        path=str(path),
        sha256=digest,
        duration_s=samples.shape[0] / header.sample_rate_hz,
        header_duration_s=header.duration_s,
        sample_rate_hz=header.sample_rate_hz,
        channels=header.channels,
        peak_dbfs=to_dbfs(float(level.max())),
        rms_dbfs=to_dbfs(float(np.sqrt(np.mean(np.square(samples, dtype=np.float64))))),
        clipped_share=float(np.mean(level >= _CLIPPED)),
    )


def flac_bytes(waveform: NDArray[Any], sample_rate_hz: int) -> bytes:
    """Encode a mono waveform `[N]` in [-1, 1] as 16-bit FLAC. Equal samples give equal bytes.

    Raises:
        AudioError: the waveform is empty, is not mono, or is not finite.
    """
    if waveform.ndim != 1 or waveform.size == 0:
        raise AudioError("a waveform to write is not [N] with N > 0", field="waveform", value=list(waveform.shape))
    if not np.isfinite(waveform).all():
        raise AudioError("a waveform to write contains NaN or infinity", field="waveform")
    integers = np.rint(np.clip(waveform, -1.0, 32767.0 / 32768.0) * 32768.0).astype(np.int16)
    stream = io.BytesIO()
    soundfile.write(stream, integers, sample_rate_hz, format="FLAC", subtype="PCM_16")
    return stream.getvalue()


def write_flac(path: Path, waveform: NDArray[Any], sample_rate_hz: int = SAMPLE_RATE_HZ) -> None:
    """Write a mono waveform `[N]` in [-1, 1] as 16-bit FLAC, atomically.

    Raises:
        AudioError: the waveform is empty, is not mono, or is not finite.
    """
    write_bytes(Path(path), flac_bytes(waveform, sample_rate_hz))


def to_dbfs(level: float) -> float:
    """Return a level in [0, 1] in dB relative to full scale, at least `FLOOR_DBFS`."""
    return FLOOR_DBFS if level <= 0.0 else max(FLOOR_DBFS, float(20.0 * np.log10(level)))


def _read(path: Path, max_duration_s: float, max_channels: int) -> tuple[AudioHeader, NDArray[np.float32]]:
    """Return the header and all samples `[N, channels]`, after all checks."""
    header = read_header(path)
    _check_limits(path, header, max_duration_s, max_channels)
    # A lossy file may decode to more frames than its header declares, but never to more than the duration limit.
    blocks = list(_blocks(path, header, max_duration_s))
    samples = np.concatenate(blocks) if blocks else np.zeros((0, header.channels), np.float32)
    missing_s = header.duration_s - samples.shape[0] / header.sample_rate_hz
    if samples.shape[0] == 0 or (header.lossless and samples.shape[0] != header.frames) or missing_s > HEADER_TOLERANCE_S:
        raise _unreadable(path, f"the file is truncated: {samples.shape[0]} of {header.frames} frames decode")
    if not np.isfinite(samples).all():
        raise _unreadable(path, f"{int((~np.isfinite(samples)).sum())} samples are NaN or infinite")
    return header, samples


def _blocks(path: Path, header: AudioHeader, max_duration_s: float) -> Iterator[NDArray[np.float32]]:
    """Yield blocks of about one second `[n, channels]`. Memory use depends on the decoded data, not on the header."""
    block = max(1, int(_BLOCK_S * header.sample_rate_hz))
    left = int(max_duration_s * header.sample_rate_hz) + block
    try:
        with soundfile.SoundFile(str(path)) as stream:
            while left > 0:
                samples: NDArray[np.float32] = stream.read(block, dtype="float32", always_2d=True)
                if samples.shape[0] == 0:
                    return
                left -= samples.shape[0]
                yield samples
    except (soundfile.SoundFileError, OSError) as error:
        raise _unreadable(path, f"decoding failed ({_reason(error)})") from error
    raise _unreadable(path, f"the file decodes to more than {max_duration_s:g} s")


def _check_limits(path: Path, header: AudioHeader, max_duration_s: float, max_channels: int) -> None:
    """Check the header against all limits, before decoding."""
    found: list[tuple[str, object, str]] = []
    if header.duration_s > max_duration_s:
        found.append(("duration_s", round(header.duration_s, 3), f"at most {max_duration_s:g}"))
    if not MIN_SAMPLE_RATE_HZ <= header.sample_rate_hz <= MAX_SAMPLE_RATE_HZ:
        found.append(("sample_rate_hz", header.sample_rate_hz, f"{MIN_SAMPLE_RATE_HZ} to {MAX_SAMPLE_RATE_HZ}"))
    if header.channels > max_channels:
        found.append(("channels", header.channels, f"at most {max_channels}"))
    if header.frames * header.channels > MAX_SAMPLES:
        found.append(("frames x channels", header.frames * header.channels, f"at most {MAX_SAMPLES}"))
    if found:
        name, value, allowed = found[0]
        every = "; ".join(f"{n} {v} ({a})" for n, v, a in found)
        message = f"{path}: the header exceeds the limits, nothing was decoded: {every}"
        raise AudioError(message, field=name, value=value, allowed=allowed, next_step="shorten the file, or remove its row")


def _check_riff(path: Path) -> None:
    """Refuse a WAV whose data chunk declares more bytes than the file contains: libsndfile would read it without an error."""
    size = path.stat().st_size
    with path.open("rb") as stream:
        if stream.read(4) != b"RIFF":
            return
        offset = 12
        while offset + 8 <= size:
            stream.seek(offset)
            name, length = stream.read(4), int.from_bytes(stream.read(4), "little")
            if name == b"data":
                # Streamed files declare 0xFFFFFFFF for an unknown length.
                if length != 0xFFFFFFFF and offset + 8 + length > size:
                    raise _unreadable(path, f"the header declares {length} bytes of samples, the file contains {size - offset - 8}")
                return
            offset += 8 + length + (length & 1)


def _reason(error: Exception) -> str:
    """Return libsndfile's message without the path, which our message already contains."""
    return str(getattr(error, "error_string", error)).rstrip(".")


def _unreadable(path: Path, reason: str) -> AudioError:
    return AudioError(f"{path}: {reason}", field="audio", value=path.name, next_step="replace the file, or remove its row")
