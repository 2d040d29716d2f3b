"""Loss-based accuracy: the most likely choice is the answer, whatever the model would write. It separates knowing from formatting."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coat_core.backbones.base import Backbone
from coat_core.corpus.examples import FAMILIES, Example
from coat_core.corpus.normal_form import normalise_option
from coat_core.evaluation.answer_losses import answer_losses
from coat_core.training.dataset import AudioEmbeddingCache


@dataclass(frozen=True)
class ChoiceLosses:
    """The losses of all choices of one example.

    Attributes:
        family: the example's family.
        right: index of the right choice.
        sums: for each choice the sum of the token cross-entropies (nats) of its text and the end of turn.
        tokens: for each choice the number of these tokens.
    """

    family: str
    right: int
    sums: tuple[float, ...]
    tokens: tuple[int, ...]

    def is_right(self, *, normalised: bool) -> bool:
        """Return whether the right choice has the lowest loss, or (`normalised`) the lowest loss per token; a tie counts as wrong."""
        values = [loss / (count if normalised else 1) for loss, count in zip(self.sums, self.tokens, strict=True)]
        return all(values[self.right] < value for index, value in enumerate(values) if index != self.right)


def right_choice(example: Example) -> int | None:
    """Return the index of the right choice; None without choices, or if the answer is not among them exactly once."""
    options = [normalise_option(choice) for choice in example.choices or ()]
    answer = normalise_option(example.label)
    return options.index(answer) if len(options) > 1 and options.count(answer) == 1 else None


def choice_losses(backbone: Backbone, examples: Sequence[Example], corpus: Path, embeddings: AudioEmbeddingCache) -> list[ChoiceLosses]:
    """Return the losses of the choices of each multiple-choice example, in their order; other examples are left out.

    Args:
        backbone: the release's model.
        examples: labelled examples.
        corpus: folder that audio paths are relative to.
        embeddings: cache of the audio tower's outputs.
    """
    asked = [(example, right) for example in examples if (right := right_choice(example)) is not None]
    if not asked:
        return []
    rows = [example.model_copy(update={"answer": choice}) for example, _ in asked for choice in example.choices or ()]
    found = iter(answer_losses(backbone, rows, corpus, embeddings=embeddings))
    result = []
    for example, right in asked:
        losses = [next(found) for _ in example.choices or ()]
        result.append(ChoiceLosses(example.family, right, tuple(row.loss for row in losses), tuple(row.tokens for row in losses)))
    return result


def choice_accuracy(rows: Sequence[ChoiceLosses]) -> dict[str, Any]:
    """Return accuracy by the sum and by the mean of a choice's token losses, and chance, by family and as their `mean`; {} without rows."""
    families: dict[str, dict[str, float]] = {}
    for family in FAMILIES:
        members = [row for row in rows if row.family == family]
        if members:
            families[family] = {
                "n": len(members),
                "accuracy": round(sum(row.is_right(normalised=False) for row in members) / len(members), 6),
                "accuracy_per_token": round(sum(row.is_right(normalised=True) for row in members) / len(members), 6),
                "chance": round(sum(1 / len(row.sums) for row in members) / len(members), 6),
            }
    if not families:
        return {}
    names = ("accuracy", "accuracy_per_token", "chance")
    mean = {name: round(sum(entry[name] for entry in families.values()) / len(families), 6) for name in names}
    return {"families": families, "mean": {"n": len(rows), **mean}}
