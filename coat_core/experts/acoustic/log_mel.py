"""Reconstruction expert: the log-mel spectrogram."""

from __future__ import annotations

import numpy as np

from coat_core.experts.acoustic.framing import (
    AcousticExpert,
    Floats,
    acoustic_spec,
    bin_frequencies_hz,
    decibels,
    mel_filters,
    power_spectrum,
)

BANDS = 64


def log_mel(waveform: Floats) -> Floats:
    """Return 64 mel bands `[T, 64]` in dB relative to a full-scale sine, at least -80 dB."""
    return decibels(power_spectrum(waveform) @ mel_filters(BANDS).T)


def build() -> AcousticExpert:
    """Return the expert `log_mel`."""
    centres = bin_frequencies_hz()[np.argmax(mel_filters(BANDS), axis=1)]
    spec = acoustic_spec(
        "log_mel",
        "reconstruction",
        "representation",
        version="1",
        source="Mel filter bank on Slaney's scale (Auditory Toolbox, 1998; librosa.filters.mel), Hann 32 ms",
        dim_names=tuple(f"mel {band} ({centre:.0f} Hz)" for band, centre in enumerate(centres)),
    )
    return AcousticExpert(spec, log_mel)
