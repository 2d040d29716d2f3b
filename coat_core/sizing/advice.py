"""Changes of params that make a training step fit into the GPU, computed by `memory.py`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from coat_core.sizing.memory import Estimate, training_memory
from coat_core.sizing.workload import ModelShape, TrainingWorkload


@dataclass(frozen=True)
class Change:
    """A change of params that lowers the memory of training.

    Attributes:
        settings: parameter path → new value.
        workload: the workload after the change.
        total: peak memory in bytes after the change.
        fits: whether it fits into the budget.
    """

    settings: dict[str, object]
    workload: TrainingWorkload
    total: int
    fits: bool

    def __str__(self) -> str:
        """Return the settings and the peak memory as one line of text."""
        settings = ", ".join(f"{name}: {str(value).lower() if isinstance(value, bool) else value}" for name, value in self.settings.items())
        return f"{settings} -> {self.total / 1e9:.1f} GB{'' if self.fits else ' (not enough alone)'}"


@dataclass(frozen=True)
class Advice:
    """Whether a workload fits, and the changes to make if it does not.

    Attributes:
        estimate: the memory of the unchanged workload.
        budget: bytes of the GPU.
        changes: single changes in the recommended order: those without effect on the results first.
        recommended: the first change or combination that fits; None if the workload fits unchanged, or if no change fits.
    """

    estimate: Estimate
    budget: int
    changes: tuple[Change, ...]
    recommended: Change | None

    @property
    def fits(self) -> bool:
        """Whether the workload fits unchanged."""
        return self.estimate.total <= self.budget

    def __str__(self) -> str:
        """Return the advice as one sentence, for people and for error messages."""
        short = (self.estimate.total - self.budget) / 1e9
        if self.fits:
            return f"it fits: {self.estimate.total / 1e9:.1f} of {self.budget / 1e9:.1f} GB, {-short:.1f} GB to spare"
        step = f"set {self.recommended}" if self.recommended else "no setting makes one example fit: shorten the clips, or use a larger GPU"
        return f"it needs {self.estimate.total / 1e9:.1f} of {self.budget / 1e9:.1f} GB, {short:.1f} GB too much; {step}"


def advise_training(
    shape: ModelShape, workload: TrainingWorkload, budget: int, *, prefix: str = "training", base: str = "backbones.*"
) -> Advice:
    """Return the peak memory of a training step, whether it fits into `budget` bytes, and the changes that lower it.

    The changes, in order: gradient checkpointing (a third more computation, the same gradients); fewer seconds of audio per forward
    (`batch_seconds` splits a batch, the same gradients); a smaller batch with more accumulation (the same number of examples per
    step, in other batches); 16-bit weights and arithmetic. Combinations follow.

    Args:
        shape: the model's shape.
        workload: one forward pass, planned or out of memory.
        budget: bytes of the GPU.
        prefix: prefix of the training parameters.
        base: prefix of the backbone's parameters.
    """

    def make_change(settings: dict[str, object], changed: TrainingWorkload) -> Change:
        total = training_memory(shape, changed).total
        return Change(settings, changed, total, total <= budget)

    estimate = training_memory(shape, workload)
    if estimate.total <= budget:
        return Advice(estimate, budget, (), None)
    checkpointed = make_change({f"{prefix}.gradient_checkpointing": True}, replace(workload, gradient_checkpointing=True))
    sixteen_bit_settings: dict[str, object] = {f"{base}.dtype": "bfloat16", f"{prefix}.precision": "bfloat16"}
    sixteen_bit = make_change(sixteen_bit_settings, replace(workload, dtype="bfloat16", precision="bfloat16"))
    single = [] if workload.gradient_checkpointing else [checkpointed]
    single += [make_change(settings, changed) for settings, changed in _smaller(shape, workload, budget, prefix)]
    single += [] if workload.dtype != "float32" and workload.precision != "float32" else [sixteen_bit]
    combined: list[Change] = []
    for first in ([] if workload.gradient_checkpointing else [checkpointed]) + ([sixteen_bit] if sixteen_bit in single else []):
        combined += [make_change({**first.settings, **more}, changed) for more, changed in _smaller(shape, first.workload, budget, prefix)]
    if sixteen_bit in single:
        both = replace(sixteen_bit.workload, gradient_checkpointing=True)
        settings = {**checkpointed.settings, **sixteen_bit_settings} if not workload.gradient_checkpointing else sixteen_bit_settings
        combined += [make_change(settings, both)]
        combined += [make_change({**settings, **more}, changed) for more, changed in _smaller(shape, both, budget, prefix)]
    return Advice(estimate, budget, tuple(single), next((one for one in [*single, *combined] if one.fits), None))


def largest_batch(shape: ModelShape, workload: TrainingWorkload, budget: int) -> int:
    """Return the largest number of examples of this length that fits in one forward pass; 0 if none fits."""
    low, high = 0, workload.examples
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if training_memory(shape, replace(workload, examples=middle)).total <= budget else (low, middle - 1)
    return low


def _smaller(
    shape: ModelShape, workload: TrainingWorkload, budget: int, prefix: str
) -> Iterator[tuple[dict[str, object], TrainingWorkload]]:
    """Yield the largest smaller batch that fits, by seconds and by examples."""
    examples = largest_batch(shape, workload, budget)
    if not 0 < examples < workload.examples:
        return
    smaller = replace(workload, examples=examples)
    yield {f"{prefix}.batch_seconds": round(examples * workload.audio_s, 1)}, smaller
    accumulation = workload.accumulation * -(-workload.examples // examples)
    yield {f"{prefix}.batch_size": examples, f"{prefix}.accumulation": accumulation}, replace(smaller, accumulation=accumulation)
