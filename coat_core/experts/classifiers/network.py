"""The network of a classifier: a perceptron from the context of a frame to independent class posteriors, as one safetensors file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from coat_core.errors import ExpertError
from coat_core.experts.acoustic.framing import Floats

_HEADER = "network"
INPUT_LIMIT = 5.0
"""Standardised inputs are limited to this size, so that an unusual clip stays near the data of the fit."""


@dataclass(frozen=True)
class ClassifierNetwork:
    """Standardisation, hidden layers with ReLU, and a sigmoid for each class."""

    classes: tuple[str, ...]
    mean: NDArray[np.float32]
    """`[F]`"""
    std: NDArray[np.float32]
    """`[F]`, positive."""
    layers: tuple[tuple[NDArray[np.float32], NDArray[np.float32]], ...]
    """Weights `[in, out]` and biases `[out]`; the last layer has one output per class."""
    facts: Mapping[str, str] = field(default_factory=dict)
    """How the network was fitted (clips, seed, scores), for people."""

    def posteriors(self, context: Floats) -> Floats:
        """Return the posteriors `[T, classes]`, each in [0, 1], of frames with the context `[T, F]`."""
        hidden = np.clip((context - self.mean) / self.std, -INPUT_LIMIT, INPUT_LIMIT)
        for weight, bias in self.layers[:-1]:
            hidden = np.maximum(hidden @ weight.astype(np.float64) + bias, 0.0)
        weight, bias = self.layers[-1]
        return np.asarray(1.0 / (1.0 + np.exp(-np.clip(hidden @ weight.astype(np.float64) + bias, -30.0, 30.0))))

    def to_bytes(self) -> bytes:
        """Return the content of the safetensors file: weights in float16, standardisation in float32, the rest as metadata."""
        from safetensors.numpy import save

        tensors: dict[str, NDArray[np.floating]] = {"mean": self.mean, "std": self.std}
        for index, (weight, bias) in enumerate(self.layers):
            tensors |= {f"{index}.weight": weight.astype(np.float16), f"{index}.bias": bias.astype(np.float16)}
        # One key: safetensors writes several in an order that changes from file to file.
        header = json.dumps({"classes": self.classes, "facts": dict(self.facts)}, sort_keys=True)
        data: bytes = save(tensors, metadata={_HEADER: header})
        return data


def read_network(path: Path) -> ClassifierNetwork:
    """Read a network.

    Raises:
        ExpertError: the file is missing or invalid.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            header = json.loads(file.metadata()[_HEADER])
            tensors = {name: file.get_tensor(name).astype(np.float32) for name in file.keys()}  # noqa: SIM118
        count = sum(name.endswith(".weight") for name in tensors)
        layers = tuple((tensors[f"{index}.weight"], tensors[f"{index}.bias"]) for index in range(count))
        return ClassifierNetwork(tuple(header["classes"]), tensors["mean"], tensors["std"], layers, header["facts"])
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ExpertError(
            f"cannot read a classifier: {error}", field="classifier", value=str(path),
            next_step="reinstall coat, or fit it again with `coat classifiers`",
        ) from error  # fmt: skip
