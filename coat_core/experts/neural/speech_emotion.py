"""Affect expert: an emotion model of the wav2vec family, with one output per frame.

The published models average hidden states over the clip and apply a small head to the mean. Here the head is applied to every
frame. For the linear head of `…ForSequenceClassification` mean and head commute: the mean of a clip's frames *is* the checkpoint's
output for the clip, so distilling the frames distils its output and its change over time. Hidden states would mostly encode words.
Frames are raw scores (before a softmax over the clip), a regression target that is standardised later.
The regression head of the dimensional models (dense, tanh, projection; arousal, dominance, valence) is not linear: the mean of the
head's frames is close to the published output, but not equal to it.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from coat_core.experts.neural.base import NeuralExpert
from coat_core.experts.neural.checkpoint import Checkpoint, open_checkpoint
from coat_core.experts.neural.licences import KnownCheckpoint
from coat_core.experts.neural.speech_encoder import WINDOWING
from coat_core.experts.neural.wav2vec import MODEL_TYPES, States, load_wav2vec
from coat_core.settings import ExpertSettings

KNOWN = (
    KnownCheckpoint("superb/wav2vec2-base-superb-er", "441a7599c3b22107314dcbd9166621c5c83f2cc5", "Apache-2.0",
          "LibriSpeech 960 h without labels, then IEMOCAP with its emotion labels", "Yang et al., SUPERB, arXiv:2105.01051"),
    KnownCheckpoint("superb/hubert-base-superb-er", None, "Apache-2.0",
          "LibriSpeech 960 h without labels, then IEMOCAP with its emotion labels", "Yang et al., SUPERB, arXiv:2105.01051"),
    KnownCheckpoint("audeering/wav2vec2-large-robust-12-ft-emotion-msp-dim", "6eba34a2485ea31cb03600241787c3a5edab8626", "CC-BY-NC-SA-4.0",
          "Libri-Light, Common Voice, Switchboard, Fisher without labels, then MSP-Podcast with arousal, dominance and valence",
          "Wagner et al., arXiv:2203.07378"),
)  # fmt: skip
"""Known checkpoints, the default first."""


def build(settings: ExpertSettings) -> NeuralExpert:
    """Return the expert `speech_emotion`.

    Raises:
        ExpertError: licence, architecture, weights, head or front end are invalid.
        CheckpointError: the checkpoint is not on this disk and cannot be downloaded.
    """
    checkpoint = open_checkpoint("speech_emotion", settings, KNOWN, MODEL_TYPES)
    read, dim = _head(checkpoint)
    encoder = load_wav2vec(checkpoint, read)
    labels = encoder.model.config.id2label
    names = tuple(str(labels[label]) for label in range(dim)) if len(labels) == dim else tuple(f"score {label}" for label in range(dim))
    rate = int(encoder.extractor.sampling_rate)
    spec = checkpoint.spec("affect", "regression", rate_hz=rate / encoder.hop, sample_rate_hz=rate, dim_names=names)
    return NeuralExpert(spec, encoder, WINDOWING, settings.seconds_per_batch(rate), settings.device)


def _head(checkpoint: Checkpoint) -> tuple[Callable[[States, Tensor], Tensor], int]:
    """Return the checkpoint's head as a function of hidden states, and the number of its scores."""
    weights = checkpoint.tensors(r"(?=projector\.|classifier\.|layer_weights$)")
    weights = {name: tensor.to(checkpoint.settings.device, torch.float32) for name, tensor in weights.items()}
    mix = weights.get("layer_weights") if checkpoint.config.get("use_weighted_layer_sum") else None
    shares = None if mix is None else mix.softmax(dim=-1)
    if {"projector.weight", "projector.bias", "classifier.weight", "classifier.bias"} <= weights.keys():
        first, second, has_tanh = "projector", "classifier", False
    elif {f"classifier.{part}.{kind}" for part in ("dense", "out_proj") for kind in ("weight", "bias")} <= weights.keys():
        first, second, has_tanh = "classifier.dense", "classifier.out_proj", True
    else:
        allowed = "projector + classifier, or classifier.dense + classifier.out_proj"
        raise checkpoint.refuse("it has no emotion head", sorted(weights) or "no head", allowed)

    def read(states: States, last: Tensor) -> Tensor:
        states_mean = last.float() if shares is None else (torch.stack(states).float() * shares[:, None, None, None]).sum(dim=0)
        hidden = torch.nn.functional.linear(states_mean, weights[f"{first}.weight"], weights[f"{first}.bias"])
        return torch.nn.functional.linear(hidden.tanh() if has_tanh else hidden, weights[f"{second}.weight"], weights[f"{second}.bias"])

    return read, int(weights[f"{second}.bias"].shape[0])
