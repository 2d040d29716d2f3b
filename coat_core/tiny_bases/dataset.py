"""The training data of a tiny base: questions about clips, and questions and answers as text only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from coat_core.backbones.base import Mel, Query
from coat_core.backbones.mel import HOP, REACH, frame_count, log_mel
from coat_core.corpus.examples import Example

_MARGIN = 2 + -(-REACH // HOP)
"""Mel frames of silence kept after a clip: the reach of the tower's convolutions and of an STFT window."""


@dataclass(frozen=True)
class TrainingItem:
    """One question with its answers.

    Attributes:
        clip: index of the clip; None for a text-only item, which is combined with a random clip.
        task: family and task of the question.
        text: the question with its choices.
        answers: the right answer; for a text-only item all possible answers. One is drawn each time.
    """

    clip: int | None
    task: str
    text: str
    answers: tuple[str, ...]


class TrainingClips:
    """Training clips by index: their lengths in samples, and queries about them."""

    samples: list[int]

    def query(self, clip: int, text: str, answer: str) -> Query:
        """Return a query about a clip. Its waveform is silence of the clip's length: what a tower reads comes from the features."""
        return Query(str(clip), np.broadcast_to(np.float32(0.0), (self.samples[clip],)), text, answer, f"clip {clip}")


class ClipFeatures(TrainingClips):
    """Log-mel features of clips, in memory, in half precision and without padding."""

    def __init__(self, extractor: Any, folder: Path, audio: Sequence[str], *, progress: bool = True) -> None:
        from tqdm import tqdm

        from coat_core.corpus.audio import decode

        self.samples: list[int] = []
        self._features: list[Tensor] = []
        for path in tqdm(audio, desc="mel features", unit="clip", disable=None if progress else True):
            waveform = decode(folder / path)
            window = (frame_count(len(waveform)) + _MARGIN) * HOP
            self.samples.append(len(waveform))
            self._features.append(log_mel(extractor, [waveform], window).features[0].half())

    def mel(self, clips: Sequence[int]) -> Mel:
        """Return the features of a batch, padded with each clip's value of silence to a multiple of four frames."""
        rows = [self._features[clip].float() for clip in clips]
        length = -(-max(row.shape[-1] for row in rows) // 4) * 4
        features = torch.stack([torch.cat([row, row.min().expand(len(row), length - row.shape[-1])], dim=1) for row in rows])
        return Mel(features, torch.tensor([frame_count(self.samples[clip]) for clip in clips]))


def audio_items(examples: Sequence[Example]) -> tuple[list[str], list[TrainingItem]]:
    """Return the audio files of the labelled examples, and one item per labelled example."""
    examples = [example for example in examples if example.labelled]
    audio = sorted({example.audio for example in examples})
    index = {path: i for i, path in enumerate(audio)}
    return audio, [
        TrainingItem(index[example.audio], f"{example.family}/{example.task}", example.prompt, (example.label,)) for example in examples
    ]


def text_items(examples: Sequence[Example]) -> list[TrainingItem]:
    """Return one text-only item per labelled example: it trains the format and the words of the answer, without the example's audio.

    The possible answers of a question with choices are its choices; those of an open question are the answers of all questions of
    its task.
    """
    examples = [example for example in examples if example.labelled]
    open_answers: dict[str, list[str]] = {}
    for example in examples:
        open_answers.setdefault(example.task, []).append(example.label)
    return [
        TrainingItem(None, f"{example.family}/{example.task}", example.prompt, example.choices or tuple(open_answers[example.task]))
        for example in examples
    ]


def texts_of(examples: Sequence[Example]) -> list[str]:
    """Return every prompt, list of choices and answer once, sorted."""
    return sorted({text for example in examples for text in (example.prompt, " ".join(example.choices or ()), example.answer or "")})
