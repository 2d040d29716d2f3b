"""Events expert: posteriors of sounds, instruments and speech."""

from __future__ import annotations

from coat_core.experts.acoustic.framing import AcousticExpert
from coat_core.experts.classifiers.classifier import load_classifier


def build() -> AcousticExpert:
    """Return the expert `sound_classifier`."""
    return load_classifier("sound", "events")
