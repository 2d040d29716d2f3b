"""The answer loss on validation examples while a model is trained."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from accelerate import Accelerator
from torch import Tensor

from coat_core.backbones.base import Batch
from coat_core.settings import TrainingSettings
from coat_core.thinking.model import ThinkingModel
from coat_core.thinking.warm_start import answer_loss_per_token
from coat_core.training.batches import cut_by_seconds, draw_batches
from coat_core.training.dataset import TrainingDataset
from coat_core.training.schedule import Schedule

KEY = "validation/answer"
"""Name of the loss in the history."""


class Validation:
    """Measures the answer loss on a fixed sample, without dropout. It changes no weight and draws no random number of the training.

    Args:
        dataset: the labelled validation examples, with the answers that the arm is trained for.
        settings: the training section.
        accelerator: device and precision of the training.
    """

    def __init__(self, dataset: TrainingDataset, settings: TrainingSettings, accelerator: Accelerator) -> None:
        self._dataset, self._settings, self._accelerator = dataset, settings, accelerator
        self._steps = Schedule(settings).total_steps
        durations_s = [example.duration_s for example in dataset.examples]
        drawn = draw_batches("validation", durations_s, settings.validation_items, settings.batch_size)
        self._parts = [part for batch in drawn for part in cut_by_seconds(batch, durations_s, settings.batch_seconds)]

    def measure(self, model: ThinkingModel, step: int) -> dict[str, float]:
        """Return the loss per answer token (nats) after a step (1 = first) by name; empty if the step is none to measure.

        It is measured every `validate_every` steps and after the last one, if that is not 0 and there are validation examples. Every
        process measures the whole sample: a sharded base needs the forwards of all of them.
        """
        every = self._settings.validate_every
        if not every or not self._parts or (step % every and step != self._steps):
            return {}
        with torch.no_grad(), self._accelerator.autocast():
            loss = answer_loss_per_token(model, self._batches())
        return {} if loss is None else {KEY: loss}

    def _batches(self) -> Iterator[tuple[Batch, Sequence[Tensor]]]:
        device = self._accelerator.device
        for part in self._parts:
            yield self._dataset.batch(part, device), self._dataset.audio(part, device)
