"""How long audio is cut into windows, and which frames of each window are kept."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Span:
    """One window of a clip, in frames: heard from `start` to `stop`, kept from `keep_from` to `keep_to` (ends exclusive)."""

    start: int
    stop: int
    keep_from: int
    keep_to: int


@dataclass(frozen=True)
class Windowing:
    """A constant window and a constant context on both sides, so that where the seams lie depends on nothing but the clip's length.

    A clip of at most `frames` frames is one window. In a longer one every inner seam has `context` frames of sound on both sides.
    """

    frames: int
    """Most frames a window has."""
    context: int
    """Frames that are heard on each side of what is kept, and dropped."""

    def __post_init__(self) -> None:
        """Check that a window keeps something."""
        assert self.frames > 2 * self.context >= 0

    def spans(self, total: int) -> list[Span]:
        """Return the windows of a clip of `total` frames; what they keep is every frame, once, in order."""
        step = self.frames - 2 * self.context
        count = 1 + max(0, -(-(total - self.frames) // step))
        return [
            Span(
                start=k * step,
                stop=min(k * step + self.frames, total),
                keep_from=0 if k == 0 else k * step + self.context,
                keep_to=total if k == count - 1 else (k + 1) * step + self.context,
            )
            for k in range(count)
        ]
