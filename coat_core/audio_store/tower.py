"""The frozen audio tower of a backbone: its output for one clip, and what identifies it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from coat_core.backbones.base import Backbone
from coat_core.corpus.examples import Example
from coat_core.errors import AudioStoreError, BackboneError, OutOfMemoryError
from coat_core.storage import sha256_json


@dataclass(frozen=True)
class Tower:
    """What identifies an audio tower with its projector: towers with equal fields have equal outputs, up to rounding.

    Attributes:
        backbone: key of the LALM.
        dtype: data type of the weights and of the output, e.g. `bfloat16`.
        width: width D of the output.
        config: SHA-256 of the settings of front end and tower.
        weights: SHA-256 of the weights outside the language model.
    """

    backbone: str
    dtype: str
    width: int
    config: str
    weights: str

    def to_json(self) -> dict[str, Any]:
        """Return the fields."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Tower:
        """Return the tower of the values of `to_json`.

        Raises:
            AudioStoreError: a field is missing or unknown.
        """
        try:
            return cls(**values)
        except TypeError as error:
            raise AudioStoreError(
                f"the identity of an audio tower cannot be read: {error}", field="tower", next_step="run `coat audio BACKBONE` again"
            ) from error


def tower_of(backbone: Backbone) -> Tower:
    """Return the identity of a backbone's tower; every weight outside the language model is read."""
    digest = hashlib.sha256()
    for name, value in sorted(backbone.audio_state().items()):
        digest.update(f"{name}\0{value.dtype}\0{tuple(value.shape)}\0".encode())
        digest.update(tensor_bytes(value))
    dtype = str(backbone.embedding.weight.dtype).removeprefix("torch.")
    return Tower(backbone.key, dtype, backbone.hidden_size, sha256_json(backbone.audio_config()), digest.hexdigest())


def tower_output(backbone: Backbone, waveform: NDArray[np.float32], name: str) -> Tensor:
    """Return the audio embeddings `[A, D]` of one clip on the CPU, computed alone, without gradient, in evaluation mode.

    Args:
        backbone: the LALM.
        waveform: mono float32 `[N]` at 16 kHz.
        name: the clip's hash or the example's id, for the error.

    Raises:
        BackboneError: the output is not finite; the clip is named.
    """
    model = backbone.model
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        with torch.no_grad():
            (value,) = backbone.embed_audio(backbone.mel([waveform]))
    finally:
        for module in training:
            module.training = True
    result = value.detach().to("cpu", copy=True)
    if not bool(torch.isfinite(result).all()):
        raise BackboneError(
            "the audio tower's output is not finite", field="clip", value=name, next_step="check the base checkpoint and its dtype"
        )
    return result


def tower_error(example: Example, budget: int) -> OutOfMemoryError:
    """Return the error of an audio tower that cannot encode a clip; it encodes one clip at a time, so no batch setting helps."""
    return OutOfMemoryError(
        f"the audio tower ran out of the device's memory on one clip ({example.id})",
        field="contract.max_duration_s",
        value=f"a clip of {example.duration_s:.1f} s",
        allowed=f"{budget / 1e9:.1f} GB on this device",
        next_step="stop other processes on the device, set contract.max_duration_s below this clip's duration, or use a larger device",
    )


def tensor_bytes(value: Tensor) -> bytes:
    """Return the bytes of a tensor of any data type (numpy has no bfloat16)."""
    return value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
