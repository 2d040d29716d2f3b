"""Speech expert: posteriors of the digits and of six commands."""

from __future__ import annotations

from coat_core.experts.acoustic.framing import AcousticExpert
from coat_core.experts.classifiers.classifier import load_classifier


def build() -> AcousticExpert:
    """Return the expert `word_classifier`."""
    return load_classifier("word", "speech")
