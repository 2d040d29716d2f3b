"""Skill of the heads on validation clips, beside a constant, each clip's own mean, and fresh heads on the audio positions."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from coat_core.corpus.examples import Example
from coat_core.experts.store.store import ExpertStore
from coat_core.probing.selection import first_of_each_clip
from coat_core.probing.states import ProbeStates
from coat_core.seeding import make_generator
from coat_core.settings import HeadSettings, LossSettings
from coat_core.thinking.constants import fit_constants
from coat_core.thinking.heads import ExpertHead, build_heads
from coat_core.thinking.losses import Target
from coat_core.thinking.skill import clip_mean_loss, skill
from coat_core.training.targets import Targets

FRESH_BATCH_SIZE, FRESH_LEARNING_RATE = 16, 2e-3
"""Training of fresh heads (Adam, cosine schedule)."""
_CPU = torch.device("cpu")


@dataclass(frozen=True)
class Clips:
    """The clips of a split: states of the read layer, durations and targets, each clip once.

    Attributes:
        audio: `[A, D]` each.
        think: `[K, D]` each.
        durations_s: duration of each clip.
        targets: expert key → features and mask at the native rate, or None.
    """

    audio: list[Tensor]
    think: list[Tensor]
    durations_s: list[float]
    targets: dict[str, list[Target | None]]

    @classmethod
    def of(cls, examples: Sequence[Example], states: ProbeStates, stores: Mapping[str, ExpertStore]) -> Clips:
        """Take the first example of each clip.

        Raises:
            ExpertError: a clip is missing in a store, or a frame is not finite.
        """
        rows = first_of_each_clip(examples)
        clips = [examples[row].sha256 for row in rows]
        targets = Targets(stores)
        targets.check(clips)
        audio, think = ([part[row] for row in rows] for part in (states.audio, states.think))
        return cls(audio, think, [states.durations_s[row] for row in rows], targets.batch(clips, _CPU))

    def count(self, key: str) -> int:
        """Return the number of clips with a target of an expert."""
        return sum(target is not None for target in self.targets[key])


def head_skills(
    heads: nn.ModuleDict | None,
    stores: Mapping[str, ExpertStore],
    train: Clips,
    test: Clips,
    settings: HeadSettings,
    losses: LossSettings,
    *,
    steps: int,
    seed: int,
) -> dict[str, Any]:
    """Return for each expert the mean loss per validation clip of each predictor, and its skill relative to the constant.

    Args:
        heads: the release's heads, on the CPU; None or without an expert: there is no head for it.
        stores: expert key → store.
        train: training clips, for the constant and the fresh heads.
        test: validation clips.
        settings: settings of the fresh heads: those of the release's heads, if it has any.
        losses: losses of the heads; the results are not divided by the constant's.
        steps: optimizer steps of a fresh head.
        seed: seed of its initial weights and of its batches.

    Returns:
        Expert key → `clips`, `losses` and `skills` by predictor: `constant`, `clip_mean` (oracle), `head` (null without one) and
        `fresh_on_audio`.
    """
    absolute = losses.model_copy(update={"balance": "none"})
    specs = {key: store.spec for key, store in stores.items() if train.count(key) and test.count(key)}
    normalisers = {key: (torch.from_numpy(stores[key].normaliser.mean), torch.from_numpy(stores[key].normaliser.std)) for key in specs}
    width = train.audio[0].shape[-1]
    fresh = build_heads(specs, normalisers, width, settings, seed)
    fit_constants(fresh, {key: list(_valid(train, key)) for key in specs}, absolute)
    result = {}
    for key in sorted(specs):
        head, count = cast(ExpertHead, fresh[key]), test.count(key)
        found: dict[str, float | None] = {
            "constant": _loss(_constant_of(head), test.audio, test, key, absolute) / count,
            "clip_mean": float(clip_mean_loss(head, test.durations_s, test.targets[key], absolute)) / count,
        }
        trained = cast(ExpertHead, heads[key]) if heads is not None and key in heads else None
        found["head"] = None if trained is None else _loss(trained, test.think, test, key, absolute) / count
        train_head(head, train, key, absolute, steps=steps, seed=seed)
        found["fresh_on_audio"] = _loss(head, test.audio, test, key, absolute) / count
        unit = found["constant"] or 0.0
        result[key] = {
            "clips": count,
            "losses": {name: None if value is None else round(value, 6) for name, value in found.items()},
            "skills": {
                name: None if value is None or unit <= 0.0 else round(skill(value, unit), 6)
                for name, value in found.items()
                if name != "constant"
            },
        }
    return result


def train_head(head: ExpertHead, clips: Clips, key: str, losses: LossSettings, *, steps: int, seed: int) -> None:
    """Train a head on the audio positions' states of the clips that have a target; the states are fixed."""
    rows = [row for row, target in enumerate(clips.targets[key]) if target is not None]
    optimizer = torch.optim.Adam(head.parameters(), lr=FRESH_LEARNING_RATE)
    generator = make_generator("fresh head", seed, key)
    order: list[int] = []
    head.train()
    for step in range(steps):
        if len(order) < min(FRESH_BATCH_SIZE, len(rows)):
            order += [rows[index] for index in torch.randperm(len(rows), generator=generator).tolist()]
        chosen, order = order[:FRESH_BATCH_SIZE], order[FRESH_BATCH_SIZE:]
        optimizer.param_groups[0]["lr"] = FRESH_LEARNING_RATE * 0.5 * (1 + math.cos(math.pi * step / steps))
        states, mask = _padded([clips.audio[row] for row in chosen])
        targets = [clips.targets[key][row] for row in chosen]
        loss = head.loss(states, [clips.durations_s[row] for row in chosen], targets, losses, state_mask=mask) / len(chosen)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(head.parameters(), 1.0)
        optimizer.step()
    head.eval()


@torch.no_grad()
def _loss(head: ExpertHead, states: Sequence[Tensor], clips: Clips, key: str, losses: LossSettings) -> float:
    """Return the sum of clip losses of a head in evaluation mode."""
    head.eval()
    total = 0.0
    for start in range(0, len(states), FRESH_BATCH_SIZE):
        part = slice(start, start + FRESH_BATCH_SIZE)
        padded, mask = _padded(states[part])
        total += float(head.loss(padded, clips.durations_s[part], clips.targets[key][part], losses, state_mask=mask))
    return total


def _constant_of(head: ExpertHead) -> ExpertHead:
    """Return a head that always predicts the output bias of `head`, whatever the states: its constant prediction."""
    constant = copy.deepcopy(head)
    nn.init.zeros_(constant.leave.weight)
    return constant


def _valid(clips: Clips, key: str) -> Iterator[tuple[Tensor, Tensor, float]]:
    for target, duration in zip(clips.targets[key], clips.durations_s, strict=True):
        if target is not None:
            yield *target, duration


def _padded(states: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Return states `[B, max S, D]`, padded at the end, and their mask `[B, max S]`."""
    counts = torch.tensor([len(part) for part in states])
    padded = pad_sequence(list(states), batch_first=True)
    return padded, torch.arange(padded.shape[1])[None] < counts[:, None]
