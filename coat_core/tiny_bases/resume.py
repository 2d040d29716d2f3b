"""Checkpoints of the training of a base, so that a run that was stopped continues with the same weights."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from coat_core.storage import sha256_bytes, write_bytes, write_json


@dataclass(frozen=True)
class StageCheckpoint:
    """The newest checkpoint of one stage: parameters and optimizer, with a marker that is written last.

    Attributes:
        folder: where it is kept; None: nowhere.
        name: name of the stage.
        every: steps between checkpoints.
    """

    folder: Path | None
    name: str
    every: int

    def load(self, parameters: Sequence[nn.Parameter], optimizer: torch.optim.Optimizer) -> int:
        """Restore the newest complete checkpoint in place; return its number of steps, 0 without one."""
        if self.folder is None or not (marker := self.folder / f"{self.name}.json").exists():
            return 0
        found = json.loads(marker.read_text())
        data = (self.folder / found["file"]).read_bytes()
        if sha256_bytes(data) != found["sha256"]:
            return 0
        stored = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        with torch.no_grad():
            for parameter, value in zip(parameters, stored["parameters"], strict=True):
                parameter.copy_(value)
        optimizer.load_state_dict(stored["optimizer"])
        return int(found["step"])

    def save(self, parameters: Sequence[nn.Parameter], optimizer: torch.optim.Optimizer, step: int) -> None:
        """Write a checkpoint and then its marker; remove the one before."""
        if self.folder is None:
            return
        buffer, file = io.BytesIO(), f"{self.name}-{step:06d}.pt"
        torch.save({"parameters": [parameter.detach().cpu() for parameter in parameters], "optimizer": optimizer.state_dict()}, buffer)
        write_bytes(self.folder / file, buffer.getvalue())
        write_json(self.folder / f"{self.name}.json", {"file": file, "sha256": sha256_bytes(buffer.getvalue()), "step": step})
        for path in self.folder.glob(f"{self.name}-*.pt"):
            if path.name != file:
                path.unlink()
