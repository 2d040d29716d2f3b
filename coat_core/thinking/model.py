"""The wrapper that owns the PEFT model, the block's rows and the heads, and computes every loss inside its `forward`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn

from coat_core.backbones.base import Backbone, Batch
from coat_core.errors import BackboneError, TrainingError
from coat_core.settings import LoraSettings, LossSettings
from coat_core.thinking.adapter import add_lora, lora_linears
from coat_core.thinking.block import ThinkingBlock
from coat_core.thinking.heads import ExpertHead
from coat_core.thinking.losses import StageWeights, StepLosses, Targets, Totals, answer_loss
from coat_core.thinking.trainable import Part, part_of
from coat_core.thinking.trainable_tokens import RowsHook, initial_rows

__all__ = ["StageWeights", "StepLosses", "Targets", "ThinkingModel", "Totals", "count_totals", "think_states"]


def count_totals(batch: Batch, targets: Targets) -> Totals:
    """Return what one batch adds to a window's totals."""
    clips = {key: sum(target is not None and bool(target[1].any()) for target in rows) for key, rows in targets.items()}
    return Totals(int(batch.answer_mask[:, 1:].sum()), clips)


class ThinkingModel(nn.Module):
    """A backbone with LoRA, the rows of a thinking block and the experts' heads; everything else is frozen.

    LoRA is put into `backbone.model` in place, and the rows act on its embedding's output, so every method of the backbone
    (and the stock `generate`) sees them.

    Args:
        backbone: an untouched base, its tokenizer already holding the block.
        block: the installed block, or None (arm `sft`).
        heads: expert key → `ExpertHead` (see `build_heads`); empty where nothing is distilled.
        lora: the lora section.
        losses: the losses section.
        seed: LoRA, rows and heads draw each from a generator of their own, (purpose, seed); see `build_heads` for the heads.

    Raises:
        BackboneError: heads without a block, or LoRA targets that match nothing.
    """

    def __init__(
        self, backbone: Backbone, block: ThinkingBlock | None, heads: nn.ModuleDict, lora: LoraSettings, losses: LossSettings, seed: int
    ) -> None:
        super().__init__()
        if block is None and len(heads):
            raise BackboneError(
                "heads read a thinking block and there is none", field="heads", value=sorted(heads), next_step="give a block or no heads"
            )
        self.backbone, self.block, self.losses, self.lora = backbone, block, losses, lora
        backbone.model.requires_grad_(False)
        self.peft = add_lora(backbone, lora, seed)
        self._rows_hook: RowsHook | None = None
        if block is not None:
            self.rows = nn.Parameter(initial_rows(backbone, block, seed))
            self._rows_hook = RowsHook(block.row_ids, lambda: self.rows)
            self._rows_hook.attach(backbone.embedding)
        self.heads = heads.to(backbone.embedding.weight.device)

    def forward(
        self, batch: Batch, audio: Sequence[Tensor], targets: Targets, weights: StageWeights, totals: Totals, **kwargs: Any
    ) -> StepLosses:
        """Compute every loss of one batch.

        Args:
            batch: training batch with answers.
            audio: per row the tower's output `[A, D]`.
            targets: expert key → per row (features `[T, d]`, mask `[T]`) at the expert's native rate, or None.
            weights: of the stage.
            totals: counts of the whole accumulation window over all ranks.
            **kwargs: never used; trainers pass what they like.

        Raises:
            BackboneError: a row does not hold the block.
            TrainingError: targets and heads name different experts, or rows and targets do not agree in number.
        """
        self._check(batch, targets)
        read, final = self._states(batch, audio)
        answer_sum = answer_loss(self.backbone, final, batch.input_ids, batch.answer_mask)
        loss = weights.answer * answer_sum / max(totals.answer_tokens, 1)
        experts: dict[str, Tensor] = {}
        for key, rows in targets.items():
            head = self._head(key)
            if read is None:
                raise AssertionError("heads without a block")
            experts[key] = head.loss(read, self._durations(audio), rows, self.losses)
            weight = weights.distill * self.losses.expert_weights.get(key, 1.0)
            loss = loss + weight * experts[key] / max(totals.clips.get(key, 0), 1)
        # DDP needs every trainable parameter in every step; the sum of nothing is an exact zero with a zero gradient.
        for parameter in self.parameters():
            if parameter.requires_grad:
                loss = loss + parameter.reshape(-1)[:0].float().sum()
        return StepLosses(loss, answer_sum.detach(), {key: value.detach() for key, value in experts.items()})

    def read_states(self, batch: Batch, audio: Sequence[Tensor]) -> Tensor:
        """Return the states at the think positions, at the output of the read layer, `[B, K, D]`.

        Raises:
            BackboneError: there is no block.
        """
        read, _ = self._states(batch, audio)
        if read is None:
            raise BackboneError("this model has no thinking block", next_step="use a model of arm block or coat")
        return read

    @torch.no_grad()
    def predict(self, batch: Batch, audio: Sequence[Tensor]) -> dict[str, list[Tensor]]:
        """Return what each head reads from the block: expert key → per row `[T, d]` in the expert's own units, at target rate."""
        if not len(self.heads):
            return {}
        read = self.read_states(batch, audio)
        return {key: self._head(key).predict(read, self._durations(audio)) for key in self.heads}

    def trainable_names(self) -> list[str]:
        """Return the names of the parameters that train, in a fixed order (the same in both stages)."""
        return [name for name, parameter in self.named_parameters() if parameter.requires_grad]

    def parameter_groups(self) -> dict[Part, list[nn.Parameter]]:
        """Return the trainable parameters of each part, for its own learning rate; empty parts are left out."""
        groups: dict[Part, list[nn.Parameter]] = {}
        for name, parameter in self.named_parameters():
            if parameter.requires_grad:
                groups.setdefault(part_of(name), []).append(parameter)
        return groups

    def trainable_state(self) -> dict[str, Tensor]:
        """Return copies of all trainable parameters on the CPU, by name: all that a checkpoint holds of the model."""
        return {name: p.detach().cpu().clone().contiguous() for name, p in self.named_parameters() if p.requires_grad}

    @torch.no_grad()
    def load_trainable_state(self, state: Mapping[str, Tensor]) -> None:
        """Put back what `trainable_state` gave.

        Raises:
            TrainingError: names or shapes differ; nothing is changed then.
        """
        own = {name: p for name, p in self.named_parameters() if p.requires_grad}
        wrong = sorted({*own} ^ {*state}) or [name for name, p in own.items() if p.shape != state[name].shape]
        if wrong:
            raise TrainingError(
                "a checkpoint holds other parameters than this model",
                field="checkpoint",
                value=wrong[:5],
                next_step="remove the checkpoint and start again",
            )
        for name, parameter in own.items():
            parameter.copy_(state[name])

    def linear_names(self) -> list[str]:
        """Return the names, within the stock model, of the linear layers that LoRA adapts."""
        return lora_linears(self.peft)

    @contextmanager
    def disabled(self) -> Iterator[None]:
        """Switch LoRA and rows off within the context: the base, bit for bit."""
        if self._rows_hook is not None:
            self._rows_hook.enabled = False
        try:
            with self.peft.disable_adapter():
                yield
        finally:
            if self._rows_hook is not None:
                self._rows_hook.enabled = True

    @torch.no_grad()
    def merge(self) -> nn.Module:
        """Merge LoRA and rows into the stock model and return it; this wrapper has no further use but for its heads."""
        merged = self.peft.merge_and_unload()
        if self.block is not None and self._rows_hook is not None:
            self._rows_hook.detach()
            # It holds this wrapper in a circle: left alone, the device's memory would wait for Python's collector.
            self._rows_hook = None
            weight = self.backbone.embedding.weight
            weight[list(self.block.row_ids)] = self.rows.to(weight)
        return cast(nn.Module, merged)

    def _states(self, batch: Batch, audio: Sequence[Tensor]) -> tuple[Tensor | None, Tensor]:
        embeddings = self.backbone.embed(batch, audio)
        layer = self.block.read_layer if self.block is not None else 1
        inner, final = self.backbone.hidden_states(embeddings, batch.attention_mask, layer)
        return (None if self.block is None else think_states(inner, self.block, batch)), final

    def _head(self, key: str) -> ExpertHead:
        return cast(ExpertHead, self.heads[key])

    def _durations(self, audio: Sequence[Tensor]) -> list[float]:
        return [clip.shape[0] / self.backbone.audio_token_rate_hz for clip in audio]

    def _check(self, batch: Batch, targets: Targets) -> None:
        if {*targets} != {*self.heads}:
            raise TrainingError(
                "targets and heads name different experts", field="targets", value=sorted(targets), allowed=sorted(self.heads)
            )
        for key, rows in targets.items():
            if len(rows) != batch.input_ids.shape[0]:
                raise TrainingError(
                    "an expert has not one target a row", field=f"targets.{key}", value=len(rows), allowed=str(batch.input_ids.shape[0])
                )


def think_states(states: Tensor, block: ThinkingBlock, batch: Batch) -> Tensor:
    """Return the states `[B, K, D]` at the think positions of states `[B, L, D]`.

    Raises:
        BackboneError: a row does not hold the block; it is named.
    """
    positions = block.positions(batch.input_ids, [query.name for query in batch.queries]).to(states.device)
    return states.gather(1, positions[:, :, None].expand(-1, -1, states.shape[-1]))
