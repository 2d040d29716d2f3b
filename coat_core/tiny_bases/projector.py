"""Training of a small base with a frozen, published audio encoder: the projector, and the language model in part or completely."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from coat_core.backbones.lalm import Lalm
from coat_core.errors import NonFiniteError
from coat_core.progress import ProgressBar
from coat_core.seeding import make_generator
from coat_core.tiny_bases.dataset import TrainingItem
from coat_core.tiny_bases.encoding import EncodedClips, autocast
from coat_core.tiny_bases.mapping import projector_of
from coat_core.tiny_bases.pretraining import batches_of, language_model_loss, learning_rate_factor
from coat_core.tiny_bases.probes import AttentionProbes
from coat_core.tiny_bases.resume import StageCheckpoint

Trained = Literal["projector", "lora", "full"]
_LORA_RANK = 16
_LORA_MODULES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True)
class ProjectorConfig:
    """Steps, batch size and learning rate of the training of a small base.

    Attributes:
        trained: what is trained beside the projector: nothing, LoRA matrices (merged at the end), or the full language model.
        probe_steps: steps of the projector alone, towards the embeddings of the answers (see `AttentionProbes`).
        probe_batch_size: questions per probe step.
        steps: optimizer steps with the language model.
        batch_size: questions per step.
        learning_rate: the peak, reached after `warmup` steps, followed by a cosine decay to a tenth.
        warmup: steps of linear warm-up.
        text_only_share: share of a batch that is text-only (see `text_items`).
        question_weight: weight of the language-model loss on the question; the answer's weight is 1.
        precision: precision of the computation; weights are float32.
        checkpoint_every: steps between checkpoints.
    """

    trained: Trained = "full"
    probe_steps: int = 300
    probe_batch_size: int = 48
    steps: int = 2000
    batch_size: int = 16
    learning_rate: float = 1e-3
    warmup: int = 100
    text_only_share: float = 0.125
    question_weight: float = 0.05
    precision: Literal["float32", "bfloat16"] = "float32"
    checkpoint_every: int = 100


def pretrain_projector(
    backbone: Lalm,
    clips: EncodedClips,
    audio_items: Sequence[TrainingItem],
    text_items: Sequence[TrainingItem],
    config: ProjectorConfig,
    seed: int,
    *,
    scratch: Path | None = None,
    report: Callable[[int, float], None] | None = None,
) -> None:
    """Train in place; the audio encoder does not change. Deterministic with one thread, also after an interruption.

    Args:
        backbone: an assembled backbone.
        clips: the encoder's outputs of the training clips.
        audio_items: questions about those clips.
        text_items: text-only questions; can be empty.
        config: what is trained, steps, batch size and learning rate.
        seed: seed of the order, the draws and the LoRA matrices.
        scratch: folder of the checkpoints; None: none are written.
        report: called with (step, loss) after each step; the probe steps come first.

    Raises:
        BackboneError: there are fewer questions than a batch has.
        NonFiniteError: the loss is not finite.
    """
    model: Any = backbone.model
    parent, name = projector_of(model)
    projector: nn.Module = getattr(parent, name)
    model.requires_grad_(False)
    projector.requires_grad_(True)

    def embed(chosen: Sequence[int]) -> list[Tensor]:
        states = clips.batch(chosen, model.device)
        return list(projector(torch.cat(states)).split([len(row) for row in states]))

    probes = AttentionProbes(audio_items, lambda word: _embed_word(backbone, word), backbone.hidden_size, seed)
    probe_items = [item for item in audio_items if probes.covers(item)]
    if probe_items and config.probe_steps:
        size = min(config.probe_batch_size, len(probe_items))
        probe_batches = batches_of(probe_items, clips, size, np.random.default_rng([seed, 0]))

        def probe_loss(step: int) -> Tensor:
            items = next(probe_batches)
            return probes.loss([row.float().cpu() for row in embed([item.clip or 0 for item in items])], items)

        checkpoint = StageCheckpoint(scratch, "probes", config.checkpoint_every)
        stage = [*projector.parameters(), *probes.parameters()]
        _optimize(
            stage, config.probe_steps, config, f"{backbone.key}: projector", report, probe_loss, checkpoint, lambda: next(probe_batches)
        )
    merge = _prepare(backbone, config.trained, seed)
    text_only = round(config.text_only_share * config.batch_size) if text_items else 0
    batches = batches_of(audio_items, clips, config.batch_size - text_only, np.random.default_rng([seed, 1]))

    def answer_loss(step: int) -> Tensor:
        rng = np.random.default_rng([seed, 2, step])
        extra = [text_items[i] for i in rng.integers(len(text_items), size=text_only)] if text_only else []
        with autocast(config.precision, model.device):
            return language_model_loss(backbone, clips, embed, [*next(batches), *extra], config.question_weight, rng)

    trained = [parameter for parameter in backbone.model.parameters() if parameter.requires_grad]
    checkpoint = StageCheckpoint(scratch, "language-model", config.checkpoint_every)
    model.train()
    _optimize(trained, config.steps, config, f"{backbone.key}: language model", report, answer_loss, checkpoint, lambda: next(batches))
    merge()
    model.requires_grad_(True)
    model.eval()


def default_training(language_model: str | None, **changes: Any) -> ProjectorConfig:
    """Return the configuration for a small language model from random weights, or for a published one (LoRA).

    Args:
        language_model: the published language model, or None.
        changes: other values of fields.
    """
    published = {"trained": "lora", "learning_rate": 5e-4, "question_weight": 0.0, "precision": "bfloat16"} if language_model else {}
    return ProjectorConfig(**{**published, **changes})


def _prepare(backbone: Lalm, trained: Trained, seed: int) -> Callable[[], None]:
    """Make the chosen parameters of the language model trainable; return the function that ends the training."""
    model: Any = backbone.model
    if trained == "full":
        for part in (model.model.language_model, model.lm_head):
            part.requires_grad_(True)
    if trained != "lora":
        return lambda: None
    from peft import LoraConfig, inject_adapter_in_model

    targets = backbone.lora_targets(_LORA_MODULES)
    projector, name = projector_of(model)
    inject_adapter_in_model(LoraConfig(r=_LORA_RANK, lora_alpha=2 * _LORA_RANK, target_modules=targets), model)
    getattr(projector, name).requires_grad_(True)
    for path, parameter in model.named_parameters():
        if "lora_A" in path:
            bound = parameter.shape[1] ** -0.5
            draws = torch.rand(parameter.shape, generator=make_generator("bases", seed, path))
            parameter.data.copy_((2 * draws - 1) * bound)

    def merge() -> None:
        from peft.tuners.lora import LoraLayer

        for path, module in list(model.named_modules()):
            if isinstance(module, LoraLayer):
                module.merge()
                owner, _, leaf = path.rpartition(".")
                setattr(model.get_submodule(owner), leaf, module.get_base_layer())
        del model.peft_config

    return merge


def _embed_word(backbone: Lalm, word: str) -> Tensor:
    ids = backbone.tokenizer(f" {word}", add_special_tokens=False)["input_ids"]
    return backbone.embedding.weight[ids].mean(0).cpu()


def _optimize(
    parameters: Sequence[nn.Parameter],
    steps: int,
    config: ProjectorConfig,
    title: str,
    report: Callable[[int, float], None] | None,
    loss_of: Callable[[int], Tensor],
    checkpoint: StageCheckpoint,
    skip: Callable[[], object],
) -> None:
    """Run the optimizer steps of one stage that its checkpoint does not contain."""
    optimizer = torch.optim.AdamW(parameters, lr=config.learning_rate, betas=(0.9, 0.98), weight_decay=0.01)
    done = checkpoint.load(parameters, optimizer)
    for _ in range(done):
        skip()
    with ProgressBar(total=steps, initial=done, desc=title, unit="step", disable=None) as bar:
        for step in range(done, steps):
            for group in optimizer.param_groups:
                group["lr"] = config.learning_rate * learning_rate_factor(step, steps, config.warmup)
            loss = loss_of(step)
            value = float(loss.detach())
            if not math.isfinite(value):
                raise NonFiniteError("the loss of a base is not finite", field="step", value=step, next_step="lower the learning rate")
            optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(loss)
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            bar.note(loss=value)
            bar.set_postfix_str(f"loss {value:.3f}", refresh=False)
            bar.update()
            if report is not None:
                report(step, value)
            if (step + 1) % checkpoint.every == 0 or step + 1 == steps:
                checkpoint.save(parameters, optimizer, step + 1)
