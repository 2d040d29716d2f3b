"""Affect expert: posteriors of speaking styles, arousal and the height of the voice."""

from __future__ import annotations

from coat_core.experts.acoustic.framing import AcousticExpert
from coat_core.experts.classifiers.classifier import load_classifier


def build() -> AcousticExpert:
    """Return the expert `style_classifier`."""
    return load_classifier("style", "affect")
