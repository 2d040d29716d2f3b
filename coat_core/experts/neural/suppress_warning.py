"""A warning that is silenced while any thread needs it silent: `warnings.catch_warnings` is for one thread alone."""

from __future__ import annotations

import threading
import warnings
from typing import Any


class Quiet:
    """A context that silences one warning, entered by any number of threads.

    Args:
        message: the beginning of the warning, as a regular expression.
    """

    def __init__(self, message: str) -> None:
        self.message = message
        self._lock, self._inside = threading.Lock(), 0
        self._outer: Any = None

    def __enter__(self) -> None:
        """Silence the warning, if no other thread has."""
        with self._lock:
            if self._inside == 0:
                self._outer = warnings.catch_warnings()
                self._outer.__enter__()
                warnings.filterwarnings("ignore", message=self.message)
            self._inside += 1

    def __exit__(self, *error: object) -> None:
        """Put the filters back, if no other thread is inside."""
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._outer.__exit__(*error)
