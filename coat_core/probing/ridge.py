"""Ridge regression in closed form, with the penalty chosen by leave-one-out error; classification by one-hot targets."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

PENALTIES = tuple(10.0**power for power in range(-3, 4))
"""Penalties to choose from, relative to the mean eigenvalue of the Gram matrix."""


class Ridge:
    """Ridge regression on one matrix of inputs for any number of targets (Hoerl & Kennard 1970).

    It is solved in the dual, so the cost depends on the number of examples and not on the width of the states. Inputs and targets
    are centred. Leave-one-out residuals are exact: residual ÷ (1 − leverage) (Allen 1974).

    Args:
        inputs: `[n, D]`, at least two rows.
    """

    def __init__(self, inputs: Floats) -> None:
        self._mean = inputs.mean(axis=0)
        self._inputs = inputs - self._mean
        values, self._vectors = np.linalg.eigh(self._inputs @ self._inputs.T)
        self._values = np.maximum(values, 0.0)
        self._unit = float(self._values.mean()) or 1.0

    def predict(self, targets: Floats, queries: Floats) -> Floats:
        """Fit targets `[n, d]` and return the predictions `[m, d]` for queries `[m, D]`; the d targets share one penalty."""
        offset = targets.mean(axis=0)
        rotated = self._vectors.T @ (targets - offset)
        best = min(PENALTIES, key=lambda penalty: self._left_out_error(rotated, targets - offset, penalty * self._unit))
        dual = self._vectors @ (rotated / (self._values + best * self._unit)[:, None])
        return np.asarray((queries - self._mean) @ (self._inputs.T @ dual) + offset, dtype=np.float64)

    def _left_out_error(self, rotated: Floats, centred: Floats, penalty: float) -> float:
        share = self._values / (self._values + penalty)
        fitted = self._vectors @ (share[:, None] * rotated)
        # The mean is fitted, too: it adds 1 / n to each leverage.
        leverage = np.minimum((self._vectors**2) @ share + 1 / len(centred), 1 - 1e-9)
        return float((((centred - fitted) / (1 - leverage)[:, None]) ** 2).sum())


def r_squared(targets: Floats, predicted: Floats, mean: Floats) -> float:
    """Return 1 − Σ (target − predicted)² / Σ (target − mean)², over all dimensions `[m, d]`; 0 if the targets equal the mean."""
    spread = float(((targets - mean) ** 2).sum())
    return 0.0 if spread == 0.0 else 1.0 - float(((targets - predicted) ** 2).sum()) / spread
