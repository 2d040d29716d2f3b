"""Hidden states of a release: pooled by position for all layers, and complete at the layer that the heads read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from coat_core.backbones.base import Backbone
from coat_core.batching import length_sorted_batches
from coat_core.corpus.examples import Example
from coat_core.thinking.block import ThinkingBlock
from coat_core.thinking.model import audio_states, think_states
from coat_core.training.dataset import AudioEmbeddingCache, TrainingDataset

BATCH_SIZE = 32
POSITIONS = ("audio", "think", "answer")
"""The mean over the audio tokens; the mean over the think tokens; the state that predicts the first token of the answer."""


@dataclass(frozen=True)
class ProbeStates:
    """States of n examples on the CPU (float32).

    Attributes:
        pooled: position → `[layers, n, D]`, states after each decoder layer; without `think` for a release without a block.
        audio: states of the read layer at the audio positions, `[A, D]` each; empty without a block.
        think: states of the read layer at the think positions, `[K, D]` each; empty without a block.
        durations_s: duration of each clip, as the heads are given it.
    """

    pooled: dict[str, Tensor]
    audio: list[Tensor]
    think: list[Tensor]
    durations_s: list[float]


@torch.no_grad()
def collect_states(
    backbone: Backbone, block: ThinkingBlock | None, examples: Sequence[Example], corpus: Path, embeddings: AudioEmbeddingCache
) -> ProbeStates:
    """Run the decoder on labelled examples and return its states.

    The answer is in the prompt, but no state that is returned can attend to it: the answer's state is that of the position before
    its first token.

    Args:
        backbone: the release's model.
        block: its thinking block, or None.
        examples: labelled examples.
        corpus: folder that audio paths are relative to.
        embeddings: cache of the audio tower's outputs.
    """
    dataset = TrainingDataset(backbone, examples, corpus, embeddings)
    device, layers = backbone.embedding.weight.device, backbone.layer_count
    names = POSITIONS if block is not None else tuple(name for name in POSITIONS if name != "think")
    pooled = {name: torch.zeros(layers, len(examples), backbone.hidden_size) for name in names}
    audio, think = ([torch.zeros(0)] * len(examples) for _ in range(2))
    durations_s = [0.0] * len(examples)
    for indices in length_sorted_batches([example.duration_s for example in examples], BATCH_SIZE):
        batch, clips = dataset.batch(indices, device), dataset.audio(indices, device)
        before_answer = batch.answer_mask.int().argmax(dim=1) - 1
        for number, states in enumerate(_all_layers(backbone, backbone.embed(batch, clips), batch.attention_mask)):
            at_audio, mask = audio_states(states, batch, backbone.audio_token_id)
            pooled["audio"][number, indices] = (at_audio.float().sum(1) / mask.sum(1, keepdim=True)).cpu()
            pooled["answer"][number, indices] = states[torch.arange(len(indices), device=device), before_answer].float().cpu()
            if block is None:
                continue
            thinking = think_states(states, block, batch)
            pooled["think"][number, indices] = thinking.float().mean(1).cpu()
            if number + 1 == block.read_layer:
                for row, index in enumerate(indices):
                    audio[index], think[index] = at_audio[row][mask[row]].float().cpu(), thinking[row].float().cpu()
        for row, index in enumerate(indices):
            durations_s[index] = clips[row].shape[0] / backbone.audio_token_rate_hz
    return ProbeStates(pooled, audio if block is not None else [], think if block is not None else [], durations_s)


def _all_layers(backbone: Backbone, embedded: Tensor, attention_mask: Tensor) -> list[Tensor]:
    """Return the states `[B, L, D]` after each decoder layer."""
    states: list[Tensor] = []
    hooks = [layer.register_forward_hook(lambda module, inputs, output: states.append(output)) for layer in backbone.layers]
    try:
        backbone.hidden_states(embedded, attention_mask, 1)
    finally:
        for hook in hooks:
            hook.remove()
    return states
