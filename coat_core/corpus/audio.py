"""Reading, measuring and writing audio files.

The formats of `containers.scan.FORMATS` (WAV, FLAC, Ogg, MP3, …) are decoded by libsndfile. The bytes of each file are scanned
independently: a file is accepted only if all samples that it holds are decoded. Headers are used only to check limits before decoding.
Durations are measured on the decoded samples, the level on the mono waveform that the models receive.
"""

from __future__ import annotations

import io
import mmap
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from coat_core.corpus.containers.contents import Contents, DefectError, Stream
from coat_core.corpus.containers.flac import sample_md5
from coat_core.corpus.containers.scan import FORMATS, agrees, recognise, scan
from coat_core.errors import AudioError
from coat_core.storage import sha256_file, write_bytes

SAMPLE_RATE_HZ = 16000
MAX_DURATION_S = 600.0
MAX_CHANNELS = 8
MIN_SAMPLE_RATE_HZ, MAX_SAMPLE_RATE_HZ = 1000, 192_000
MAX_SAMPLES = 64_000_000
"""Largest number of samples, over all channels, that is decoded (10 minutes of 48 kHz stereo have 58 million)."""
HEADER_TOLERANCE_S = 0.5
"""Largest difference between header duration and decoded duration: an MP3 length that is estimated from the file size counts tags."""
FLOOR_DBFS = -120.0
"""Level reported for digital silence instead of minus infinity."""

_LOSSLESS = ("WAV", "WAVEX", "RF64", "FLAC", "AIFF", "AU", "CAF", "W64", "NIST")
_CLIPPED = 32766.5 / 32768.0
_BLOCK_S = 1.0
_MAX_SHOWN = 200
_NO_STREAM = Stream("PCM_16", 1, 0, SAMPLE_RATE_HZ)
_CANCELLED_WINDOW_S = 0.5
_CANCELLED_RUN, _CANCELLED_SHARE = 2, 0.1
"""A file is refused if this many windows in a row cancel (1 s), or this share of the audible ones: a single short effect is not a fault."""
_CANCELLED_DB = 20.0
"""The channels of a window cancel if their mean is this much below their RMS. The mean of N independent channels is 10 log10(N) below."""
_AUDIBLE_DBFS, _AUDIBLE_RANGE_DB = -60.0, 30.0
"""A window is audible above this level, and within this range of the loudest window."""


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


