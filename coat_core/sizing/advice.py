"""What to change, and by how much, when a training step does not fit into the GPU: pure arithmetic over `memory.py`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from coat_core.sizing.memory import Estimate, training_memory
from coat_core.sizing.workload import ModelShape, TrainingLoad


@dataclass(frozen=True)
class Lever:
    """A change of params.

    Attributes:
        settings: parameter path → the value to set.
        load: the load after it.
        total: peak in bytes after it.
        fits: whether that fits.
    """

    settings: dict[str, object]
    load: TrainingLoad
    total: int
    fits: bool

    def __str__(self) -> str:
        """Return it as one line for a person."""
        done = ", ".join(f"{name}: {str(value).lower() if isinstance(value, bool) else value}" for name, value in self.settings.items())
        return f"{done} -> {self.total / 1e9:.1f} GB{'' if self.fits else ' (not enough alone)'}"


@dataclass(frozen=True)
class Advice:
    """Whether a load fits, and what to pull if it does not.

    Attributes:
        estimate: of the load as it is.
        budget: bytes of the GPU.
        levers: each alone, in the order to try them: what costs no result first.
        recommended: the first lever or combination that fits; None when it fits already or nothing here does.
    """

    estimate: Estimate
    budget: int
    levers: tuple[Lever, ...]
    recommended: Lever | None

    @property
    def fits(self) -> bool:
        """Whether the load fits as it is."""
        return self.estimate.total <= self.budget

    def __str__(self) -> str:
        """Return it in one sentence for a person, for error messages too."""
        short = (self.estimate.total - self.budget) / 1e9
        if self.fits:
            return f"it fits: {self.estimate.total / 1e9:.1f} of {self.budget / 1e9:.1f} GB, {-short:.1f} GB to spare"
        way = f"set {self.recommended}" if self.recommended else "no setting makes one example fit: shorten the clips, or take a larger GPU"
        return f"it needs {self.estimate.total / 1e9:.1f} of {self.budget / 1e9:.1f} GB, {short:.1f} GB too much; {way}"


def advise_training(shape: ModelShape, load: TrainingLoad, budget: int, *, prefix: str = "training", base: str = "backbones.*") -> Advice:
    """Return the peak of a training step, whether it fits into `budget` bytes, and the levers.

    The levers, in their order: gradient checkpointing (a third more computing, the same gradients); fewer seconds of audio in one
    forward (`batch_seconds` cuts a batch in several, the same gradients); a smaller batch with as much more accumulation (the same
    batches' sum, other batches); 16-bit weights and arithmetic. Combinations of them follow.

    Args:
        shape: of the model.
        load: one forward as it is, or as it was when memory ran out.
        budget: bytes of the GPU.
        prefix: what the training parameters' names begin with.
        base: what the backbone's parameters' names begin with.
    """

    def lever(settings: dict[str, object], changed: TrainingLoad) -> Lever:
        total = training_memory(shape, changed).total
        return Lever(settings, changed, total, total <= budget)

    estimate = training_memory(shape, load)
    if estimate.total <= budget:
        return Advice(estimate, budget, (), None)
    checkpointed = lever({f"{prefix}.gradient_checkpointing": True}, replace(load, gradient_checkpointing=True))
    narrow: dict[str, object] = {f"{base}.dtype": "bfloat16", f"{prefix}.precision": "bf16"}
    narrowed = lever(narrow, replace(load, dtype="bfloat16", precision="bf16"))
    alone = [] if load.gradient_checkpointing else [checkpointed]
    alone += [lever(settings, changed) for settings, changed in _smaller(shape, load, budget, prefix)]
    alone += [] if load.dtype != "float32" and load.precision != "no" else [narrowed]
    together: list[Lever] = []
    for first in ([] if load.gradient_checkpointing else [checkpointed]) + ([narrowed] if narrowed in alone else []):
        together += [lever({**first.settings, **more}, changed) for more, changed in _smaller(shape, first.load, budget, prefix)]
    if narrowed in alone:
        both = replace(narrowed.load, gradient_checkpointing=True)
        settings = {**checkpointed.settings, **narrow} if not load.gradient_checkpointing else narrow
        together += [lever(settings, both)]
        together += [lever({**settings, **more}, changed) for more, changed in _smaller(shape, both, budget, prefix)]
    return Advice(estimate, budget, tuple(alone), next((one for one in [*alone, *together] if one.fits), None))


def largest_batch(shape: ModelShape, load: TrainingLoad, budget: int) -> int:
    """Return the most examples of this length that fit in one forward; 0 when not even one does."""
    low, high = 0, load.examples
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if training_memory(shape, replace(load, examples=middle)).total <= budget else (low, middle - 1)
    return low


def _smaller(shape: ModelShape, load: TrainingLoad, budget: int, prefix: str) -> Iterator[tuple[dict[str, object], TrainingLoad]]:
    """Yield the largest smaller batch that fits, by seconds and by examples."""
    examples = largest_batch(shape, load, budget)
    if not 0 < examples < load.examples:
        return
    smaller = replace(load, examples=examples)
    yield {f"{prefix}.batch_seconds": round(examples * load.audio_s, 1)}, smaller
    accumulation = load.accumulation * -(-load.examples // examples)
    yield {f"{prefix}.batch_size": examples, f"{prefix}.accumulation": accumulation}, replace(smaller, accumulation=accumulation)
