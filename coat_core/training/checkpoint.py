"""Resume state: whole or absent, the newest two kept, never the base.

A checkpoint is one file, `step-00000030.pt`, written whole under its name, then its marker `step-00000030.json` with the
file's SHA-256. Only what has a marker counts. It never leaves the machine and is read with `weights_only=True`.
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
    """What a run needs to go on as if it had never stopped.

    Attributes:
        fingerprint: stage key of the run it belongs to.
        world: number of processes.
        step: optimizer steps taken.
        parameters: trainable tensors by name (LoRA, rows, heads), never the base.
        optimizer: the optimizer's state dictionary.
        scaler: the fp16 gradient scaler's state; empty without one.
        rng: state of the random generators.
    """

    fingerprint: str
    world: int
    step: int
    parameters: dict[str, Tensor]
    optimizer: dict[str, Any]
    scaler: dict[str, Any]
    rng: dict[str, Any]


class CheckpointFolder:
    """The checkpoints of one run, in its scratch folder."""

    def __init__(self, folder: Path, fingerprint: str) -> None:
        self.folder, self.fingerprint = folder, fingerprint

    def save(self, checkpoint: Checkpoint) -> None:
        """Write a checkpoint, its marker last, then remove all but the newest two."""
        buffer = io.BytesIO()
        torch.save(vars(checkpoint), buffer)
        data = buffer.getvalue()
        path = self.folder / f"step-{checkpoint.step:08d}.pt"
        self._marker(path).unlink(missing_ok=True)
        write_bytes(path, data)
        write_json(self._marker(path), {"sha256": sha256_bytes(data), "step": checkpoint.step, "fingerprint": checkpoint.fingerprint})
        for old in self._whole()[:-_KEPT]:
            self._marker(old).unlink()
            old.unlink()

    def load_latest(self) -> Checkpoint | None:
        """Return the newest whole checkpoint, or None; a damaged one is passed over.

        Raises:
            TrainingError: the newest whole checkpoint belongs to another run.
        """
        for path in reversed(self._whole()):
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

    def _whole(self) -> list[Path]:
        """Checkpoint files that have a readable marker, oldest first."""
        return [path for path in sorted(self.folder.glob("step-*.pt")) if self._marked(path)]

    def _marked(self, path: Path) -> bool:
        try:
            return "sha256" in read_json(self._marker(path))
        except CoatError:
            return False

    @staticmethod
    def _marker(path: Path) -> Path:
        return path.with_suffix(".json")


def random_state() -> dict[str, Any]:
    """Return the state of python's, numpy's and torch's generators, in types that `weights_only=True` reads."""
    version, words, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    return {
        "python": [version, list(words), gauss],
        "numpy": [str(name), torch.from_numpy(np.asarray(keys).astype(np.int64)), int(position), int(has_gauss), float(cached)],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def restore_random_state(state: dict[str, Any]) -> None:
    """Put the generators back into a state that `random_state` returned."""
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    name, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, cached))
    torch.set_rng_state(state["torch"])
    if state["cuda"]:
        torch.cuda.set_rng_state_all(state["cuda"])
