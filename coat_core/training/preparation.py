"""What happens between the construction of a model and its first step: constants of the heads, start of the trainable tokens.

Both are functions of the seed and the data, so a resumed run has the same. The start costs forwards of the base and is stored in the
scratch folder.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from accelerate import Accelerator
from safetensors.torch import load, save
from torch import Tensor

from coat_core.seeding import make_generator
from coat_core.storage import read_json, write_bytes, write_json
from coat_core.thinking.constants import fit_constants
from coat_core.thinking.losses import Target
from coat_core.thinking.model import ThinkingModel
from coat_core.thinking.start import Start, measure_starts
from coat_core.thinking.warm_start import warm_start
from coat_core.training.batches import draw_batches
from coat_core.training.build import TrainingData, TrainingRun
from coat_core.training.dataset import TrainingDataset
from coat_core.training.ranks import Ranks
from coat_core.training.targets import Targets

START, TOKENS = "start.json", "start.safetensors"
"""Names in the scratch folder; the record is written last."""
CONSTANT_CLIPS = 256
"""Training clips from which the constant predictors are computed."""
_WARM_START_RATE = 0.05
"""Learning rate of the warm start, relative to the root mean square of the trainable tokens."""


def prepare(
    run: TrainingRun, model: ThinkingModel, data: TrainingData, dataset: TrainingDataset, targets: Targets, accelerator: Accelerator
) -> Start | None:
    """Fit the constants of the heads and set the trainable tokens to their start; return the start, or None without a block.

    Args:
        run: the run.
        model: the new model.
        data: the training examples.
        dataset: dataset of these examples.
        targets: each clip's own targets, for every arm, so that the heads of all arms have the same constants.
        accelerator: its main process writes the start.
    """
    if len(model.heads):
        clips = sorted({example.sha256: example for example in data.examples}.values(), key=lambda example: example.sha256)
        order = torch.randperm(len(clips), generator=make_generator("constants", 0)).tolist()
        chosen = [clips[index] for index in order[:CONSTANT_CLIPS]]
        rows = targets.batch([example.sha256 for example in chosen], torch.device("cpu"))
        durations = [example.duration_s for example in chosen]
        fit_constants(model.heads, {key: list(_valid(found, durations)) for key, found in rows.items()}, run.settings.losses)
    if model.block is None:
        return None
    stored = Ranks(accelerator).first(_read(run.scratch) if accelerator.is_main_process else None)
    if stored is not None:
        start, tokens = stored
        with torch.no_grad():
            model.trainable_tokens.copy_(tokens)
        return start
    thinking = run.settings.thinking
    durations_s = [example.duration_s for example in data.labelled]
    drawn = draw_batches("start", durations_s, thinking.start_items, run.settings.training.batch_size)
    batches = [(dataset.batch(part, accelerator.device), dataset.audio(part, accelerator.device)) for part in drawn]
    start = measure_starts(model, batches, thinking.start, seed=run.seed)
    if thinking.warm_start_steps:
        rate = _WARM_START_RATE * root_mean_square(model)
        start = replace(start, warm_start=warm_start(model, batches, thinking.warm_start_steps, rate))
    if accelerator.is_main_process:
        _write(run.scratch, model, start)
        print(f"{run.name}: {start.summary()}", flush=True)
    return start


def root_mean_square(model: ThinkingModel) -> float:
    """Return the root mean square of the trainable tokens, before training."""
    return float(model.trainable_tokens.detach().float().square().mean().sqrt())


def _valid(rows: Sequence[Target | None], durations_s: Sequence[float]) -> Iterator[tuple[Tensor, Tensor, float]]:
    for row, duration in zip(rows, durations_s, strict=True):
        if row is not None:
            yield (*row, duration)


def _write(scratch: Path, model: ThinkingModel, start: Start) -> None:
    write_bytes(scratch / TOKENS, save({"trainable_tokens": model.trainable_tokens.detach().cpu().contiguous()}))
    write_json(scratch / START, start.to_json())


def _read(scratch: Path) -> tuple[Start, Tensor] | None:
    """Return the stored start and the trainable tokens, or None."""
    if not (scratch / START).is_file():
        return None
    return Start.from_json(read_json(scratch / START)), load((scratch / TOKENS).read_bytes())["trainable_tokens"]
