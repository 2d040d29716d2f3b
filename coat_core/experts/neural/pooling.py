"""Average of consecutive frames of an encoder, for smaller stores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from coat_core.experts.neural.base import Encoder, Piece, Waveform
from coat_core.experts.neural.windowing import Windowing


class PooledEncoder:
    """An encoder whose frame t is the mean of `count` frames of another, from count · t on.

    Its frames describe the audio (count - 1) / 2 frames of the other encoder later than their index says (10 ms for pairs at 50 Hz).
    """

    def __init__(self, encoder: Encoder, count: int) -> None:
        self.encoder, self.count, self.hop = encoder, count, encoder.hop * count

    def prepare(self, waveform: Waveform) -> Any:
        """Return the data of a whole clip `[N]` that its windows need, and its number of frames before pooling."""
        return self.encoder.prepare(waveform), -(-len(waveform) // self.encoder.hop)

    def samples(self, frames: int) -> int:
        """Return the number of samples that the model processes for a window."""
        return self.encoder.samples(frames * self.count)

    def encode(self, pieces: Sequence[Piece]) -> list[Tensor]:
        """Return features `[stop - start, d]` of each piece."""
        # The last frame of a clip is the mean of the frames that are left: a model that attends to all frames must not get another one.
        cut = [
            Piece(clip, piece.start * self.count, min(piece.stop * self.count, frames)) for piece in pieces for clip, frames in [piece.clip]
        ]
        return [torch.stack([part.mean(dim=0) for part in torch.split(state.float(), self.count)]) for state in self.encoder.encode(cut)]


def pooled(encoder: Encoder, windowing: Windowing, count: int) -> tuple[Encoder, Windowing]:
    """Return an encoder and its windows with `count` frames averaged to one."""
    if count == 1:
        return encoder, windowing
    return PooledEncoder(encoder, count), Windowing(windowing.frames // count, windowing.context // count)
