"""Outputs of the frozen audio tower, computed once per clip and kept in memory."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from coat_core.backbones.base import Backbone
from coat_core.errors import BackboneError

_MB = 1 << 20


class TowerCache:
    """The audio embeddings `[A, D]` of each clip, always computed alone (a batch of one, no gradient, evaluation mode).

    So a value never depends on which clips stand beside it in a batch, nor on whether it came from the cache. When
    `megabytes` are full, nothing is added any more: what is kept is never thrown out, for every epoch reads every clip
    once and a least-recently-used cache smaller than an epoch would never hit.
    """

    def __init__(self, backbone: Backbone, megabytes: int) -> None:
        self._backbone, self._limit = backbone, megabytes * _MB
        self._kept: dict[str, Tensor] = {}
        self._bytes = 0

    def __contains__(self, key: str) -> bool:
        return key in self._kept

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, key: str, waveform: Callable[[], NDArray[np.float32]]) -> Tensor:
        """Return a clip's embeddings `[A, D]`; `waveform` is called only when they must be computed.

        Raises:
            BackboneError: the tower returned something that is not finite; the clip is named.
        """
        if (kept := self._kept.get(key)) is not None:
            return kept
        value = self._compute(waveform())
        if not bool(torch.isfinite(value).all()):
            raise BackboneError(
                "the audio tower's output is not finite", field="clip", value=key, next_step="check the base checkpoint and its dtype"
            )
        size = value.numel() * value.element_size()
        if self._bytes + size <= self._limit:
            self._kept[key] = value
            self._bytes += size
        return value

    def _compute(self, waveform: NDArray[np.float32]) -> Tensor:
        model = self._backbone.model
        training = [module for module in model.modules() if module.training]
        model.eval()
        try:
            with torch.no_grad():
                (value,) = self._backbone.embed_audio(self._backbone.mel([waveform]))
        finally:
            for module in training:
                module.training = True
        return value.detach().to("cpu", copy=True)
