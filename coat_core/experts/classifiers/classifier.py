"""An expert from a fitted classifier: posteriors of its classes, 12.5 frames a second."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from coat_core.experts.acoustic.framing import SAMPLE_RATE_HZ, AcousticExpert, Floats, acoustic_spec
from coat_core.experts.base import Kind
from coat_core.experts.classifiers.context import CONTEXT_HOP, frame_context
from coat_core.experts.classifiers.network import read_network

FITTED_ON = "sounds, notes and speech generated for this purpose (espeak-ng voices of the training split), with their labels"


def weights_path(name: str) -> Path:
    """Return the file of a shipped classifier, for example `sound`."""
    return Path(__file__).with_name(f"{name}.safetensors")


def load_classifier(name: str, kind: Kind, weights: Path | None = None) -> AcousticExpert:
    """Return the expert `<name>_classifier`.

    Args:
        name: `sound`, `style` or `word`.
        kind: the kind of the expert.
        weights: its network; None: the shipped one.

    Raises:
        ExpertError: the file is missing or invalid.
    """
    network = read_network(weights or weights_path(name))

    def compute(waveform: Floats) -> Floats:
        return network.posteriors(frame_context(waveform))

    spec = acoustic_spec(
        f"{name}_classifier",
        kind,
        "posteriors",
        version="1",
        source="Perceptron on cepstral coefficients (TRAPS, Hermansky and Sharma 1999) and pitch of a second around each frame",
        dim_names=network.classes,
    )
    return AcousticExpert(replace(spec, native_rate_hz=SAMPLE_RATE_HZ / CONTEXT_HOP, fitted_on=FITTED_ON), compute, CONTEXT_HOP)
