"""The parts of a training run: its settings, the examples of its arm, the model with its trainable parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from coat_core.backbones.base import Backbone
from coat_core.backbones.catalogue import load_backbone
from coat_core.corpus.examples import Example, select_split
from coat_core.errors import ExpertError, TrainingError
from coat_core.experts.store.store import ExpertStore
from coat_core.settings import Arm, BackboneSettings, Settings, TrainingSettings
from coat_core.thinking.block import ThinkingBlock
from coat_core.thinking.heads import build_heads
from coat_core.thinking.model import ThinkingModel
from coat_core.training.batches import BatchOrder, BatchOrderWithUnlabelled, example_length
from coat_core.training.trainer import ExplainMemory


@dataclass(frozen=True)
class TrainingRun:
    """One training, with the folder of its state."""

    settings: Settings
    key: str
    arm: Arm
    seed: int
    scratch: Path
    fingerprint: str
    explain_memory: ExplainMemory | None = None

    @property
    def base(self) -> BackboneSettings:
        """The section of the backbone."""
        return self.settings.backbones[self.key]  # type: ignore[index]

    @property
    def name(self) -> str:
        """`<backbone>-<arm>-<seed>`."""
        return f"{self.key}-{self.arm.name}-{self.seed}"


@dataclass(frozen=True)
class TrainingData:
    """The training examples of an arm: the labelled ones, and the unlabelled ones that it uses.

    Every arm trains on the same labelled examples in the same order. Unlabelled examples take part in distillation only, so an arm without
    heads has none.
    """

    labelled: tuple[Example, ...]
    unlabelled: tuple[Example, ...]
    seed: int

    @classmethod
    def of(cls, examples: Sequence[Example], run: TrainingRun) -> TrainingData:
        """Select the examples of a run from the accepted manifest."""
        training = select_split(examples, "train")
        uses_unlabelled = run.arm.heads and run.settings.training.unlabelled_batch_size > 0
        unlabelled = [example for example in training if not example.labelled] if uses_unlabelled else []
        return cls(tuple(example for example in training if example.labelled), tuple(unlabelled), run.seed)

    @property
    def examples(self) -> tuple[Example, ...]:
        """The labelled, then the unlabelled examples."""
        return (*self.labelled, *self.unlabelled)

    def order(self, settings: TrainingSettings, world: int) -> BatchOrder | BatchOrderWithUnlabelled:
        """Return the batches.

        Args:
            settings: the training section.
            world: number of processes.
        """

        def order_of(part: Sequence[Example], size: int) -> BatchOrder:
            return BatchOrder(
                lengths=tuple(map(example_length, part)), batch_size=size, accumulation=settings.accumulation, world=world,
                length_groups=settings.length_groups, seed=self.seed,
            )  # fmt: skip

        labelled = order_of(self.labelled, settings.batch_size)
        if not self.unlabelled:
            return labelled
        return BatchOrderWithUnlabelled(labelled, order_of(self.unlabelled, settings.unlabelled_batch_size))


def build(run: TrainingRun, stores: Mapping[str, ExpertStore], device: str) -> tuple[Backbone, ThinkingModel | None]:
    """Load the base and add the trainable parts of the arm.

    Args:
        run: the run.
        stores: stores of the experts that get a head.
        device: device of the weights.
    """
    settings, base = run.settings, run.base
    backbone = load_backbone(
        run.key, base.base, revision=base.revision, allow_moving_revision=base.allow_moving_revision, dtype=base.dtype, device=device,
        attention=base.attention, long_audio=base.long_audio,
    )  # fmt: skip
    if not run.arm.lora:
        return backbone, None
    block = ThinkingBlock.install(backbone, settings.thinking) if run.arm.block else None
    normalisers = {key: (torch.from_numpy(store.normaliser.mean), torch.from_numpy(store.normaliser.std)) for key, store in stores.items()}
    specs = {key: store.spec for key, store in stores.items()}
    heads = build_heads(specs, normalisers, backbone.hidden_size, settings.heads, run.seed) if stores else nn.ModuleDict()
    if settings.training.gradient_checkpointing:
        backbone.model.activation_checkpointing_enable({"use_reentrant": False})  # type: ignore[operator]
    return backbone, ThinkingModel(backbone, block, heads, settings.lora, settings.losses, run.seed, settings.thinking.read_layer)


def open_stores(settings: Settings, features: Mapping[str, Path]) -> dict[str, ExpertStore]:
    """Open the stores of the experts whose weight is not 0; the others have no head.

    Raises:
        TrainingError: every expert has the weight 0.
        ExpertError: a store is missing or unfinished.
    """
    weights = settings.losses.expert_weights
    keys = sorted(key for key in settings.experts if weights.get(key, 1.0) > 0)
    if not keys:
        raise TrainingError("every expert has the weight 0", field="losses.expert_weights", value=dict(weights),
                            next_step="set a weight above 0, or train arm block, which has no distillation")  # fmt: skip
    missing = sorted(set(keys) - set(features))
    if missing:
        raise ExpertError(
            "features of experts are missing", field="features", value=missing,
            next_step="run stage " + ", ".join(f"features@{key}" for key in missing),
        )  # fmt: skip
    return {key: ExpertStore.open(features[key]) for key in keys}
