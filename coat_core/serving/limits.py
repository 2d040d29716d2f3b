"""Limits of the server: what it refuses instead of running out of memory or time."""

from __future__ import annotations

from dataclasses import dataclass

MEGABYTE = 1_000_000


@dataclass(frozen=True)
class Limits:
    """Limits of the server.

    Attributes:
        requests: requests in the server at once, those that wait included; a further one is answered with 503.
        batch: most questions that the model answers together.
        body_mb: largest body of a request in megabytes (10⁶ bytes); a larger one is answered with 413.
        audio_s: longest audio in seconds, checked before its samples are decoded; longer audio is answered with 422.
        tokens: most tokens of an answer; a request for more is answered with 422.
        body_timeout_s: longest time in seconds for a body to arrive; then 408.
        timeout_s: longest time in seconds from the complete request to its answer; then 504.
    """

    requests: int = 64
    batch: int = 8
    body_mb: float = 32.0
    audio_s: float = 60.0
    tokens: int = 256
    body_timeout_s: float = 60.0
    timeout_s: float = 300.0

    @property
    def body_bytes(self) -> int:
        """The largest body in bytes."""
        return int(self.body_mb * MEGABYTE)
