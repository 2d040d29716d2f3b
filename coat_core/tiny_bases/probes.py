"""The first stage of a base's pretraining: attention probes train the audio encoder, as published towers are trained before the LALM.

Each task has a small probe that pools the embedded audio and predicts the answer. The prediction is compared with the language
model's embeddings of the possible answers, so that audio embeddings move towards the embeddings of the words that describe them. The
probes are discarded afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from coat_core.seeding import make_generator
from coat_core.tiny_bases.dataset import TrainingItem

MAX_ANSWERS = 24
"""Tasks with more different answers (complete sentences) have no probe."""


class AttentionProbes(nn.Module):
    """One attention-pooling probe for each task with few answers.

    Args:
        items: the training items.
        embed_word: returns the embedding `[D]` of an answer.
        width: D.
        seed: seed of the queries.
    """

    def __init__(self, items: Sequence[TrainingItem], embed_word: Callable[[str], Tensor], width: int, seed: int) -> None:
        super().__init__()
        found: dict[str, set[str]] = {}
        for item in items:
            found.setdefault(item.task, set()).add(item.answers[0])
        self.answers = {task: sorted(answers) for task, answers in sorted(found.items()) if 1 < len(answers) <= MAX_ANSWERS}
        self.tasks = {task: i for i, task in enumerate(self.answers)}
        self.queries = nn.Parameter(torch.randn(len(self.tasks), width, generator=make_generator("probes", seed)) * width**-0.5)
        words = sorted({answer for answers in self.answers.values() for answer in answers})
        self.words = {word: i for i, word in enumerate(words)}
        table = torch.stack([embed_word(word) for word in words]) if words else torch.zeros(0, width)
        self.register_buffer("table", nn.functional.normalize(table.detach().float(), dim=-1))
        allowed = torch.zeros(len(self.tasks), len(words), dtype=torch.bool)
        for task, answers in self.answers.items():
            allowed[self.tasks[task], [self.words[answer] for answer in answers]] = True
        self.register_buffer("allowed", allowed)

    def covers(self, item: TrainingItem) -> bool:
        """Return whether the item's task has a probe."""
        return item.task in self.tasks

    def loss(self, audio: Sequence[Tensor], items: Sequence[TrainingItem]) -> Tensor:
        """Return the mean cross-entropy over items, given the embedded audio `[A, D]` of each item's clip."""
        states = nn.utils.rnn.pad_sequence(list(audio), batch_first=True)
        states = nn.functional.layer_norm(states, states.shape[-1:])
        lengths = torch.tensor([len(clip) for clip in audio])
        tasks = torch.tensor([self.tasks[item.task] for item in items])
        targets = torch.tensor([self.words[item.answers[0]] for item in items])
        scores = torch.einsum("bd,bad->ba", self.queries[tasks], states)
        scores = scores.masked_fill(torch.arange(states.shape[1]) >= lengths[:, None], float("-inf"))
        pooled = torch.einsum("ba,bad->bd", scores.softmax(-1), states)
        logits = (pooled @ self.get_buffer("table").T).masked_fill(~self.get_buffer("allowed")[tasks], float("-inf"))
        return nn.functional.cross_entropy(logits, targets)
