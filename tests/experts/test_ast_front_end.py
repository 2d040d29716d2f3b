from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest

from coat_core.experts.neural.ast_front_end import AstFrontEnd


def _stock(**settings: Any) -> Any:
    from transformers import ASTFeatureExtractor

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="At least one mel filter has all zero values")
        return ASTFeatureExtractor(**settings)


@pytest.mark.parametrize("settings", [{}, {"max_length": 64}, {"do_normalize": False, "max_length": 90}, {"mean": -3.0, "std": 2.0}])
def test_it_is_the_stock_front_end(settings: dict[str, Any]) -> None:
    rng = np.random.default_rng(0)
    windows = [(0.2 * rng.standard_normal(size)).astype(np.float32) for size in (16000, 400, 559, 560, 8123)]
    windows += [np.zeros(9000, np.float32), np.eye(1, 5000, 4999, dtype=np.float32)[0], np.full(700, 0.5, np.float32)]
    stock = _stock(**settings)
    truth = stock(windows, sampling_rate=16000, return_tensors="np")["input_values"]
    found = AstFrontEnd(stock)(windows)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, truth, atol=2e-6, rtol=2e-6)


def test_where_the_stock_one_has_torchaudio_it_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    stock = _stock()
    window = [np.random.default_rng(1).standard_normal(9000).astype(np.float32)]
    truth = stock(window, sampling_rate=16000, return_tensors="np")["input_values"]
    front_end = AstFrontEnd(stock)
    front_end.stock = True
    np.testing.assert_array_equal(front_end(window), truth)
