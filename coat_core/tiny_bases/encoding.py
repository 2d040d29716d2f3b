"""Outputs of a frozen audio tower for training clips: each clip is encoded once, in groups that are kept on disk."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from coat_core.backbones.lalm import Lalm
from coat_core.progress import ProgressBar
from coat_core.storage import write_bytes
from coat_core.tiny_bases.dataset import ClipFeatures, TrainingClips
from coat_core.tiny_bases.mapping import projector_of
from coat_core.tiny_bases.pretraining import short_window

_GROUP = 128
_BATCH = 8


class EncodedClips(TrainingClips):
    """The tower's outputs of clips before the projector, `[A, W]` each, in memory and in half precision.

    Args:
        backbone: the backbone with the tower.
        folder: the folder of the audio.
        audio: paths of the clips, relative to it.
        scratch: folder that keeps finished groups, so that an interrupted run continues; None: nothing is kept.
        precision: precision of the computation, `float32` or `bfloat16`.
    """

    def __init__(self, backbone: Lalm, folder: Path, audio: Sequence[str], scratch: Path | None = None, precision: str = "float32") -> None:
        self.samples: list[int] = []
        self.states: list[Tensor] = []
        with ProgressBar(total=len(audio), desc=f"{backbone.key}: encoder outputs", unit="clip", disable=None) as progress:
            for start in range(0, len(audio), _GROUP):
                group = audio[start : start + _GROUP]
                path = scratch / f"encoded-{start:06d}.safetensors" if scratch else None
                samples, states = self._read(path) or self._encode(backbone, folder, group, path, precision)
                self.samples += samples
                self.states += states
                progress.update(len(group))

    def batch(self, chosen: Sequence[int], device: Any) -> list[Tensor]:
        """Return the float32 states `[A, W]` of clips."""
        return [self.states[clip].to(device, torch.float32) for clip in chosen]

    @staticmethod
    def _read(path: Path | None) -> tuple[list[int], list[Tensor]] | None:
        from safetensors.torch import load_file

        if path is None or not path.exists():
            return None
        stored = load_file(path)
        samples: list[int] = stored["samples"].tolist()
        return samples, [stored[f"{clip:04d}"] for clip in range(len(samples))]

    @staticmethod
    def _encode(backbone: Lalm, folder: Path, group: Sequence[str], path: Path | None, precision: str) -> tuple[list[int], list[Tensor]]:
        from safetensors.torch import save

        clips = ClipFeatures(backbone.extractor, folder, group, progress=False)
        order = sorted(range(len(group)), key=lambda clip: clips.samples[clip])
        states: dict[int, Tensor] = {}
        with torch.no_grad(), without_projector(backbone.model), autocast(precision, backbone.model.device):
            for at in range(0, len(order), _BATCH):
                chosen = order[at : at + _BATCH]
                with short_window(backbone.model, mel := clips.mel(chosen)):
                    states.update(zip(chosen, (row.half().cpu().clone() for row in backbone.embed_audio(mel)), strict=True))
        if path is not None:
            rows = {f"{clip:04d}": states[clip] for clip in range(len(group))}
            write_bytes(path, save({"samples": torch.tensor(clips.samples), **rows}))
        return clips.samples, [states[clip] for clip in range(len(group))]


@contextmanager
def without_projector(model: Any) -> Iterator[None]:
    """Context manager in which the model's audio embeddings are the tower's outputs before the projector."""
    parent, name = projector_of(model)
    projector = getattr(parent, name)
    setattr(parent, name, nn.Identity())
    try:
        yield
    finally:
        setattr(parent, name, projector)


def autocast(precision: str, device: Any) -> Any:
    """Return a context manager for a precision: bfloat16 where PyTorch's autocast allows it, or no change."""
    return nullcontext() if precision == "float32" else torch.autocast(torch.device(device).type, dtype=torch.bfloat16)
