"""Synthetic speech: the voices of each split and the client of the synthesiser process."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Self

import numpy as np
import soxr
from numpy.typing import NDArray

from coat_core.corpus.audio import SAMPLE_RATE_HZ
from coat_core.corpus.examples import Split
from coat_core.errors import CorpusError

_LANGUAGE = "en-us"
_TRIM = 0.01
"""Samples below this share of the peak are removed at both ends of an utterance."""


@dataclass(frozen=True)
class Voice:
    """A speaker: a voice variant of espeak-ng with a pitch (0-99) and a rate (words per minute).

    The fundamental frequency of a `high` voice is above 150 Hz, that of other voices below 130 Hz.
    """

    variant: str
    pitch: int
    rate: int
    high: bool = False

    @property
    def group(self) -> str:
        """The group of clips spoken by this voice."""
        return f"voice-{self.variant.lower()}"


# The voices do not depend on the seed. Otherwise a base trained with one seed could have been trained on the test voices of another.
# No two voices have the same formants; variants of espeak-ng with the same formants are hard to distinguish.
VOICES: dict[Split, tuple[Voice, ...]] = {
    "train": (
        Voice("m1", 40, 150),
        Voice("f1", 50, 155, high=True),
        Voice("m3", 35, 165),
        Voice("f2", 55, 150, high=True),
        Voice("m4", 45, 160),
        Voice("f4", 50, 165, high=True),
        Voice("Andy", 45, 150),
        Voice("Annie", 55, 155, high=True),
        Voice("Lee", 50, 160),
        Voice("steph", 60, 150, high=True),
        Voice("adam", 30, 155),
        Voice("linda", 60, 165, high=True),
        Voice("john", 40, 165),
        Voice("aunty", 45, 150, high=True),
    ),
    "validation": (
        Voice("m5", 45, 155),
        Voice("f3", 55, 160, high=True),
        Voice("Mario", 40, 150),
        Voice("Andrea", 50, 165, high=True),
        Voice("rob", 50, 155),
    ),
    "test": (
        Voice("m7", 40, 155),
        Voice("f5", 50, 150, high=True),
        Voice("Michael", 45, 160),
        Voice("Alicia", 55, 155, high=True),
        Voice("m2", 35, 150),
        Voice("belinda", 60, 165, high=True),
        Voice("paul", 35, 165),
        Voice("anika", 45, 150, high=True),
    ),
}

_SCRIPT = Path(__file__).with_name("espeak.py")


class Synthesiser:
    """Client of the synthesiser process. The process starts at the first utterance and ends at `close`.

    An utterance depends only on its request, not on earlier requests.

    Raises:
        CorpusError: the library is not installed, or it rejects a request.
    """

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._rate_hz = 0
        self._spoken: dict[tuple[str, str, int, int, int], NDArray[np.float32]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def speak(self, text: str, voice: Voice, *, rate: int = 0, pitch: int = 0, pitch_range: int = 50) -> NDArray[np.float32]:
        """Synthesise `text`; return float32 `[N]` at 16 kHz with peak 0.5, without silence at both ends.

        Args:
            text: the text to speak.
            voice: the speaker.
            rate: difference from the voice's rate, words per minute.
            pitch: difference from the voice's pitch, in steps of espeak's scale of 0-99.
            pitch_range: 0 is monotone, 50 the default, 99 the widest range.
        """
        key = (text, voice.variant, voice.rate + rate, min(99, max(0, voice.pitch + pitch)), pitch_range)
        if key not in self._spoken:
            self._spoken[key] = self._synthesise(*key)
        return self._spoken[key].copy()

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            process, self._process = self._process, None
            for stream in (process.stdin, process.stdout):
                if stream is not None:
                    stream.close()
            process.wait()

    def _synthesise(self, text: str, variant: str, rate: int, pitch: int, pitch_range: int) -> NDArray[np.float32]:
        request = {"text": text, "voice": f"{_LANGUAGE}+{variant}", "rate": rate, "pitch": pitch, "range": pitch_range}
        process = self._process or self._start()
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(request).encode() + b"\n")
        process.stdin.flush()
        status, size = _read_header(process.stdout)
        body = process.stdout.read(size)
        samples = np.frombuffer(body, "<i2").astype(np.float32) if status == 0 else np.zeros(0, np.float32)
        if samples.size == 0 or not samples.any():
            reason = body.decode(errors="replace") if status else "the reply contains no speech"
            raise CorpusError(f"the synthesiser rejected a request ({reason})", field="voice", value=request)
        loud = np.flatnonzero(np.abs(samples) > _TRIM * np.abs(samples).max())
        speech = soxr.resample(samples[loud[0] : loud[-1] + 1], self._rate_hz, SAMPLE_RATE_HZ, quality="HQ")
        return np.asarray(0.5 * speech / np.abs(speech).max(), np.float32)

    def _start(self) -> subprocess.Popen[bytes]:
        """Start the process and read its sample rate."""
        # -I: isolated mode, which ignores this folder and the user's environment when modules are imported.
        process = subprocess.Popen([sys.executable, "-I", str(_SCRIPT)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert process.stdout is not None
        status, value = _read_header(process.stdout)
        self._process, self._rate_hz = process, value
        if status != 0:
            reason = process.stdout.read(value).decode(errors="replace")
            self.close()
            message = f"the generated corpus needs the speech synthesiser, which does not start ({reason})"
            raise CorpusError(message, field="corpus.kind", value="generated", next_step="pip install 'coat[speech]'")
        return process


def _read_header(stream: IO[bytes]) -> tuple[int, int]:
    """Read the status and the size of a reply."""
    data = stream.read(8)
    if len(data) != 8:
        message = "the synthesiser process ended unexpectedly"
        raise CorpusError(message, field="corpus.kind", value="generated", next_step="pip install 'coat[speech]'")
    status, size = struct.unpack("<ii", data)
    return status, size
