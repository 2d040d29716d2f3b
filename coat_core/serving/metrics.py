"""Metrics of the server in the text format of Prometheus."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CONTENT_TYPE_LATEST as METRICS_TYPE
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

__all__ = ["METRICS_TYPE", "Metrics"]
_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
_BATCHES = (1, 2, 4, 8, 16, 32)


class Metrics:
    """Counters and distributions of one server.

    Args:
        in_flight: returns the number of requests in the server.
    """

    def __init__(self, in_flight: Callable[[], int]) -> None:
        self._registry = CollectorRegistry()
        self.requests = Counter("coat_requests", "Requests by path and status", ["path", "status"], registry=self._registry)
        self.seconds = Histogram(
            "coat_request_seconds", "Time from request to the end of the answer, s", ["path"], buckets=_SECONDS, registry=self._registry
        )
        self.first_text_seconds = Histogram(
            "coat_first_text_seconds", "Time to the first piece of a streamed answer, s", buckets=_SECONDS, registry=self._registry
        )
        self.batch_size = Histogram("coat_batch_size", "Questions answered together", buckets=_BATCHES, registry=self._registry)
        self.tokens = Counter("coat_tokens", "Tokens of prompts and answers", ["kind"], registry=self._registry)
        Gauge("coat_requests_in_flight", "Requests in the server", registry=self._registry).set_function(in_flight)

    def text(self) -> bytes:
        """Return all values."""
        return generate_latest(self._registry)
