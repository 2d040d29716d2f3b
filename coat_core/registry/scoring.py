"""MLflow's scoring protocol (`/invocations`, `/ping`) over a model that is already loaded."""

from __future__ import annotations

import threading
from typing import Any

from coat_core.registry.packaging import import_pyfunc


def scoring_app(model: Any, lock: threading.Lock) -> Any:
    """Return MLflow's FastAPI application for a loaded MLflow model.

    Args:
        model: a loaded MLflow model.
        lock: held while the model computes.
    """
    import_pyfunc()
    from mlflow.pyfunc import scoring_server

    return scoring_server.init(_Exclusive(model, lock))


class _Exclusive:
    """A loaded MLflow model that computes for one caller at a time."""

    def __init__(self, model: Any, lock: threading.Lock) -> None:
        self._model, self._lock = model, lock

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def predict(self, *arguments: Any, **options: Any) -> Any:
        with self._lock:
            return self._model.predict(*arguments, **options)
