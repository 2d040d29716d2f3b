"""The arms of an experiment: what each one trains, and which pairs of arms are compared."""

from __future__ import annotations

import re
from dataclasses import dataclass

_TRIAL = re.compile(r"^([a-z_]+)-(\d+)$")


@dataclass(frozen=True)
class Arm:
    """What an arm has. All code decides by these fields, never by the name, so a new arm is one more entry of `ARMS`.

    Attributes:
        name: as in `trials` of params.
        description: one line for tables and model cards.
        lora: the language model gets LoRA; False: the base is published untouched.
        block: prompts contain the thinking block, whose embeddings are trained.
        heads: the experts are distilled into the block, or without a block into the audio positions.
        shuffled_targets: each clip gets the expert targets of another clip (control for `heads`).
        described: the answer is preceded by the experts' outputs as text.
    """

    name: str
    description: str
    lora: bool = True
    block: bool = False
    heads: bool = False
    shuffled_targets: bool = False
    described: bool = False


ARMS: dict[str, Arm] = {
    arm.name: arm
    for arm in (
        Arm("base", "the untouched base", lora=False),
        Arm("sft", "LoRA, no thinking block"),
        Arm("block", "LoRA and thinking block, no distillation", block=True),
        Arm("coat", "LoRA, thinking block and distillation", block=True, heads=True),
        Arm("coat_shuffled", "as coat, with expert targets of another clip", block=True, heads=True, shuffled_targets=True),
        Arm("align", "LoRA and distillation into the audio positions, no block", heads=True),
        Arm("described", "LoRA, the experts' outputs as text before the answer", described=True),
    )
}
"""Every arm by name, in the order of tables."""

CLAIM = ("coat", "sft")
"""The comparison that the product is judged by."""
COMPARISONS = (
    CLAIM,
    ("coat", "block"),
    ("coat", "coat_shuffled"),
    ("block", "sft"),
    ("coat", "base"),
    ("sft", "base"),
    ("coat", "align"),
    ("coat", "described"),
)
"""Pairs of arms whose difference is reported, where both ran."""


def find_arm(name: str) -> Arm:
    """Return the arm of a name.

    Raises:
        ValueError: no arm has this name.
    """
    if name not in ARMS:
        raise ValueError(f"{name!r} is not an arm; allowed: {', '.join(ARMS)}")
    return ARMS[name]


def parse_trial(name: str) -> tuple[Arm, int]:
    """Split `<arm>-<seed>`.

    Raises:
        ValueError: the name has another form, or names no arm.
    """
    match = _TRIAL.match(name)
    if not match or match[1] not in ARMS:
        raise ValueError(f"{name!r} is not <arm>-<seed> with an arm of {', '.join(ARMS)} and an integer seed")
    return ARMS[match[1]], int(match[2])
