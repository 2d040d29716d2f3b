"""Windows of long audio, and the frames of each window that are kept."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Span:
    """One window of a clip, in frames: encoded from `start` to `stop`, kept from `keep_from` to `keep_to` (ends exclusive)."""

    start: int
    stop: int
    keep_from: int
    keep_to: int


@dataclass(frozen=True)
class Windowing:
    """A constant window and a constant context on both sides, so that the positions of the seams depend on the clip's length alone.

    A clip of at most `frames` frames is one window. In a longer clip every seam has `context` frames of sound on both sides.
    """

    frames: int
    """Most frames in a window."""
    context: int
    """Frames that are encoded and dropped on each side of the kept frames."""

    def __post_init__(self) -> None:
        """Check that a window keeps at least one frame."""
        assert self.frames > 2 * self.context >= 0

    def spans(self, total: int) -> list[Span]:
        """Return the windows of a clip of `total` frames; together they keep every frame once, in order."""
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
