"""What an audio expert is: a spec, and a function from waveforms to frames with a validity mask."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from coat_core.errors import ExpertError

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
    checkpoint: str | None = None
    """Hub id or folder of a neural expert's weights; None for an expert that computes from signal processing."""
    revision: str | None = None
    """Commit of the hub repository."""
    layers: tuple[int, ...] = ()
    """Hidden layers whose mean the features are (1 = first); empty where the implementation has its own output."""
    fitted_on: str = ""
    """What the checkpoint was fitted on, labels named: no expert may be fitted on labels of the corpus it is distilled on."""
    precision: str = "float32"
    """What the weights were computed in."""

    def __post_init__(self) -> None:
        """Take the lists that JSON has for tuples."""
        object.__setattr__(self, "dim_names", tuple(self.dim_names))
        object.__setattr__(self, "layers", tuple(self.layers))

    def to_json(self) -> dict[str, Any]:
        """Return the spec as plain JSON; what only neural experts have is left out where it says nothing."""
        values = asdict(self)
        silent = {field.name for field in fields(self)[-5:] if values[field.name] == field.default}
        return {name: value for name, value in values.items() if name not in silent}


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


def check_batch(waveforms: NDArray[np.float32], lengths: NDArray[np.int64]) -> None:
    """Refuse waveforms `[B, N]` and lengths `[B]` that do not fit together.

    Raises:
        ExpertError: the shapes differ, or a length is below 1 or beyond the waveform.
    """
    if waveforms.ndim != 2 or lengths.shape != waveforms.shape[:1]:
        raise ExpertError(
            "waveforms and lengths do not fit", field="shape", value=(waveforms.shape, lengths.shape), allowed="[B, N] and [B]"
        )
    if len(lengths) and not 1 <= lengths.min() <= lengths.max() <= waveforms.shape[1]:
        raise ExpertError("a clip's length is impossible", field="lengths", value=lengths.tolist(), allowed=f"1 to {waveforms.shape[1]}")
