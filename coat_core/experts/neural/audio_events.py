"""Events expert: AudioSet posteriors of the Audio Spectrogram Transformer in short, overlapping windows.

AST answers once for a clip of 10.24 s. Frames come from windows of 1 s, one every 0.5 s: frame t hears the second around 0.5 t
seconds, so a sound shows in the frames before and behind it, and nowhere else. Each window passes through the stock front end,
which fills it up to 10.24 s as it fills the short clips that the model was trained on. Half-second frames are what a one-second
window can say; posteriors of one second are lower than those of ten, and are kept as they are.
Source: Gong, Chung and Glass, "AST: Audio Spectrogram Transformer", arXiv:2104.01778.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from coat_core.experts.neural.ast_front_end import AstFrontEnd
from coat_core.experts.neural.base import NeuralExpert, Piece, Waveform, stretch_of
from coat_core.experts.neural.checkpoint import open_published
from coat_core.experts.neural.licences import Known
from coat_core.experts.neural.windowing import Windowing
from coat_core.settings import ExpertSettings

KNOWN = (
    Known("MIT/ast-finetuned-audioset-10-10-0.4593", "f826b80d28226b62986cc218e5cec390b1096902", "BSD-3-Clause",
          "AudioSet with its labels (527 classes)", "Gong, Chung and Glass, AST, arXiv:2104.01778"),
)  # fmt: skip
"""Known checkpoints, the default first."""
WINDOW_S, HOP_S = 1.0, 0.5
_BEFORE, _BEHIND = 200, 360
"""Samples of silence before and behind a clip: the spectrum's frames (400 samples, every 160) are weighted with a Hann window, so
that without it a click on the first or the last sample would be multiplied by nothing."""


class AstWindows:
    """AST over one-second windows; every frame is a window of its own."""

    def __init__(self, model: Any, extractor: Any) -> None:
        self.model, self.extractor, self.front_end = model, extractor, AstFrontEnd(extractor)
        self.rate = int(extractor.sampling_rate)
        self.hop, self.window = round(HOP_S * self.rate), round(WINDOW_S * self.rate)

    def prepare(self, waveform: Waveform) -> Waveform:
        """Return the clip as it is."""
        return waveform

    def samples(self, frames: int) -> int:
        """Return what the model computes: its whole input for each window."""
        return frames * int(self.extractor.max_length) * 160

    def encode(self, pieces: Sequence[Piece]) -> list[Tensor]:
        """Return posteriors `[T, classes]` of each piece."""
        counts = [piece.stop - piece.start for piece in pieces]
        windows = [self._window(piece.clip, frame) for piece in pieces for frame in range(piece.start, piece.stop)]
        weight = self.model.audio_spectrogram_transformer.embeddings.cls_token
        logits = self.model(torch.as_tensor(self.front_end(windows)).to(weight.device, weight.dtype)).logits
        return list(logits.float().sigmoid().split(counts))

    def _window(self, waveform: Waveform, frame: int) -> Waveform:
        start = max(frame * self.hop - self.window // 2, -_BEFORE)
        stop = frame * self.hop + self.window // 2
        last = (frame + 1) * self.hop >= len(waveform)
        return stretch_of(waveform, start, len(waveform) + _BEHIND if last else stop)


def build(settings: ExpertSettings) -> NeuralExpert:
    """Return the expert `audio_events`.

    Raises:
        ExpertError: licence, architecture, weights or front end do not hold.
        CheckpointError: the checkpoint is not on this disk and cannot be fetched.
    """
    from transformers import ASTFeatureExtractor, ASTForAudioClassification

    published = open_published("audio_events", settings, KNOWN, ("audio-spectrogram-transformer",))
    model = published.load(ASTForAudioClassification)
    with warnings.catch_warnings():
        # 128 bands are more than 257 bins can fill at the bottom; so it was when the model was trained.
        warnings.filterwarnings("ignore", message="At least one mel filter has all zero values")
        extractor = published.front_end(ASTFeatureExtractor)
    if extractor.max_length != model.config.max_length or extractor.num_mel_bins != model.config.num_mel_bins:
        raise published.refuse("its front end and its model do not fit", f"{extractor.max_length} × {extractor.num_mel_bins}",
                               f"{model.config.max_length} × {model.config.num_mel_bins} (frames × mel bands)")  # fmt: skip
    labels = [str(model.config.id2label[label]) for label in range(model.config.num_labels)]
    names = tuple(name if labels.count(name) == 1 else f"{name} ({label})" for label, name in enumerate(labels))
    encoder = AstWindows(model, extractor)
    spec = published.spec("events", "posteriors", rate_hz=1 / HOP_S, sample_rate_hz=encoder.rate, dim_names=names)
    return NeuralExpert(spec, encoder, Windowing(frames=1, context=0), settings.heard_seconds(encoder.rate), settings.device)
