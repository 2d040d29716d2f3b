"""The wrapper of the PEFT model, the trainable tokens and the heads; its `forward` computes every loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from coat_core.backbones.base import Backbone, Batch
from coat_core.errors import TrainingError
from coat_core.settings import LoraSettings, LossSettings
from coat_core.thinking.adapter import add_lora
from coat_core.thinking.block import ThinkingBlock, choose_read_layer
from coat_core.thinking.cuts import blocked_pairs
from coat_core.thinking.heads import ExpertHead
from coat_core.thinking.losses import BatchTargets, StageWeights, StepLosses, Totals, answer_loss
from coat_core.thinking.trainable_tokens import TrainableTokensHook, initial_embeddings

Part = Literal["lora", "rows", "heads"]
"""A group of trainable parameters with its own learning rate; `rows` are the trainable tokens."""


def part_of(name: str) -> Part:
    """Return the part that a trainable parameter of a `ThinkingModel` belongs to."""
    if name == "trainable_tokens":
        return "rows"
    return "heads" if name.startswith("heads.") else "lora"


class ThinkingModel(nn.Module):
    """A backbone with LoRA, the trainable tokens of a thinking block and the experts' heads; everything else is frozen.

    LoRA is added to `backbone.model` in place and a hook applies the trainable tokens to the embedding's output, so both take
    effect in every method of the backbone and in the stock `generate`.

    Args:
        backbone: an untouched base in whose tokenizer the block is installed.
        block: the installed block, or None (arms `sft` and `align`).
        heads: expert key → `ExpertHead` (see `build_heads`); empty for arms without distillation. Without a block, they read the states
            at the audio positions.
        lora: the lora section.
        losses: the losses section.
        seed: seed of the trial. LoRA and trainable tokens are each initialised with their own generator (purpose, seed);
            `build_heads` does the same for the heads.
        read_layer: the layer that heads without a block read (1 = first); None: round(2/3 · layers). With a block, it is the block's.

    Raises:
        BackboneError: the LoRA targets match no layer, or the states of the layer cannot reach the answer.
    """

    def __init__(
        self,
        backbone: Backbone,
        block: ThinkingBlock | None,
        heads: nn.ModuleDict,
        lora: LoraSettings,
        losses: LossSettings,
        seed: int,
        read_layer: int | None = None,
    ) -> None:
        super().__init__()
        self.backbone, self.block, self.losses, self.lora = backbone, block, losses, lora
        self.read_layer = (
            block.read_layer if block is not None else choose_read_layer(read_layer, backbone.layer_count) if len(heads) else 1
        )
        backbone.model.requires_grad_(False)
        self.peft = add_lora(backbone, lora, seed)
        self._tokens_hook: TrainableTokensHook | None = None
        if block is not None:
            self.trainable_tokens = nn.Parameter(initial_embeddings(backbone, block, seed))
            self._tokens_hook = TrainableTokensHook(block.trainable_token_ids, lambda: self.trainable_tokens)
            self._tokens_hook.attach(backbone.embedding)
        self.heads = heads.to(backbone.embedding.weight.device)

    def forward(
        self,
        batch: Batch,
        audio: Sequence[Tensor],
        targets: BatchTargets,
        weights: StageWeights,
        totals: Totals,
        bottleneck: bool = False,
        **kwargs: Any,
    ) -> StepLosses:
        """Compute every loss of one batch.

        Args:
            batch: training batch; a row without an answer takes part in distillation only.
            audio: audio embeddings `[A, D]` of each row.
            targets: expert key → for each row (features `[T, d]`, mask `[T]`) at the expert's native rate, or None.
            weights: loss weights of the step.
            totals: counts of the whole accumulation window over all ranks.
            bottleneck: the positions after the block cannot attend to the audio, only to the block.
            **kwargs: ignored; trainers may pass further arguments.

        Raises:
            BackboneError: a row does not contain the block.
            TrainingError: targets and heads name different experts, or the numbers of rows and targets differ.
        """
        self._check(batch, targets)
        inner, final = self._states(batch, audio, bottleneck)
        answer_sum = answer_loss(self.backbone, final, batch.input_ids, batch.answer_mask)
        answer = weights.answer * answer_sum / max(totals.answer_tokens, 1)
        distill: Tensor | None = None
        experts: dict[str, Tensor] = {}
        places = self._places(inner, batch) if targets else []
        for key, rows in targets.items():
            experts[key] = torch.stack(
                [share * self._head(key).loss(states, self._durations(audio), rows, self.losses, mask) for share, states, mask in places]
            ).sum()
            weight = weights.distill * self.losses.expert_weights.get(key, 1.0)
            part = weight * experts[key] / max(totals.clips.get(key, 0), 1)
            distill = part if distill is None else distill + part
        loss = answer if distill is None else answer + weights.distill_scale * distill
        # DDP needs every trainable parameter in every step; the sum of an empty slice is an exact zero with a zero gradient.
        for parameter in self.parameters():
            if parameter.requires_grad:
                loss = loss + parameter.reshape(-1)[:0].float().sum()
        return StepLosses(loss, answer_sum.detach(), {key: value.detach() for key, value in experts.items()}, answer, distill)

    def final_states(self, batch: Batch, audio: Sequence[Tensor]) -> Tensor:
        """Return the states after the final norm `[B, L, D]`, of a batch with or without the block."""
        return self.backbone.hidden_states(self.backbone.embed(batch, audio), batch.attention_mask, 1)[1]

    def trainable_names(self) -> list[str]:
        """Return the names of the trainable parameters, in model order; they are the same in both stages."""
        return [name for name, parameter in self.named_parameters() if parameter.requires_grad]

    def parameter_groups(self) -> dict[Part, list[nn.Parameter]]:
        """Return the trainable parameters of each part; empty parts are omitted."""
        groups: dict[Part, list[nn.Parameter]] = {}
        for name, parameter in self.named_parameters():
            if parameter.requires_grad:
                groups.setdefault(part_of(name), []).append(parameter)
        return groups

    def trainable_state(self) -> dict[str, Tensor]:
        """Return copies of all trainable parameters on the CPU, by name: the model state of a checkpoint."""
        return {name: p.detach().cpu().clone().contiguous() for name, p in self.named_parameters() if p.requires_grad}

    @torch.no_grad()
    def load_trainable_state(self, state: Mapping[str, Tensor]) -> None:
        """Load a state returned by `trainable_state`.

        Raises:
            TrainingError: names or shapes differ; the model is then unchanged.
        """
        own = {name: p for name, p in self.named_parameters() if p.requires_grad}
        wrong = sorted({*own} ^ {*state}) or [name for name, p in own.items() if p.shape != state[name].shape]
        if wrong:
            raise TrainingError(
                "the parameters of the checkpoint differ from those of this model",
                field="checkpoint",
                value=wrong[:5],
                next_step="remove the checkpoint and start again",
            )
        for name, parameter in own.items():
            parameter.copy_(state[name])

    @torch.no_grad()
    def merge(self) -> nn.Module:
        """Merge LoRA and trainable tokens into the stock model and return it; of this wrapper, only the heads are used afterwards."""
        merged = self.peft.merge_and_unload()
        if self.block is not None and self._tokens_hook is not None:
            self._tokens_hook.detach()
            # The hook refers to this wrapper: the reference cycle would delay freeing the device's memory until garbage collection.
            self._tokens_hook = None
            weight = self.backbone.embedding.weight
            weight[list(self.block.trainable_token_ids)] = self.trainable_tokens.to(weight)
        return cast(nn.Module, merged)

    def _states(self, batch: Batch, audio: Sequence[Tensor], bottleneck: bool) -> tuple[Tensor, Tensor]:
        """Return the states `[B, L, D]` after the read layer and after the final norm."""
        embeddings = self.backbone.embed(batch, audio)
        blocked = None
        if bottleneck and self.block is not None:
            blocked = blocked_pairs(batch, self.block, self.backbone.audio_token_id, ("audio",))
        return self.backbone.hidden_states(embeddings, batch.attention_mask, self.read_layer, blocked)

    def _places(self, states: Tensor, batch: Batch) -> list[tuple[float, Tensor, Tensor | None]]:
        """Return the states that heads read, with their mask, and their share of each expert's loss."""
        token_id, share = self.backbone.audio_token_id, self.losses.audio_share
        if self.block is None or not share:
            return [(1.0, *read_states(states, self.block, batch, token_id))]
        return [(1.0 - share, *read_states(states, self.block, batch, token_id)), (share, *audio_states(states, batch, token_id))]

    def _head(self, key: str) -> ExpertHead:
        return cast(ExpertHead, self.heads[key])

    def _durations(self, audio: Sequence[Tensor]) -> list[float]:
        return [clip.shape[0] / self.backbone.audio_token_rate_hz for clip in audio]

    def _check(self, batch: Batch, targets: BatchTargets) -> None:
        if {*targets} != {*self.heads}:
            raise TrainingError(
                "targets and heads name different experts", field="targets", value=sorted(targets), allowed=sorted(self.heads)
            )
        for key, rows in targets.items():
            if len(rows) != batch.input_ids.shape[0]:
                raise TrainingError(
                    "an expert must have one target per row", field=f"targets.{key}", value=len(rows), allowed=str(batch.input_ids.shape[0])
                )


