"""Thread-safe suppression of one warning; `warnings.catch_warnings` is not thread-safe."""

from __future__ import annotations

import threading
import warnings
from typing import Any


class suppress_warning:  # noqa: N801  (a context manager, named like `contextlib.suppress`)
    """Context manager that ignores one warning; several threads may be inside at once.

    The filters are changed when the first thread enters and restored when the last one leaves.

    Args:
        message: start of the warning's text, as a regular expression.
    """

    def __init__(self, message: str) -> None:
        self.message = message
        self._lock, self._inside = threading.Lock(), 0
        self._outer: Any = None

    def __enter__(self) -> None:
        """Add the filter, unless another thread is inside."""
        with self._lock:
            if self._inside == 0:
                self._outer = warnings.catch_warnings()
                self._outer.__enter__()
                warnings.filterwarnings("ignore", message=self.message)
            self._inside += 1

    def __exit__(self, *error: object) -> None:
        """Restore the filters, unless another thread is inside."""
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._outer.__exit__(*error)
