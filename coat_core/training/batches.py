"""The batch order: a pure function of (seed, stage, step) without state to save, equal for every arm.

An epoch is a permutation of the training split. It is cut into windows of `length_groups` batches; a window is sorted by
length and cut into batches; the order of the epoch's batches is shuffled. Every example occurs exactly once in an epoch.
The last batch of an epoch may be smaller; it is kept, because losses are divided by the counts of the whole accumulation
window and not by the batch size. Each stage starts a new epoch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch

from coat_core.batching import padded_batches
from coat_core.corpus.examples import Example
from coat_core.errors import TrainingError
from coat_core.seeding import make_generator

_CHARACTERS_PER_TOKEN = 4
_AUDIO_TOKENS_PER_S = 25


def example_length(example: Example) -> int:
    """Return an estimate of an example's length in tokens from its manifest row (no audio is decoded)."""
    text = len(example.prompt) + len(example.answer or "")
    return round(example.duration_s * _AUDIO_TOKENS_PER_S) + text // _CHARACTERS_PER_TOKEN


@dataclass(frozen=True)
class BatchOrder:
    """Which examples are in which batch.

    Attributes:
        lengths: length of each example of the training split, in manifest order.
        batch_size: examples per forward and process.
        accumulation: forwards per optimizer step and process.
        world: number of processes.
        length_groups: batches per window that is sorted by length; 1 disables the sorting.
        seed: seed of the trial.
    """

    lengths: tuple[int, ...]
    batch_size: int
    accumulation: int
    world: int
    length_groups: int
    seed: int

    def __post_init__(self) -> None:
        if not self.lengths:
            raise TrainingError("there are no training examples", field="split", value="train", next_step="check the accepted manifest")

    @property
    def batches_per_epoch(self) -> int:
        """Number of batches that contain every example once."""
        return -(-len(self.lengths) // self.batch_size)

    def batch_indices(self, stage: str, step: int, micro_step: int, rank: int) -> tuple[int, ...]:
        """Return the examples (indices into the training split) of one forward.

        Args:
            stage: name of the stage.
            step: optimizer step within the stage, 0 = first.
            micro_step: forward within the step, 0 … accumulation - 1.
            rank: rank of the process, 0 … world - 1.
        """
        number = (step * self.accumulation + micro_step) * self.world + rank
        epoch, position = divmod(number, self.batches_per_epoch)
        batches = _epoch(self.lengths, self.batch_size, self.length_groups, self.seed, stage, epoch)
        return batches[position]


@dataclass(frozen=True)
class BatchOrderWithUnlabelled:
    """The batches of `labelled`, each followed by a batch of `unlabelled`, whose examples come after the labelled ones in the dataset.

    The labelled part is that of the arms without unlabelled examples, forward by forward.
    """

    labelled: BatchOrder
    unlabelled: BatchOrder

    @property
    def world(self) -> int:
        """Number of processes."""
        return self.labelled.world

    def batch_indices(self, stage: str, step: int, micro_step: int, rank: int) -> tuple[int, ...]:
        """Return the examples (indices into the labelled, then the unlabelled examples) of one forward."""
        first = len(self.labelled.lengths)
        added = self.unlabelled.batch_indices(f"{stage} unlabelled", step, micro_step, rank)
        return (*self.labelled.batch_indices(stage, step, micro_step, rank), *(first + index for index in added))


@lru_cache(maxsize=8)
def _epoch(lengths: tuple[int, ...], batch_size: int, groups: int, seed: int, stage: str, epoch: int) -> tuple[tuple[int, ...], ...]:
    generator = make_generator("batches", seed, stage, epoch)
    order = torch.randperm(len(lengths), generator=generator).tolist()
    window = batch_size * groups
    batches: list[tuple[int, ...]] = []
    for start in range(0, len(order), window):
        part = order[start : start + window]
        if groups > 1:
            part = sorted(part, key=lambda index: lengths[index])
        batches += [tuple(part[i : i + batch_size]) for i in range(0, len(part), batch_size)]
    shuffled = torch.randperm(len(batches), generator=generator).tolist()
    return tuple(batches[i] for i in shuffled)


def cut_by_seconds(indices: Sequence[int], durations_s: Sequence[float], limit_s: float | None) -> list[tuple[int, ...]]:
    """Cut a batch into forwards of at most `limit_s` seconds, padding included; a longer clip is a forward of its own.

    Args:
        indices: examples of the batch, in order.
        durations_s: duration of every example of the training split.
        limit_s: None does not cut the batch.
    """
    if limit_s is None:
        return [tuple(indices)]
    return padded_batches(indices, durations_s.__getitem__, limit_s)


def draw_batches(purpose: str, durations_s: Sequence[float], items: int, size: int) -> list[list[int]]:
    """Return batches of indices, sorted by duration. The draw depends on the purpose and the number of examples only.

    Args:
        purpose: e.g. `start`.
        durations_s: durations of the examples (s).
        items: examples to draw; all, if there are fewer.
        size: examples in one batch.
    """
    order = torch.randperm(len(durations_s), generator=make_generator(purpose, 0)).tolist()[:items]
    order.sort(key=lambda index: (durations_s[index], index))
    return [order[at : at + size] for at in range(0, len(order), size)]


def derangement(keys: Sequence[str], seed: int) -> dict[str, str]:
    """Map each clip to another one: a rotation of a seeded permutation, so that no clip is mapped to itself.

    Args:
        keys: SHA-256 of the clips; duplicates and order do not matter.
        seed: seed of the trial.

    Raises:
        TrainingError: there are fewer than two clips.
    """
    unique = sorted(set(keys))
    if len(unique) < 2:
        raise TrainingError("arm coat_shuffled needs at least two clips", field="clips", value=len(unique), next_step="train on more clips")
    order = torch.randperm(len(unique), generator=make_generator("derangement", seed)).tolist()
    return {unique[a]: unique[b] for a, b in zip(order, order[1:] + order[:1], strict=True)}
