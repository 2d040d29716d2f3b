"""The training loop, based on `accelerate`.

`transformers.Trainer` is not used: it resumes `group_by_length` wrongly after the first epoch (and decodes every example to
get its length), writes the whole frozen base at every checkpoint when a module wraps the PEFT model, and does not support a
two-stage loss whose parts are normalised over the accumulation window of all ranks. `accelerate` configures devices, mixed
precision and DDP. With a sharded base (`training.strategy: fsdp`), the trainer sums the gradients of the trained parameters itself.

Every step is a function of the state before it and of (seed, step, micro step, rank): batches, learning rate, loss weights
and dropout are derived from these, so a resumed run ends with bitwise the same weights as an uninterrupted one.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from torch import Tensor

from coat_core.backbones.base import Batch
from coat_core.device import explain_out_of_memory
from coat_core.errors import Interrupted, NonFiniteError, OutOfMemoryError, TrainingError
from coat_core.seeding import make_generator
from coat_core.settings import Arm, LossSettings, TrainingSettings
from coat_core.thinking.losses import StageWeights, Target, Totals
from coat_core.thinking.model import ThinkingModel
from coat_core.thinking.skill import skill
from coat_core.training.batches import BatchOrder, BatchOrderWithUnlabelled, cut_by_seconds
from coat_core.training.checkpoint import Checkpoint, CheckpointFolder, random_state, restore_random_state
from coat_core.training.dataset import TrainingDataset
from coat_core.training.gradients import FIRST_MEASURE, MEASURE_EVERY, DistillShare, clip_gradients
from coat_core.training.ranks import Ranks
from coat_core.training.schedule import Schedule, Stage, bottleneck_probability, stage_weights
from coat_core.training.targets import Targets
from coat_core.training.tracker import History
from coat_core.training.validation import Validation

ExplainMemory = Callable[[ThinkingModel, Batch, Sequence[Tensor], TrainingSettings, int], OutOfMemoryError]
"""Takes the model, the inputs of a forward that ran out of memory, the settings and the bytes of the device; returns the error to raise."""


class _MicroBatch(NamedTuple):
    """The inputs of one forward."""

    indices: tuple[int, ...]
    batch: Batch
    audio: list[Tensor]
    targets: Mapping[str, list[Target | None]]
    counted: bool = True
    """False: it only takes part in the gathering of a sharded base, with the other ranks' forwards, and has no gradient."""


@dataclass(frozen=True)
class Trial:
    """An arm with its seed and its sections of params."""

    arm: Arm
    seed: int
    training: TrainingSettings
    losses: LossSettings


