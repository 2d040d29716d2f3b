from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest

from coat_core.experts.neural.audio_events import AstFrontEnd


def _stock(**settings: Any) -> Any:
    from transformers import ASTFeatureExtractor

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="At least one mel filter has all zero values")
        return ASTFeatureExtractor(**settings)


@pytest.mark.parametrize("settings", [{}, {"max_length": 64}, {"do_normalize": False, "max_length": 90}, {"mean": -3.0, "std": 2.0}])
def test_the_front_end_equals_the_stock_extractor(settings: dict[str, Any]) -> None:
    rng = np.random.default_rng(0)
    windows = [(0.2 * rng.standard_normal(size)).astype(np.float32) for size in (16000, 400, 559, 560, 8123)]
    windows += [np.zeros(9000, np.float32), np.eye(1, 5000, 4999, dtype=np.float32)[0], np.full(700, 0.5, np.float32)]
    stock = _stock(**settings)
    truth = stock(windows, sampling_rate=16000, return_tensors="np")["input_values"]
    found = AstFrontEnd(stock)(windows)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, truth, atol=2e-6, rtol=2e-6)


def test_an_extractor_that_uses_torchaudio_is_called_directly() -> None:
    class TorchaudioExtractor:
        """A stock extractor on a host with torchaudio: it has no `mel_filters`."""

        sampling_rate = 16000

        def __call__(self, windows: list[np.ndarray], *, sampling_rate: int, return_tensors: str) -> dict[str, np.ndarray]:
            assert (sampling_rate, return_tensors) == (16000, "np")
            return {"input_values": np.array([[[window.sum()]] for window in windows])}

    windows = [np.full(400, level, np.float32) for level in (0.25, 0.5)]
    values = AstFrontEnd(TorchaudioExtractor())(windows)
    assert values.dtype == np.float32
    assert values.tolist() == [[[100.0]], [[200.0]]]
