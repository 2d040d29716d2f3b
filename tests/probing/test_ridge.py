from __future__ import annotations

import numpy as np
import pytest

from coat_core.probing.ridge import PENALTIES, Ridge, r_squared


def test_r_squared_by_hand() -> None:
    """Squared errors 1 + 1 against squared distances 1 + 9 from the mean 0."""
    targets, predicted = np.asarray([[1.0], [3.0]]), np.asarray([[2.0], [2.0]])
    assert r_squared(targets, predicted, np.zeros(1)) == pytest.approx(0.8)
    assert r_squared(targets, np.zeros((2, 1)), np.zeros(1)) == 0.0
    assert r_squared(np.ones((2, 1)), predicted, np.ones(1)) == 0.0


def _primal(inputs: np.ndarray, targets: np.ndarray, queries: np.ndarray, penalty: float) -> np.ndarray:
    """Ridge with an intercept as the textbook writes it: (XᵀX + λI)⁻¹ Xᵀy on centred data."""
    mean, offset = inputs.mean(0), targets.mean(0)
    centred = inputs - mean
    weights = np.linalg.solve(centred.T @ centred + penalty * np.eye(inputs.shape[1]), centred.T @ (targets - offset))
    return (queries - mean) @ weights + offset


@pytest.mark.parametrize(("examples", "width"), [(12, 5), (6, 20)])
def test_the_penalty_with_the_least_leave_one_out_error_is_used(examples: int, width: int) -> None:
    """Every example is left out in turn and predicted by a fit on the others; centring included."""
    rng = np.random.default_rng(0)
    inputs, queries = rng.standard_normal((examples, width)), rng.standard_normal((4, width))
    targets = inputs[:, :2] @ rng.standard_normal((2, 3)) + 0.8 * rng.standard_normal((examples, 3))
    centred = inputs - inputs.mean(0)
    unit = np.linalg.eigvalsh(centred @ centred.T).mean()
    rest = [np.delete(np.arange(examples), i) for i in range(examples)]
    errors = {
        penalty: sum(
            ((targets[i] - _primal(inputs[keep], targets[keep], inputs[i : i + 1], penalty * unit)) ** 2).sum()
            for i, keep in enumerate(rest)
        )
        for penalty in PENALTIES
    }
    best = min(errors, key=errors.__getitem__)
    assert PENALTIES[0] < best < PENALTIES[-1]
    np.testing.assert_allclose(Ridge(inputs).predict(targets, queries), _primal(inputs, targets, queries, best * unit), rtol=1e-6)


def test_constant_targets_and_inputs_are_predicted_by_their_mean() -> None:
    inputs = np.random.default_rng(1).standard_normal((8, 3))
    np.testing.assert_allclose(Ridge(inputs).predict(np.full((8, 1), 2.5), np.zeros((2, 3))), 2.5)
    targets = np.arange(8.0)[:, None]
    np.testing.assert_allclose(Ridge(np.ones((8, 3))).predict(targets, np.ones((2, 3))), 3.5)
