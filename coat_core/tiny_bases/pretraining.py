"""Training of the tiny bases from random weights: the ear first, then the language model over it, until they answer a little."""

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
from coat_core.tiny_bases.audio_pretraining import Probes
from coat_core.tiny_bases.dataset import Clips, Lesson


@dataclass(frozen=True)
class Course:
    """How long and how fast a base learns.

    Attributes:
        listening_steps: optimizer steps of tower and projector alone (see `Probes`).
        listening_batch: questions in each of them.
        steps: optimizer steps of the language model; the ear stays as it is from then on, and each clip passes it once.
        batch_size: questions in each of them.
        learning_rate: at its peak, reached after `warmup` steps; from there a cosine down to a tenth.
        warmup: steps.
        read_share: share of a batch that is form alone (see `read_lessons`).
        text_weight: weight of the language-model loss on the question, beside the answer's.
    """

    listening_steps: int = 300
    listening_batch: int = 48
    steps: int = 400
    batch_size: int = 32
    learning_rate: float = 2e-3
    warmup: int = 30
    read_share: float = 0.125
    text_weight: float = 0.05


def pretrain(
    backbone: Backbone,
    clips: Clips,
    heard: Sequence[Lesson],
    read: Sequence[Lesson],
    course: Course,
    seed: int,
    *,
    report: Callable[[int, float], None] | None = None,
) -> None:
    """Train all parameters in place; deterministic for one thread.

    Args:
        backbone: with random weights.
        clips: the features of the base's own audio.
        heard: questions on those clips.
        read: questions without audio of their own; may be empty.
        course: how long.
        seed: of the order and of the answers drawn.
        report: is told (step, loss).

    Raises:
        NonFiniteError: the loss is not finite.
    """
    rng = np.random.default_rng(seed)
    model: Any = backbone.model
    model.train()
    ear = [parameter for name, parameter in model.named_parameters() if ".language_model." not in name and "lm_head" not in name]
    probes = Probes(heard, lambda word: _embed_word(backbone, word), backbone.hidden_size, seed)
    named = [lesson for lesson in heard if probes.knows(lesson)]
    if named and course.listening_steps:
        sounds = _order(named, clips, course.listening_batch, rng)

        def listening() -> torch.Tensor:
            lessons = next(sounds)
            return probes.loss(_listen(backbone, clips, [lesson.clip or 0 for lesson in lessons]), lessons)

        _descend([*ear, *probes.parameters()], course.listening_steps, course, f"{backbone.key}: listening", report, listening)
    reading = round(course.read_share * course.batch_size) if read else 0
    with torch.no_grad():
        audio = [
            states
            for at in range(0, len(clips.samples), 32)
            for states in _listen(backbone, clips, range(len(clips.samples))[at : at + 32])
        ]
    questions = _order(heard, clips, course.batch_size - reading, rng)

    def answering() -> torch.Tensor:
        form = [read[i] for i in rng.integers(len(read), size=reading)] if reading else []
        return _loss(backbone, clips, audio, [*next(questions), *form], course.text_weight, rng)

    mind = [*model.model.language_model.parameters(), *model.lm_head.parameters()]
    _descend(mind, course.steps, course, f"{backbone.key}: answering", report, answering)
    model.eval()


def _descend(
    parameters: Sequence[nn.Parameter],
    steps: int,
    course: Course,
    title: str,
    report: Callable[[int, float], None] | None,
    loss_of_next_batch: Callable[[], torch.Tensor],
) -> None:
    """Take the optimizer steps of one part."""
    from tqdm import trange

    trained = [parameter for parameter in parameters if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=course.learning_rate, betas=(0.9, 0.98), weight_decay=0.01)
    for step in trange(steps, desc=title, unit="step", disable=None):
        for group in optimizer.param_groups:
            group["lr"] = course.learning_rate * _pace(step, steps, course.warmup)
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


def _listen(backbone: Backbone, clips: Clips, chosen: Sequence[int]) -> list[torch.Tensor]:
    with _short_window(backbone.model, mel := clips.mel(chosen)):
        return backbone.embed_audio(mel)


def _embed_word(backbone: Backbone, word: str) -> torch.Tensor:
    """Return the mean embedding `[D]` of a word as it stands among the choices, after a space."""
    ids = backbone.tokenizer(f" {word}", add_special_tokens=False)["input_ids"]
    return backbone.embedding.weight[ids].mean(0)


def _loss(
    backbone: Backbone, clips: Clips, audio: Sequence[torch.Tensor], lessons: Sequence[Lesson], text_weight: float, rng: np.random.Generator
) -> torch.Tensor:
    chosen = [lesson.clip if lesson.clip is not None else int(rng.integers(len(clips.samples))) for lesson in lessons]
    queries: list[Query] = []
    for clip, lesson in zip(chosen, lessons, strict=True):
        queries.append(clips.query(clip, lesson.text, lesson.answers[int(rng.integers(len(lesson.answers)))]))
    batch = backbone.encode(queries)
    _, states = backbone.hidden_states(backbone.embed(batch, [audio[clip] for clip in chosen]), batch.attention_mask, 1)
    spoken = batch.answer_mask[:, 1:]
    asked = batch.attention_mask[:, 1:].bool() & ~spoken & (batch.input_ids[:, 1:] != backbone.audio_token_id)
    losses = [
        nn.functional.cross_entropy(backbone.answer_logits(states[:, :-1][mask]), batch.input_ids[:, 1:][mask]) for mask in (spoken, asked)
    ]
    return losses[0] + text_weight * losses[1]


def _order(heard: Sequence[Lesson], clips: Clips, size: int, rng: np.random.Generator) -> Iterator[list[Lesson]]:
    """Yield batches of similar length without end: each epoch shuffled, then sorted within groups of batches."""
    if len(heard) < size:
        raise BackboneError("too few examples to train a base", field="train_examples", value=len(heard), allowed=f"at least {size}")
    while True:
        epoch = rng.permutation(len(heard))
        batches = []
        for start in range(0, len(epoch), 16 * size):
            group = sorted(epoch[start : start + 16 * size].tolist(), key=lambda i: clips.samples[heard[i].clip or 0])
            batches += [group[at : at + size] for at in range(0, len(group) - size + 1, size)]
        for at in rng.permutation(len(batches)):
            yield [heard[i] for i in batches[at]]


def _pace(step: int, steps: int, warmup: int) -> float:
    if step < warmup:
        return (step + 1) / warmup
    done = (step - warmup) / max(steps - warmup, 1)
    return 0.1 + 0.9 * 0.5 * (1.0 + math.cos(math.pi * done))


@contextmanager
def _short_window(model: Any, mel: Any) -> Iterator[None]:
    """Let a tower with a fixed window run on a shorter one.

    Its positions are absolute and padding is masked, so the states of what is heard stay the same: several times faster.
    """
    tower = model.model.audio_tower
    table = dict(tower.named_children()).get("embed_positions")
    positions = mel.features.shape[-1] // 2
    if table is None or positions >= table.num_embeddings:
        yield
        return
    whole = tower.config.max_source_positions
    tower.embed_positions = nn.Embedding(positions, table.embedding_dim, _weight=table.weight[:positions], _freeze=True)
    tower.config.max_source_positions = positions
    try:
        yield
    finally:
        tower.embed_positions, tower.config.max_source_positions = table, whole
