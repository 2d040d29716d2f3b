"""Interface of an audio expert: a spec, and a function from waveforms to frames with a validity mask."""

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
    """Static description of an expert.

    `target` selects the loss: `representation` (smooth-L1 + cosine on standardised dims), `posteriors` (binary cross-entropy,
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
    """Readable name of each dimension, for figures."""
    checkpoint: str | None = None
    """Hub id or folder of a neural expert's weights; None for an acoustic expert."""
    revision: str | None = None
    """Commit of the hub repository."""
    layers: tuple[int, ...] = ()
    """Hidden layers whose mean is the feature (1 = first); empty if the implementation defines its own output."""
    fitted_on: str = ""
    """Training data of the checkpoint, labels included: an expert must not be fitted on labels of the corpus that it is distilled on."""
    precision: str = "float32"
    """Data type of weights and computation."""
    window_s: float | None = None
    """Window of the encoder in seconds, if params shorten it."""
    pool_frames: int = 1
    """Consecutive frames of the encoder that are averaged."""

    def __post_init__(self) -> None:
        """Convert the lists of JSON to tuples."""
        object.__setattr__(self, "dim_names", tuple(self.dim_names))
        object.__setattr__(self, "layers", tuple(self.layers))

    def to_json(self) -> dict[str, Any]:
        """Return the spec as JSON values, without the fields of neural experts that have their default value."""
        values = asdict(self)
        unset = {field.name for field in fields(self)[-7:] if values[field.name] == field.default}
        return {name: value for name, value in values.items() if name not in unset}


class Expert(Protocol):
    """An audio expert.

    A call receives mono waveforms `[B, N]` (float32 in [-1, 1], zero-padded, at `spec.sample_rate_hz`) and their lengths in
    samples `[B]`; it returns features `[B, T, d]` (float32) and a validity mask `[B, T]` (True where a frame describes audio
    of the clip). A clip's valid frames do not depend on the padding.
    """

    @property
    def spec(self) -> ExpertSpec:
        """Static description of the expert."""

    def __call__(self, waveforms: NDArray[np.float32], lengths: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Return features `[B, T, d]` and mask `[B, T]`."""


def check_batch(waveforms: NDArray[np.float32], lengths: NDArray[np.int64]) -> None:
    """Check waveforms `[B, N]` and their lengths `[B]`.

    Raises:
        ExpertError: the shapes do not match, or a length is less than 1 or greater than N.
    """
    if waveforms.ndim != 2 or lengths.shape != waveforms.shape[:1]:
        raise ExpertError(
            "the shapes of waveforms and lengths do not match",
            field="shape",
            value=(waveforms.shape, lengths.shape),
            allowed="[B, N] and [B]",
        )
    if len(lengths) and not 1 <= lengths.min() <= lengths.max() <= waveforms.shape[1]:
        raise ExpertError("a clip's length is out of range", field="lengths", value=lengths.tolist(), allowed=f"1 to {waveforms.shape[1]}")
