"""The first part of a base's training: its ear alone, as the published towers were trained before they met their language model.

Each question form gets a small probe that looks over the embedded audio for the answer. What it finds is compared with the
language model's own embeddings of the possible answers, so that what is heard comes to stand near the words for it. The probes
are thrown away.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from coat_core.seeding import make_generator
from coat_core.tiny_bases.dataset import Lesson

MAX_ANSWERS = 24
"""A form with more answers than that (whole sentences) is no matter of naming one."""


class Probes(nn.Module):
    """One attention pool for each question form with few answers.

    Args:
        lessons: the questions that will be asked.
        embed_word: gives the embedding `[D]` of an answer.
        width: D.
        seed: of the pools.
    """

    def __init__(self, lessons: Sequence[Lesson], embed_word: Callable[[str], Tensor], width: int, seed: int) -> None:
        super().__init__()
        found: dict[str, set[str]] = {}
        for lesson in lessons:
            found.setdefault(lesson.task, set()).add(lesson.answers[0])
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

    def knows(self, lesson: Lesson) -> bool:
        """Say whether the lesson's form has a probe."""
        return lesson.task in self.tasks

    def loss(self, audio: Sequence[Tensor], lessons: Sequence[Lesson]) -> Tensor:
        """Return the mean cross-entropy over lessons whose clips are embedded as `audio` (`[A, D]` each)."""
        states = nn.utils.rnn.pad_sequence(list(audio), batch_first=True)
        states = nn.functional.layer_norm(states, states.shape[-1:])
        lengths = torch.tensor([len(clip) for clip in audio])
        tasks = torch.tensor([self.tasks[lesson.task] for lesson in lessons])
        targets = torch.tensor([self.words[lesson.answers[0]] for lesson in lessons])
        scores = torch.einsum("bd,bad->ba", self.queries[tasks], states)
        scores = scores.masked_fill(torch.arange(states.shape[1]) >= lengths[:, None], float("-inf"))
        pooled = torch.einsum("ba,bad->bd", scores.softmax(-1), states)
        logits = (pooled @ self.get_buffer("table").T).masked_fill(~self.get_buffer("allowed")[tasks], float("-inf"))
        return nn.functional.cross_entropy(logits, targets)
