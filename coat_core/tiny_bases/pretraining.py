"""Pretraining of the tiny bases from random weights: first the audio encoder, then the language model."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from coat_core.backbones.base import Backbone, Query
from coat_core.errors import BackboneError, NonFiniteError
from coat_core.tiny_bases.dataset import ClipFeatures, TrainingClips, TrainingItem
from coat_core.tiny_bases.probes import AttentionProbes


@dataclass(frozen=True)
class PretrainingConfig:
    """Steps, batch sizes and learning rate of the pretraining of a base.

    Attributes:
        probe_steps: optimizer steps of tower and projector (see `AttentionProbes`).
        probe_batch_size: questions per probe step.
        steps: optimizer steps of the language model; the audio encoder is frozen from then on, and each clip is encoded once.
        batch_size: questions per step.
        learning_rate: the peak, reached after `warmup` steps, followed by a cosine decay to a tenth.
        warmup: steps of linear warm-up.
        text_only_share: share of a batch that is text-only (see `text_items`).
        question_weight: weight of the language-model loss on the question; the answer's weight is 1.
    """

    probe_steps: int = 300
    probe_batch_size: int = 48
    steps: int = 400
    batch_size: int = 32
    learning_rate: float = 2e-3
    warmup: int = 30
    text_only_share: float = 0.125
    question_weight: float = 0.05


def pretrain(
    backbone: Backbone,
    clips: ClipFeatures,
    audio_items: Sequence[TrainingItem],
    text_items: Sequence[TrainingItem],
    config: PretrainingConfig,
    seed: int,
    *,
    report: Callable[[int, float], None] | None = None,
) -> None:
    """Train all parameters in place; deterministic with one thread.

    Args:
        backbone: a backbone with random weights.
        clips: the features of the training clips.
        audio_items: questions about those clips.
        text_items: text-only questions; can be empty.
        config: steps, batch sizes and learning rate.
        seed: seed of the order and of the draws.
        report: called with (step, loss) after each step.

    Raises:
        NonFiniteError: the loss is not finite.
    """
    rng = np.random.default_rng(seed)
    model: Any = backbone.model
    model.train()
    audio_encoder = [parameter for name, parameter in model.named_parameters() if ".language_model." not in name and "lm_head" not in name]
    probes = AttentionProbes(audio_items, lambda word: _embed_word(backbone, word), backbone.hidden_size, seed)
    probe_items = [item for item in audio_items if probes.covers(item)]
    if probe_items and config.probe_steps:
        probe_batches = batches_of(probe_items, clips, config.probe_batch_size, rng)

        def probe_loss() -> torch.Tensor:
            items = next(probe_batches)
            return probes.loss(_embed_clips(backbone, clips, [item.clip or 0 for item in items]), items)

        _optimize([*audio_encoder, *probes.parameters()], config.probe_steps, config, f"{backbone.key}: audio encoder", report, probe_loss)
    text_only = round(config.text_only_share * config.batch_size) if text_items else 0
    with torch.no_grad():
        audio = [
            states
            for at in range(0, len(clips.samples), 32)
            for states in _embed_clips(backbone, clips, range(len(clips.samples))[at : at + 32])
        ]
    batches = batches_of(audio_items, clips, config.batch_size - text_only, rng)

    def answer_loss() -> torch.Tensor:
        extra = [text_items[i] for i in rng.integers(len(text_items), size=text_only)] if text_only else []
        items = [*next(batches), *extra]
        return language_model_loss(backbone, clips, lambda chosen: [audio[clip] for clip in chosen], items, config.question_weight, rng)

    language_model = [*model.model.language_model.parameters(), *model.lm_head.parameters()]
    _optimize(language_model, config.steps, config, f"{backbone.key}: language model", report, answer_loss)
    model.eval()


def _optimize(
    parameters: Sequence[nn.Parameter],
    steps: int,
    config: PretrainingConfig,
    title: str,
    report: Callable[[int, float], None] | None,
    loss_of_next_batch: Callable[[], torch.Tensor],
) -> None:
    """Run the optimizer steps of one stage."""
    from tqdm import trange

    trained = [parameter for parameter in parameters if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=config.learning_rate, betas=(0.9, 0.98), weight_decay=0.01)
    for step in trange(steps, desc=title, unit="step", disable=None):
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * learning_rate_factor(step, steps, config.warmup)
        loss = loss_of_next_batch()
        value = float(loss.detach())
        if not math.isfinite(value):
            raise NonFiniteError("the loss of a base is not finite", field="step", value=step, next_step="lower the learning rate")
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        if report is not None:
            report(step, value)


def _embed_clips(backbone: Backbone, clips: ClipFeatures, chosen: Sequence[int]) -> list[torch.Tensor]:
    with short_window(backbone.model, mel := clips.mel(chosen)):
        return backbone.embed_audio(mel)


def _embed_word(backbone: Backbone, word: str) -> torch.Tensor:
    """Return the mean embedding `[D]` of a word after a space, as in a list of choices."""
    ids = backbone.tokenizer(f" {word}", add_special_tokens=False)["input_ids"]
    return backbone.embedding.weight[ids].mean(0)


def language_model_loss(
    backbone: Backbone,
    clips: TrainingClips,
    embed: Callable[[Sequence[int]], Sequence[torch.Tensor]],
    items: Sequence[TrainingItem],
    question_weight: float,
    rng: np.random.Generator,
) -> torch.Tensor:
    """Return the language-model loss of a batch: on the answers, plus `question_weight` times that on the questions.

    Args:
        backbone: the backbone.
        clips: the training clips.
        embed: returns the audio embeddings `[A, D]` of clips.
        items: the batch; a text-only item is combined with a random clip.
        question_weight: 0: the loss on the questions is not computed.
        rng: draws the clips of text-only items and the answers.
    """
    chosen = [item.clip if item.clip is not None else int(rng.integers(len(clips.samples))) for item in items]
    queries: list[Query] = []
    for clip, item in zip(chosen, items, strict=True):
        queries.append(clips.query(clip, item.text, item.answers[int(rng.integers(len(item.answers)))]))
    batch = backbone.encode(queries)
    _, states = backbone.hidden_states(backbone.embed(batch, embed(chosen)), batch.attention_mask, 1)
    answer = batch.answer_mask[:, 1:]
    question = batch.attention_mask[:, 1:].bool() & ~answer & (batch.input_ids[:, 1:] != backbone.audio_token_id)

    def loss_at(mask: torch.Tensor) -> torch.Tensor:
        targets = batch.input_ids[:, 1:][mask].to(states.device)
        return nn.functional.cross_entropy(backbone.answer_logits(states[:, :-1][mask.to(states.device)]).float(), targets)

    return loss_at(answer) + question_weight * loss_at(question) if question_weight else loss_at(answer)


def batches_of(items: Sequence[TrainingItem], clips: TrainingClips, size: int, rng: np.random.Generator) -> Iterator[list[TrainingItem]]:
    """Yield an endless sequence of batches of similar length: each epoch is shuffled, then sorted within groups of batches."""
    if len(items) < size:
        raise BackboneError("too few examples to train a base", field="train_examples", value=len(items), allowed=f"at least {size}")
    while True:
        epoch = rng.permutation(len(items))
        batches = []
        for start in range(0, len(epoch), 16 * size):
            group = sorted(epoch[start : start + 16 * size].tolist(), key=lambda i: clips.samples[items[i].clip or 0])
            batches += [group[at : at + size] for at in range(0, len(group) - size + 1, size)]
        for at in rng.permutation(len(batches)):
            yield [items[i] for i in batches[at]]


def learning_rate_factor(step: int, steps: int, warmup: int) -> float:
    """Return the factor of the learning rate: linear warm-up, then a cosine decay to a tenth."""
    if step < warmup:
        return (step + 1) / warmup
    progress = (step - warmup) / max(steps - warmup, 1)
    return 0.1 + 0.9 * 0.5 * (1.0 + math.cos(math.pi * progress))


@contextmanager
def short_window(model: Any, mel: Any) -> Iterator[None]:
    """Context manager that shortens a tower's fixed window to the length of a batch; several times faster.

    The tower's positions are absolute and its padding is masked, so the states of valid frames do not change.
    """
    tower = model.model.audio_tower
    table = dict(tower.named_children()).get("embed_positions")
    positions = mel.features.shape[-1] // 2
    if table is None or positions >= table.num_embeddings:
        yield
        return
    full = tower.config.max_source_positions
    tower.embed_positions = nn.Embedding(positions, table.embedding_dim, _weight=table.weight[:positions], _freeze=True)
    tower.config.max_source_positions = positions
    try:
        yield
    finally:
        tower.embed_positions, tower.config.max_source_positions = table, full
