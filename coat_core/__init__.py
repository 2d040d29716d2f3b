"""coat: teach a large audio language model to think in sound before it answers (Continuous Audio Thinking)."""

__version__ = "0.1.0"
