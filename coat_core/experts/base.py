"""What an audio expert is: a spec, and a function from waveforms to frames with a validity mask."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

Kind = Literal["reconstruction", "speech", "events", "affect", "pitch"]
Target = Literal["representation", "posteriors", "pitch_bins", "regression"]


@dataclass(frozen=True)
class ExpertSpec:
    """What is known of an expert before it runs.

    `target` decides the loss: `representation` (smooth-L1 + cosine on standardised dims), `posteriors` (binary cross-entropy,
    every dim in [0, 1]), `pitch_bins` (dims 0…d-2 are soft bin posteriors that sum to 1 where voiced, dim d-1 is the voicing
    probability), `regression` (smooth-L1 on standardised dims).
    """

    implementation: str
    kind: Kind
    target: Target
    dim: int
    native_rate_hz: float
    """Frames a second; frame t describes the audio around t / native_rate_hz seconds."""
    sample_rate_hz: int
    version: str
    licence: str
    commercial_use: bool
    source: str
    """The standard, paper or library that the computation follows."""
    dim_names: tuple[str, ...]
    """One readable name a dimension, for figures."""

    def to_json(self) -> dict[str, Any]:
        """Return the spec as plain JSON."""
        return asdict(self)


class Expert(Protocol):
    """An audio expert.

    A call takes mono waveforms `[B, N]` (float32 in [-1, 1], zero-padded, at `spec.sample_rate_hz`) and their lengths in
    samples `[B]`; it returns features `[B, T, d]` (float32) and a validity mask `[B, T]` (True where a frame describes audio
    of the clip). A clip's valid frames never depend on the padding.
    """

    @property
    def spec(self) -> ExpertSpec:
        """What is known of the expert before it runs."""

    def __call__(self, waveforms: NDArray[np.float32], lengths: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Return features `[B, T, d]` and mask `[B, T]`."""