def think_states(states: Tensor, block: ThinkingBlock, batch: Batch) -> Tensor:
    """Return the states `[B, K, D]` at the think positions of states `[B, L, D]`.

    Raises:
        BackboneError: a row does not contain the block; the row is named.
    """
    positions = block.positions(batch.input_ids, [query.name for query in batch.queries]).to(states.device)
    return states.gather(1, positions[:, :, None].expand(-1, -1, states.shape[-1]))


def read_states(states: Tensor, block: ThinkingBlock | None, batch: Batch, audio_token_id: int) -> tuple[Tensor, Tensor | None]:
    """Return the states `[B, S, D]` that heads read, and their mask `[B, S]` (None: all are valid): the block's, or those of the audio."""
    return audio_states(states, batch, audio_token_id) if block is None else (think_states(states, block, batch), None)


def audio_states(states: Tensor, batch: Batch, audio_token_id: int) -> tuple[Tensor, Tensor]:
    """Return the states `[B, A, D]` at the audio positions of states `[B, L, D]`, padded at the end, and their mask `[B, A]`."""
    is_audio = (batch.input_ids == audio_token_id).to(states.device)
    counts = is_audio.sum(1)
    mask = torch.arange(int(counts.max()), device=states.device)[None] < counts[:, None]
    found = states.new_zeros((*mask.shape, states.shape[-1])).masked_scatter(mask[..., None], states[is_audio])
    return found, mask
