from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import torch

from coat_core.experts.neural.wav2vec import ClipNorm

HANG_S = 1800.0


def test_each_thread_normalises_with_its_own_moments() -> None:
    norm, together = ClipNorm(torch.nn.GroupNorm(2, 2)), threading.Barrier(2)

    def normalise(level: float) -> torch.Tensor:
        norm.set_moments(torch.full((1, 2), level), torch.ones(1, 2))
        together.wait(HANG_S)
        with torch.no_grad():
            return norm(torch.full((1, 2, 3), level + 1.0))

    with ThreadPoolExecutor(2) as pool:
        for normalised in pool.map(normalise, (0.0, 100.0)):
            torch.testing.assert_close(normalised, torch.ones(1, 2, 3), rtol=0, atol=1e-4)
