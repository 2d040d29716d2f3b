"""What a tiny base is taught: questions on clips of its own, and, as text alone, what the training splits ask and answer."""

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
"""Mel frames of silence kept behind a clip: what the tower's convolutions and an STFT window reach."""


@dataclass(frozen=True)
class Lesson:
    """One question; `answers` are the right one, or, for text alone, all that could be right.

    Attributes:
        clip: index of the clip that is heard; None: any clip, the answer is then a matter of form.
        task: the question form.
        text: the question with its choices.
        answers: one of them is drawn at each showing.
    """

    clip: int | None
    task: str
    text: str
    answers: tuple[str, ...]


class Clips:
    """The log-mel features of some clips in memory, in half precision and without padding."""

    def __init__(self, extractor: Any, folder: Path, audio: Sequence[str]) -> None:
        from tqdm import tqdm

        from coat_core.corpus.audio import decode

        self.samples: list[int] = []
        self._features: list[Tensor] = []
        for path in tqdm(audio, desc="listening", unit="clip", disable=None):
            waveform = decode(folder / path)
            window = (frame_count(len(waveform)) + _MARGIN) * HOP
            self.samples.append(len(waveform))
            self._features.append(log_mel(extractor, [waveform], window).features[0].half())

    def query(self, clip: int, text: str, answer: str) -> Query:
        """Return a query on a clip; its waveform has the right length and no sound, for `mel` stands in for it."""
        return Query(str(clip), np.broadcast_to(np.float32(0.0), (self.samples[clip],)), text, answer, f"clip {clip}")

    def mel(self, clips: Sequence[int]) -> Mel:
        """Return the features of a batch, padded with each clip's own silence to whole blocks of four frames."""
        rows = [self._features[clip].float() for clip in clips]
        length = -(-max(row.shape[-1] for row in rows) // 4) * 4
        features = torch.stack([torch.cat([row, row.min().expand(len(row), length - row.shape[-1])], dim=1) for row in rows])
        return Mel(features, torch.tensor([frame_count(self.samples[clip]) for clip in clips]))


def heard_lessons(examples: Sequence[Example]) -> tuple[list[str], list[Lesson]]:
    """Return the audio files of some examples and a lesson on each example."""
    audio = sorted({example.audio for example in examples})
    index = {path: i for i, path in enumerate(audio)}
    return audio, [
        Lesson(index[example.audio], f"{example.family}/{example.task}", example.prompt, (example.answer,)) for example in examples
    ]


def read_lessons(examples: Sequence[Example]) -> list[Lesson]:
    """Return what can be learnt of examples whose sound the base never hears: the form of the answer and the words for it.

    A question with choices may be answered by any of them, an open one by the answer of any question of its task.
    """
    open_answers: dict[str, list[str]] = {}
    for example in examples:
        open_answers.setdefault(example.task, []).append(example.answer)
    return [
        Lesson(None, f"{example.family}/{example.task}", example.prompt, example.choices or tuple(open_answers[example.task]))
        for example in examples
    ]


def texts_of(examples: Sequence[Example]) -> list[str]:
    """Return every string that is asked or answered, once, in a fixed order."""
    return sorted({text for example in examples for text in (example.prompt, " ".join(example.choices or ()), example.answer)})
