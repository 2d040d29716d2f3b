"""Checkpoints for resuming: written atomically, the newest two kept, without the weights of the base.

A checkpoint is a file `step-00000030.pt`, written atomically, followed by its marker `step-00000030.json` with the file's
SHA-256. A file without a marker is ignored. Checkpoints stay on this machine and are read with `weights_only=True`.
"""

from __future__ import annotations

import io
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from coat_core.errors import CoatError, TrainingError
from coat_core.storage import read_json, sha256_bytes, write_bytes, write_json

_KEPT = 2


@dataclass(frozen=True)
class Checkpoint:
    """The state that a resumed run needs to end with the same weights as an uninterrupted one.

    Attributes:
        fingerprint: stage key of the run.
        world: number of processes.
        step: number of optimizer steps taken.
        parameters: trainable tensors by name (LoRA, trainable tokens, heads).
        optimizer: state dictionary of the optimizer.
        scaler: state of the float16 gradient scaler; empty without one.
        rng: state of the random generators.
        distill_scale: factor of the distillation losses (see `DistillShare`).
    """

    fingerprint: str
    world: int
    step: int
    parameters: dict[str, Tensor]
    optimizer: dict[str, Any]
    scaler: dict[str, Any]
    rng: dict[str, Any]
    distill_scale: float = 1.0


class CheckpointFolder:
    """The checkpoints of one run in its scratch folder."""

    def __init__(self, folder: Path, fingerprint: str) -> None:
        self.folder, self.fingerprint = folder, fingerprint

    def save(self, checkpoint: Checkpoint) -> None:
        """Write a checkpoint and then its marker; remove all but the newest two checkpoints."""
        buffer = io.BytesIO()
        torch.save(vars(checkpoint), buffer)
        data = buffer.getvalue()
        path = self.folder / f"step-{checkpoint.step:08d}.pt"
        self._marker(path).unlink(missing_ok=True)
        write_bytes(path, data)
        write_json(self._marker(path), {"sha256": sha256_bytes(data), "step": checkpoint.step, "fingerprint": checkpoint.fingerprint})
        for old in self._complete()[:-_KEPT]:
            self._marker(old).unlink()
            old.unlink()

    def load_latest(self) -> Checkpoint | None:
        """Return the newest complete checkpoint, or None; damaged ones are skipped.

        Raises:
            TrainingError: the newest complete checkpoint belongs to another run.
        """
        for path in reversed(self._complete()):
            data = path.read_bytes()
            if sha256_bytes(data) != read_json(self._marker(path))["sha256"]:
                continue
            checkpoint = Checkpoint(**torch.load(io.BytesIO(data), map_location="cpu", weights_only=True))
            if checkpoint.fingerprint != self.fingerprint:
                raise TrainingError(
                    "a checkpoint belongs to another run",
                    field=str(path),
                    value=checkpoint.fingerprint,
                    allowed=self.fingerprint,
                    next_step=f"remove {self.folder} to train from the start",
                )
            return checkpoint
        return None

    def _complete(self) -> list[Path]:
        """Return the checkpoint files that have a readable marker, oldest first."""
        return [path for path in sorted(self.folder.glob("step-*.pt")) if self._has_marker(path)]

    def _has_marker(self, path: Path) -> bool:
        try:
            return "sha256" in read_json(self._marker(path))
        except CoatError:
            return False

    @staticmethod
    def _marker(path: Path) -> Path:
        return path.with_suffix(".json")


def random_state() -> dict[str, Any]:
    """Return the state of the random generators of Python, NumPy and PyTorch, in types that `weights_only=True` accepts."""
    version, words, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    return {
        "python": [version, list(words), gauss],
        "numpy": [str(name), torch.from_numpy(np.asarray(keys).astype(np.int64)), int(position), int(has_gauss), float(cached)],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def restore_random_state(state: dict[str, Any]) -> None:
    """Set the random generators to a state returned by `random_state`."""
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    name, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, cached))
    torch.set_rng_state(state["torch"])
    if state["cuda"]:
        torch.cuda.set_rng_state_all(state["cuda"])
