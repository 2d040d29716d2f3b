"""What trains, by parameter name: a table over arms and stages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from coat_core.errors import TrainingError

Stage = Literal["ground", "respond"]
Part = Literal["lora", "rows", "heads"]
STAGES: tuple[Stage, ...] = ("ground", "respond")
LORA_PREFIX = "peft.base_model.model."

_PARTS: dict[tuple[str, Stage], tuple[Part, ...]] = {
    ("base", "ground"): (), ("base", "respond"): (),
    ("sft", "ground"): ("lora",), ("sft", "respond"): ("lora",),
    ("block", "ground"): ("lora", "rows"), ("block", "respond"): ("lora", "rows"),
    ("coat", "ground"): ("lora", "rows", "heads"), ("coat", "respond"): ("lora", "rows", "heads"),
    ("coat_shuffled", "ground"): ("lora", "rows", "heads"), ("coat_shuffled", "respond"): ("lora", "rows", "heads"),
}  # fmt: skip


def trainable_parts(arm: str, stage: Stage) -> tuple[Part, ...]:
    """Return which parts of a `ThinkingModel` an arm trains in a stage.

    Raises:
        TrainingError: the arm or the stage is unknown.
    """
    if (arm, stage) not in _PARTS:
        raise TrainingError("unknown arm or stage", field="arm, stage", value=(arm, stage), allowed=[f"{a}/{s}" for a, s in _PARTS])
    return _PARTS[arm, stage]


def trainable_table(arm: str, stage: Stage, linears: Sequence[str], heads: Sequence[str]) -> frozenset[str]:
    """Return the exact names of the parameters that train, as `ThinkingModel.named_parameters` gives them.

    Args:
        arm: base, sft, block, coat or coat_shuffled.
        stage: ground or respond. Both train the same names: every trainable parameter joins every step.
        linears: names, within the stock model, of the linear layers that LoRA adapts.
        heads: names of the heads' parameters, `<expert key>.<parameter>`.
    """
    parts = trainable_parts(arm, stage)
    names: list[str] = []
    if "lora" in parts:
        names += [f"{LORA_PREFIX}{linear}.lora_{side}.default.weight" for linear in linears for side in "AB"]
    if "rows" in parts:
        names.append("rows")
    if "heads" in parts:
        names += [f"heads.{name}" for name in heads]
    return frozenset(names)


def part_of(name: str) -> Part:
    """Return the part a trainable parameter belongs to (each has its own learning rate)."""
    if name == "rows":
        return "rows"
    return "heads" if name.startswith("heads.") else "lora"