class Trainer:
    """Trains a `ThinkingModel` in two stages.

    Args:
        model: model with the arm's trainable parts, on the accelerator's device.
        trial: arm, seed and settings.
        dataset: the training split.
        order: which examples are in which batch.
        targets: targets of the heads; without stores for arms without heads.
        accelerator: an `Accelerator` with `gradient_accumulation_steps=1` (the loop accumulates).
        checkpoints: folder of the checkpoints.
        history: records a row for each step.
        stop: called after every step; True ends the run with a checkpoint and `Interrupted`.
        progress: called with the row of each step.
        explain_memory: returns the error of a forward that runs out of memory.
        validation: measures the answer loss on validation examples; None: it is not measured.
        rows_scale: factor of the trainable tokens' learning rate (see `Schedule.rates`).
    """

    def __init__(
        self,
        model: ThinkingModel,
        trial: Trial,
        dataset: TrainingDataset,
        order: BatchOrder | BatchOrderWithUnlabelled,
        targets: Targets,
        accelerator: Accelerator,
        checkpoints: CheckpointFolder,
        history: History,
        *,
        stop: Callable[[], bool] = lambda: False,
        progress: Callable[[Mapping[str, Any]], None] = lambda row: None,
        explain_memory: ExplainMemory | None = None,
        validation: Validation | None = None,
        rows_scale: float = 1.0,
    ) -> None:
        self.rows_scale, self.validation = rows_scale, validation
        self.trial, self.dataset, self.order, self.targets = trial, dataset, order, targets
        self.accelerator, self.checkpoints, self.history = accelerator, checkpoints, history
        self.stop, self.progress, self.explain_memory = stop, progress, explain_memory or _out_of_memory
        self.schedule = Schedule(trial.training)
        self._durations_s = [example.duration_s for example in dataset.examples]
        self.groups, self.ranks = model.parameter_groups(), Ranks(accelerator)
        self.share = DistillShare(self.groups["lora"], trial.losses.max_share, self.ranks.sum)
        self.thinking = model
        self.sharded = trial.training.strategy == "fsdp"
        if self.sharded:
            # DDP, which `prepare` would add, has the first rank's weights everywhere, too.
            self.ranks.copy_first([*(parameter for group in self.groups.values() for parameter in group), *model.heads.buffers()])
        self.model = accelerator.prepare_model(model, evaluation_mode=self.sharded)
        self.optimizer = accelerator.prepare_optimizer(_optimizer(model, trial.training))
        self.model.train()

    def run(self) -> None:
        """Train from the newest checkpoint (or the start) to the last step.

        Raises:
            NonFiniteError: a loss or gradient is not finite; the optimizer step was not taken.
            Interrupted: `stop` returned True; a checkpoint was written.
        """
        total, every = self.schedule.total_steps, self.trial.training.checkpoint_every
        start = self._resume()
        for step in range(start, total):
            row = self.step(step)
            if self.validation is not None:
                row |= self.validation.measure(self.thinking, step + 1)
            self.history.append(row)
            self.progress(row)
            stopping = self._stopping() and step + 1 < total
            if stopping or (step + 1) % every == 0 or step + 1 == total:
                self._save(step + 1)
            if stopping:
                raise Interrupted(f"training was stopped after step {step + 1} of {total}", next_step="run the same command again")

    def step(self, step: int) -> dict[str, Any]:
        """Take one optimizer step (0 = first of the run) and return its row of the history.

        Raises:
            NonFiniteError: a loss or the gradient's norm is not finite; the optimizer step was not taken.
            OutOfMemoryError: the device is too small for a forward; the message names settings that fit.
        """
        started = time.perf_counter()
        stage, number = self.schedule.position(step)
        weights = self._weights(stage, number)
        rates = self.schedule.rates(step, self.rows_scale)
        for group in self.optimizer.param_groups:
            group["lr"] = rates[group["name"]]
        window = [part for micro in range(self.trial.training.accumulation) for part in self._read(stage, number, micro)]
        examples = [self.dataset.examples[index] for micro in window for index in micro.indices]
        totals, forwards = self._totals(window), self._with_fillers(window)
        sums: Tensor | None = None
        self.share.share = None
        for micro_step, micro in enumerate(forwards):
            with self._explain_out_of_memory(micro):
                part = self._forward_backward(micro, weights, totals, step, micro_step, last=micro_step + 1 == len(forwards))
            sums = part if sums is None else sums + part
        assert sums is not None
        if self.sharded:
            self.ranks.sum_gradients([parameter for group in self.groups.values() for parameter in group])
        losses = self._losses(sums, weights, totals)
        self._check_finite(losses, step, stage, losses)
        self.accelerator.unscale_gradients()
        training = self.trial.training
        norms = clip_gradients(self.groups, training.max_gradient_norm, by_group=training.clip == "group")
        if not self._scale_may_overflow():
            self._check_finite(norms, step, stage, losses)
        self.optimizer.step()
        self.optimizer.zero_grad()
        seconds = time.perf_counter() - started
        audio_s = sum(example.duration_s for example in examples)
        return {
            "step": step + 1,
            "stage": stage,
            **losses,
            **self._skills(losses),
            **({} if self.share.share is None else {"distill_share": self.share.share, "distill_scale": weights.distill_scale}),
            **{f"learning_rate/{group}": rate for group, rate in rates.items()},
            **{name: norm if math.isfinite(norm) else None for name, norm in norms.items()},
            "seconds": seconds,
            "examples_per_s": len(examples) * self.order.world / seconds,
            "audio_s_per_s": audio_s * self.order.world / seconds,
        }

    def _weights(self, stage: Stage, number: int) -> StageWeights:
        """Return the loss weights of the step `number` (0 = first) of a stage."""
        training = self.trial.training
        length = training.ground_steps if stage == "ground" else training.respond_steps
        weights = stage_weights(self.trial.arm, stage, self.trial.losses, 1.0 - number / length)
        return replace(weights, distill_scale=self.share.scale)

    def _skills(self, losses: Mapping[str, float]) -> dict[str, float]:
        """Return the skill of each head: 1 − loss ÷ loss of the constant predictor, over the clips of the step."""
        balanced = self.trial.losses.balance == "constant"
        constants = {key: 1.0 if balanced else float(self.thinking.heads[key].get_buffer("constant")) for key in self.targets.experts}
        return {f"skill/{key}": skill(losses[f"loss/{key}"], constant) for key, constant in constants.items()}

    def _read(self, stage: Stage, number: int, micro_step: int) -> list[_MicroBatch]:
        """Return one batch, cut into forwards of at most `batch_seconds`."""
        indices = self.order.batch_indices(stage, number, micro_step, self.accelerator.process_index)
        return [self._micro_batch(part) for part in cut_by_seconds(indices, self._durations_s, self.trial.training.batch_seconds)]

    def _with_fillers(self, window: list[_MicroBatch]) -> list[_MicroBatch]:
        """Return as many forwards as the rank with the most: every forward of a sharded base is one of all ranks."""
        if not self.sharded or self.trial.training.batch_seconds is None:
            return window
        shortest = min(window, key=lambda micro: micro.batch.input_ids.numel())
        return window + [shortest._replace(counted=False)] * (self.ranks.largest(len(window)) - len(window))

    def _micro_batch(self, indices: tuple[int, ...]) -> _MicroBatch:
        device = self.accelerator.device
        clips = [self.dataset.examples[index].sha256 for index in indices]
        batch, audio = self.dataset.batch(indices, device), self.dataset.audio(indices, device)
        return _MicroBatch(indices, batch, audio, self.targets.batch(clips, device))

    def _totals(self, window: list[_MicroBatch]) -> Totals:
        """Return the numbers of answer tokens and valid clips of the accumulation window over all ranks."""
        experts = self.targets.experts
        counts = [sum(self.dataset.answer_tokens(micro.indices) for micro in window)]
        counts += [sum(target is not None for micro in window for target in micro.targets[key]) for key in experts]
        answer, *clips = self.ranks.sum(torch.tensor(counts, dtype=torch.int64, device=self.accelerator.device)).tolist()
        return Totals(answer_tokens=answer, clips=dict(zip(experts, clips, strict=True)))

    def _forward_backward(
        self, micro: _MicroBatch, weights: StageWeights, totals: Totals, step: int, micro_step: int, *, last: bool
    ) -> Tensor:
        """Run one forward and backward; return the sums of the answer loss and of each expert's loss `[1 + experts]`."""
        torch.manual_seed(_dropout_seed(self.trial.seed, step, micro_step, self.accelerator.process_index))
        with nullcontext() if last else self.accelerator.no_sync(self.model):
            out = self.model(
                batch=micro.batch, audio=micro.audio, targets=micro.targets, weights=weights, totals=totals,
                bottleneck=self._has_bottleneck(step),
            )  # fmt: skip
            if micro_step == 0 and step % MEASURE_EVERY == FIRST_MEASURE and self.targets.experts:
                self.share.measure(out)
            # DDP averages gradients over ranks, but the totals already count all ranks.
            self.accelerator.backward(out.loss * (int(micro.counted) if self.sharded else self.order.world))
        parts = [out.answer_sum, *(out.experts[key] for key in self.targets.experts)]
        return torch.stack([part.detach().double() for part in parts]) * micro.counted

    def _has_bottleneck(self, step: int) -> bool:
        """Return whether a step has a bottleneck: a draw that depends on the seed and the step only."""
        probability = bottleneck_probability(self.trial.training, step)
        if not probability:
            return False
        return float(torch.rand((), generator=make_generator("bottleneck", self.trial.seed, step))) < probability

    def _explain_out_of_memory(self, micro: _MicroBatch) -> AbstractContextManager[None]:
        def explain(budget: int) -> OutOfMemoryError:
            return self.explain_memory(self.thinking, micro.batch, micro.audio, self.trial.training, budget)

        return explain_out_of_memory(self.accelerator.device, explain)

    def _losses(self, sums: Tensor, weights: StageWeights, totals: Totals) -> dict[str, float]:
        """Return the losses of the accumulation window over all ranks, by name."""
        answer, *experts = self.ranks.sum(sums).tolist()
        losses = {"answer": answer / max(totals.answer_tokens, 1)}
        losses |= {key: value / max(totals.clips[key], 1) for key, value in zip(self.targets.experts, experts, strict=True)}
        distill = sum(self.trial.losses.expert_weights.get(key, 1.0) * losses[key] for key in self.targets.experts)
        total = weights.answer * losses["answer"] + weights.distill * weights.distill_scale * distill
        return {"loss": total, **{f"loss/{key}": value for key, value in losses.items()}}

    def _stopping(self) -> bool:
        """Return whether `stop` is True on any rank, so that all ranks end after the same step."""
        return bool(self.ranks.sum(torch.tensor(int(self.stop()), device=self.accelerator.device)))

    def _scale_may_overflow(self) -> bool:
        """Return whether a gradient may overflow because the float16 gradient scaler is still lowering its scale (it skips such a step)."""
        scaler = self.accelerator.scaler
        return scaler is not None and scaler.get_scale() > 1.0

    @staticmethod
    def _check_finite(values: Mapping[str, float], step: int, stage: Stage, losses: Mapping[str, float]) -> None:
        bad = [name for name, value in values.items() if not math.isfinite(value)]
        if bad:
            raise NonFiniteError(
                f"{', '.join(bad)} not finite in step {step + 1}, stage {stage}; no optimizer step was taken",
                field=bad[0],
                value=dict(losses),
                next_step="lower training.learning_rate, or check features and audio; the last checkpoint is valid",
            )

    def _save(self, step: int) -> None:
        if self.accelerator.is_main_process:
            scaler = self.accelerator.scaler
            self.checkpoints.save(
                Checkpoint(
                    fingerprint=self.checkpoints.fingerprint,
                    world=self.order.world,
                    step=step,
                    parameters=self.thinking.trainable_state(),
                    optimizer=self.optimizer.state_dict(),
                    scaler=scaler.state_dict() if scaler else {},
                    rng=random_state(),
                    distill_scale=self.share.scale,
                )
            )
        self.accelerator.wait_for_everyone()

    def _resume(self) -> int:
        """Load the newest checkpoint of rank 0 and return the number of steps already taken."""
        checkpoint = self.ranks.first(self.checkpoints.load_latest() if self.accelerator.is_main_process else None)
        if checkpoint is None:
            self.history.truncate(0)
            return 0
        if checkpoint.world != self.order.world:
            raise TrainingError(
                "the checkpoint was written by a different number of processes",
                field=str(self.checkpoints.folder),
                value=checkpoint.world,
                allowed=str(self.order.world),
                next_step="resume with that number of processes, or remove the folder to train from the start",
            )
        self.thinking.load_trainable_state(checkpoint.parameters)
        self.optimizer.load_state_dict(checkpoint.optimizer)
        if self.accelerator.scaler and checkpoint.scaler:
            self.accelerator.scaler.load_state_dict(checkpoint.scaler)
        restore_random_state(checkpoint.rng)
        self.share.scale = checkpoint.distill_scale
        self.history.truncate(checkpoint.step)
        return checkpoint.step


def _out_of_memory(
    model: ThinkingModel, batch: Batch, audio: Sequence[Tensor], training: TrainingSettings, budget: int
) -> OutOfMemoryError:
    return OutOfMemoryError(
        "a training step ran out of the device's memory",
        field="training.batch_seconds",
        value=f"{len(audio)} clips in one forward",
        allowed=f"{budget / 1e9:.1f} GB on this device",
        next_step="lower training.batch_seconds, or set training.gradient_checkpointing: true",
    )


def _optimizer(model: ThinkingModel, settings: TrainingSettings) -> torch.optim.AdamW:
    """Return AdamW with a parameter group for each trainable part of the model."""
    # Weight decay would move the trainable tokens away from the base's embeddings, towards zero.
    return torch.optim.AdamW(
        [
            {"params": members, "name": part, "weight_decay": 0.0 if part == "rows" else settings.weight_decay}
            for part, members in model.parameter_groups().items()
        ],
        lr=settings.learning_rate,
    )


def _dropout_seed(seed: int, step: int, micro_step: int, rank: int) -> int:
    digest = hashlib.sha256(repr(("dropout", seed, step, micro_step, rank)).encode()).digest()
    return int.from_bytes(digest[:8], "little") & (2**63 - 1)