@dataclass(frozen=True, slots=True)
class AudioFacts:
    """Measurements of one file. Peak and clipped share are those of all channels. `error` contains the reason if the file is unreadable."""

    path: str
    sha256: str | None = None
    duration_s: float | None = None
    """Decoded duration."""
    header_duration_s: float | None = None
    sample_rate_hz: int | None = None
    channels: int | None = None
    peak_dbfs: float | None = None
    rms_dbfs: float | None = None
    """RMS of the mono waveform that `decode` returns, so of what a model receives."""
    clipped_share: float | None = None
    """Share of samples at full scale."""
    error: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the measurements as a JSON object."""
        return asdict(self)


def read_header(path: Path) -> AudioHeader:
    """Read a file's header, and check it against the bytes of the file.

    Raises:
        AudioError: the file is missing, is not audio of a supported format, is truncated, contains two streams, or does not tell its
            length.
    """
    return _open(Path(path))[0]


def read_samples(
    path: Path, *, max_duration_s: float = MAX_DURATION_S, max_channels: int = MAX_CHANNELS
) -> tuple[AudioHeader, NDArray[np.float32]]:
    """Decode a file at its own sample rate. Return its header and the samples `[N, channels]` in [-1, 1].

    Channels that would cancel in a mono mix are returned as they are.

    Raises:
        AudioError: the header exceeds a limit (checked before decoding), or the samples are invalid. The message names the file.
    """
    path = Path(path)
    header, contents = _open(path)
    _check_limits(path, header, max_duration_s, max_channels)
    # An estimated length may be wrong, but no file decodes to more than the duration limit.
    blocks = list(_blocks(path, header, contents, max_duration_s))
    samples = np.concatenate(blocks) if blocks else np.zeros((0, header.channels), np.float32)
    decoded = samples.shape[0]
    if decoded == 0 or not contents.frames - contents.slack <= decoded <= contents.frames:
        raise _unreadable(path, f"the file is truncated or damaged: {decoded} of {contents.frames} frames decode")
    if header.lossless and decoded != header.frames:
        raise _unreadable(path, f"the file is truncated: {decoded} of {header.frames} frames decode")
    if not np.isfinite(samples).all():
        raise _unreadable(path, f"{int((~np.isfinite(samples)).sum())} samples are NaN or infinite")
    if contents.md5 is not None and sample_md5(samples, contents.bits) not in (None, contents.md5):
        raise _unreadable(path, "the file is damaged: the MD5 of the decoded samples differs from that of the FLAC header")
    return header, samples


def decode(
    path: Path, *, sample_rate_hz: int = SAMPLE_RATE_HZ, max_duration_s: float = MAX_DURATION_S, max_channels: int = MAX_CHANNELS
) -> NDArray[np.float32]:
    """Decode a file to mono float32 `[N]` at `sample_rate_hz`. Channels are averaged; soxr (HQ) resamples.

    Raises:
        AudioError: the header exceeds a limit (checked before decoding), the samples are invalid, or the channels cancel each other.
            The message names the file.
    """
    header, samples = read_samples(path, max_duration_s=max_duration_s, max_channels=max_channels)
    return _mix(Path(path), header, samples, sample_rate_hz)


def measure(path: Path, *, max_duration_s: float = MAX_DURATION_S, max_channels: int = MAX_CHANNELS) -> AudioFacts:
    """Measure a file. A defect of the file is returned as `error`; no exception is raised."""
    path = Path(path)
    digest = None
    try:
        digest = sha256_file(path) if is_file(path) else None
        header, samples = read_samples(path, max_duration_s=max_duration_s, max_channels=max_channels)
        mono = _mix(path, header, samples, min(header.sample_rate_hz, SAMPLE_RATE_HZ))
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
        rms_dbfs=to_dbfs(_rms(mono)),
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


def is_file(path: Path) -> bool:
    """Return whether a path names a file. A text that cannot be a path (too long, with a NUL) names none."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def _open(path: Path) -> tuple[AudioHeader, Contents]:
    """Return the header of a file and what its bytes hold."""
    if not is_file(path):
        shown = str(path) if len(str(path)) <= _MAX_SHOWN else f"{str(path)[:_MAX_SHOWN]}…"
        raise AudioError("an audio file is missing", field="audio", value=shown, next_step="check the manifest's path column")
    try:
        with path.open("rb") as stream:
            if path.stat().st_size == 0:
                raise _unreadable(path, "the file is empty")
            with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
                container = recognise(data)
                if container is None:
                    raise _unsupported(path)
                rewritten = None
                try:
                    header = _header(path, None)
                except AudioError:
                    # The scanner may know a better reason (a cut or joined file), or how to write the header of a file of unknown length.
                    rewritten = scan(container, data, _NO_STREAM).rewritten
                    if rewritten is None:
                        raise
                    header = _header(path, rewritten)
                if not agrees(container, header.format):
                    raise _unreadable(path, f"the file begins as {container}, but decodes as {header.format}")
                contents = scan(container, data, Stream(header.subtype, header.channels, header.frames, header.sample_rate_hz))
    except DefectError as error:
        raise _unreadable(path, str(error)) from error
    except OSError as error:
        raise _unreadable(path, f"the file cannot be read ({error.strerror or error})") from error
    contents = replace(contents, rewritten=contents.rewritten or rewritten)
    if contents.rewritten is not None:
        header = _header(path, contents.rewritten)
    if contents.frames <= 0 or header.frames <= 0:
        raise _unreadable(path, "the audio file contains no samples")
    return header, contents


def _header(path: Path, rewritten: bytes | None) -> AudioHeader:
    try:
        with _source(path, rewritten) as source, soundfile.SoundFile(source) as stream:
            return AudioHeader(int(stream.frames), int(stream.samplerate), int(stream.channels), str(stream.format), str(stream.subtype))
    except (soundfile.SoundFileError, OSError, ValueError, TypeError) as error:
        raise _unreadable(path, f"not a readable audio file ({_reason(error)})") from error


@contextmanager
def _source(path: Path, rewritten: bytes | None) -> Iterator[str]:
    """Yield the path of a file, or of a temporary file with rewritten bytes: libsndfile does not read MP3 reliably from memory."""
    if rewritten is None:
        yield str(path)
        return
    with tempfile.NamedTemporaryFile(prefix="coat-audio-") as file:
        file.write(rewritten)
        file.flush()
        yield file.name


def _mix(path: Path, header: AudioHeader, samples: NDArray[np.float32], sample_rate_hz: int) -> NDArray[np.float32]:
    """Return the mean of all channels `[N]` at `sample_rate_hz`."""
    mono = samples[:, 0] if header.channels == 1 else samples.mean(axis=1, dtype=np.float32)
    if header.channels > 1:
        _check_cancellation(path, samples, mono, header.sample_rate_hz)
    if header.sample_rate_hz != sample_rate_hz:
        mono = soxr.resample(mono, header.sample_rate_hz, sample_rate_hz, quality="HQ")
    return np.ascontiguousarray(mono, dtype=np.float32)


def _check_cancellation(path: Path, samples: NDArray[np.float32], mono: NDArray[np.float32], rate: int) -> None:
    """Refuse a file whose channels are audible and cancel each other in the mix (opposite phase) for 1 s, or in a tenth of its windows."""
    starts = np.arange(0, len(mono), max(1, int(_CANCELLED_WINDOW_S * rate)))
    counts = np.diff(np.append(starts, len(mono)))
    mixed = np.add.reduceat(np.square(mono, dtype=np.float64), starts) / counts
    loud = np.add.reduceat(np.mean(np.square(samples, dtype=np.float64), axis=1), starts) / counts
    audible = loud > max(10 ** (_AUDIBLE_DBFS / 10), float(loud.max()) * 10 ** (-_AUDIBLE_RANGE_DB / 10))
    cancelled = audible & (mixed < loud * 10 ** (-_CANCELLED_DB / 10))
    runs = np.convolve(cancelled, np.ones(_CANCELLED_RUN, dtype=np.int64))
    if cancelled.any() and (runs.max() >= _CANCELLED_RUN or cancelled.sum() >= _CANCELLED_SHARE * audible.sum()):
        first = int(np.argmax(cancelled))
        levels = f"{to_dbfs(float(np.sqrt(loud[first]))):.1f} dBFS before, {to_dbfs(float(np.sqrt(mixed[first]))):.1f} dBFS after mixing"
        raise AudioError(
            f"{path}: its {samples.shape[1]} channels cancel in the mono mix at {starts[first] / rate:.1f} s ({levels})",
            field="audio",
            value=path.name,
            next_step="give a `channel` in the manifest's row, convert the file to mono, or remove its row",
        )


def _rms(samples: NDArray[np.float32]) -> float:
    return float(np.sqrt(np.mean(np.square(samples, dtype=np.float64))))


def _blocks(path: Path, header: AudioHeader, contents: Contents, max_duration_s: float) -> Iterator[NDArray[np.float32]]:
    """Yield blocks of about one second `[n, channels]`. Memory use depends on the decoded data, not on the header."""
    block = max(1, int(_BLOCK_S * header.sample_rate_hz))
    left = int(max_duration_s * header.sample_rate_hz) + block
    try:
        with _source(path, contents.rewritten) as source, soundfile.SoundFile(source) as stream:
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


def _unsupported(path: Path) -> AudioError:
    return AudioError(
        f"{path}: not a readable audio file: its format is unknown, or does not tell whether the file is complete",
        field="audio",
        value=path.name,
        allowed=FORMATS,
        next_step="convert the file to WAV or FLAC, or remove its row",
    )


def _reason(error: Exception) -> str:
    """Return libsndfile's message without the path, which our message already contains."""
    return str(getattr(error, "error_string", error)).rstrip(".")


def _unreadable(path: Path, reason: str) -> AudioError:
    return AudioError(f"{path}: {reason}", field="audio", value=path.name, next_step="replace the file, or remove its row")
