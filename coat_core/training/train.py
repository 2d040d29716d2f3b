"""The training stage: trains one arm on one backbone and publishes the release and the records of its run."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, parse_flag_from_env

from coat_core import device
from coat_core.audio_store.store import AudioStore
from coat_core.backbones.base import Backbone
from coat_core.corpus.examples import Example, select_split
from coat_core.description import described_answers
from coat_core.device import check_device
from coat_core.errors import DeviceError, Interrupted, TrainingError
from coat_core.experts.store.store import ExpertStore
from coat_core.progress import ProgressBar
from coat_core.settings import RuntimeSettings, Settings, parse_trial
from coat_core.storage import copy_tree, read_json, sha256_json, sha256_tree, write_json, write_text
from coat_core.thinking.info import BaseInfo, ReleaseInfo
from coat_core.thinking.model import ThinkingModel
from coat_core.thinking.release import write_release
from coat_core.thinking.sharding import shard_base
from coat_core.thinking.start import Start
from coat_core.training.batches import derangement
from coat_core.training.build import TrainingData, TrainingRun, build, open_stores
from coat_core.training.checkpoint import CheckpointFolder
from coat_core.training.dataset import AudioEmbeddingCache, TrainingDataset
from coat_core.training.preparation import prepare, root_mean_square
from coat_core.training.ranks import Ranks
from coat_core.training.schedule import Schedule
from coat_core.training.targets import Targets
from coat_core.training.tracker import History, NullTracker, Status, Tracker
from coat_core.training.trainer import ExplainMemory, Trainer, Trial
from coat_core.training.validation import Validation

RELEASE, RUN, HISTORY, CHECKPOINTS, FINISHED = "release", "run.json", "history.jsonl", "checkpoints", "finished.json"
"""Names in the scratch folder; the marker `finished.json` is written last."""

MIXED_PRECISION = {"float32": "no", "bfloat16": "bf16", "float16": "fp16"}
"""accelerate's names of the values of `training.precision`."""
_SHARDING_VARIABLES = tuple(f"ACCELERATE_USE_{name}" for name in ("FSDP", "DEEPSPEED", "MEGATRON_LM", "PARALLELISM_CONFIG"))
"""Variables by which `accelerate launch` requests that accelerate shards the model."""
_TRACKED_SECTIONS = ("runtime", "thinking", "heads", "losses", "lora", "training")

Param = str | int | float | bool | None


def train(
    settings: Settings, backbone_key: str, trial: str, *, examples: Sequence[Example], corpus: Path, features: Mapping[str, Path],
    target: Path, records: Path, scratch: Path, fingerprint: str, tracker: Tracker,
    explain_memory: ExplainMemory | None = None, audio: Path | None = None,
) -> None:  # fmt: skip
    """Train one arm on one backbone and publish its release; a repeated call resumes, or publishes a finished run again.

    Args:
        settings: all of params.
        backbone_key: key of the LALM.
        trial: `<arm>-<seed>`; arm `base` publishes the untouched model.
        examples: the accepted manifest; its training split is used, and validation examples to measure the loss.
        corpus: folder that audio paths are relative to.
        features: expert key → store; not read for arms without heads.
        target: the release folder, replaced atomically.
        records: folder for `run.json` and `history.jsonl`.
        scratch: folder for checkpoints and the finished release; not published.
        fingerprint: the stage key.
        tracker: tracker that records the run.
        explain_memory: returns the error of a training step that runs out of memory; None: the error recommends no value.
        audio: audio store of the backbone; None: the audio tower runs once a clip.

    Raises:
        AudioStoreError: the audio store is of another base, or lacks a training clip.
        ExpertError: a store is missing, has no features of a training clip, or has a frame that is not finite.
        NonFiniteError: a loss or gradient is not finite.
        Interrupted: the process received SIGINT or SIGTERM; a checkpoint was written.
        CoatError: another error that a user can fix.
    """
    arm, seed = parse_trial(trial)
    if backbone_key not in settings.backbones:
        raise TrainingError("no such backbone in params", field="backbone", value=backbone_key, allowed=sorted(settings.backbones))
    run = TrainingRun(settings, backbone_key, arm, seed, scratch, fingerprint, explain_memory)
    scratch.mkdir(parents=True, exist_ok=True)
    accelerator = _accelerator(settings)
    if accelerator.num_processes != settings.training.processes:
        raise TrainingError(
            "the number of processes is part of the params, because the weights depend on it", field="training.processes",
            value=settings.training.processes, allowed=f"the processes of this launch: {accelerator.num_processes}",
            next_step="set it, and run `coat train` or `coat run`, which start the processes themselves",
        )  # fmt: skip
    ranks = Ranks(accelerator)
    _check_same_key(ranks.all(fingerprint))
    if not ranks.first(_is_finished(run)):
        with fixed_compute(settings.runtime):
            _train(run, examples, corpus, features, audio, accelerator, tracker if accelerator.is_main_process else NullTracker())
    if accelerator.is_main_process:
        copy_tree(scratch / RELEASE, target)
        for name in (RUN, HISTORY):
            copy_tree(scratch / name, records / name)
    accelerator.wait_for_everyone()


def _train(
    run: TrainingRun, examples: Sequence[Example], corpus: Path, features: Mapping[str, Path], audio: Path | None,
    accelerator: Accelerator, tracker: Tracker,
) -> None:  # fmt: skip
    data = TrainingData.of(examples, run)
    clips = [example.sha256 for example in data.examples]
    stores = open_stores(run.settings, features) if run.arm.heads or run.arm.described else {}
    own_targets = Targets(stores)
    own_targets.check(clips)
    targets = Targets(stores if run.arm.heads else {}, derangement(clips, run.seed) if run.arm.shuffled_targets else {})
    inputs = {"examples": sha256_json([example.to_row() for example in examples])}
    inputs |= {f"features/{key}": sha256_tree(features[key]) for key in stores}
    with _tracked(run, tracker, main=accelerator.is_main_process):
        tracker.log_params(_params(run))
        tracker.log_inputs(inputs)
        sharded = run.settings.training.strategy == "fsdp"
        # The device of a process need not have room for the whole base.
        backbone, model = build(run, stores if run.arm.heads else {}, "cpu" if sharded else str(accelerator.device))
        start: Start | None = None
        if model is not None:
            answers = described_answers(stores, data.labelled) if run.arm.described else None
            store = AudioStore.open(audio, backbone) if audio is not None else None
            if sharded:
                shard_base(model, accelerator.device, accelerator.num_processes, tower=store is None)
            cache = AudioEmbeddingCache(backbone, run.settings.training.tower_cache_mb, store)
            dataset = TrainingDataset(backbone, data.examples, corpus, cache, answers)
            start = prepare(run, model, data, dataset, own_targets, accelerator)
            held_out = [example for example in select_split(examples, "validation") if example.labelled]
            described = described_answers(stores, held_out) if run.arm.described else None
            validation = Validation(TrainingDataset(backbone, held_out, corpus, cache, described), run.settings.training, accelerator)
            _run_trainer(run, model, data, dataset, targets, accelerator, tracker, validation)
        if accelerator.is_main_process:
            _finish(run, backbone, model, stores if run.arm.heads else {}, tracker, start)
    accelerator.wait_for_everyone()


def _run_trainer(
    run: TrainingRun, model: ThinkingModel, data: TrainingData, dataset: TrainingDataset, targets: Targets, accelerator: Accelerator,
    tracker: Tracker, validation: Validation,
) -> None:  # fmt: skip
    settings = run.settings.training
    main = accelerator.is_main_process
    # Before the trainer loads a checkpoint, the trainable tokens are at their start.
    relative = settings.rows_learning_rate_unit == "relative" and model.block is not None
    with _stop_on_signals() as stop, _progress_bar(run.name, Schedule(settings).total_steps, shown=main) as show:
        Trainer(
            model, Trial(run.arm, run.seed, settings, run.settings.losses), dataset, data.order(settings, accelerator.num_processes),
            targets, accelerator, CheckpointFolder(run.scratch / CHECKPOINTS, run.fingerprint),
            History(run.scratch / HISTORY if main else None, tracker), stop=stop, progress=show, explain_memory=run.explain_memory,
            validation=validation, rows_scale=root_mean_square(model) if relative else 1.0,
        ).run()  # fmt: skip


def _finish(
    run: TrainingRun,
    backbone: Backbone,
    model: ThinkingModel | None,
    stores: Mapping[str, ExpertStore],
    tracker: Tracker,
    start: Start | None,
) -> None:
    """Write the release into scratch, record it, then write the marker of a finished run."""
    trained = model is not None
    info = ReleaseInfo(
        backbone=run.key, arm=run.arm.name, seed=run.seed, fingerprint=run.fingerprint,
        base=BaseInfo(
            run.base.base, run.base.revision, run.base.licence, run.base.allow_moving_revision, run.base.dtype, run.base.long_audio
        ),
        block=model.block if model is not None else None, experts={key: store.spec for key, store in stores.items()},
        heads=run.settings.heads if stores else None, lora=run.settings.lora if trained else None,
        losses=run.settings.losses if trained else None,
        start=start.to_json() if start is not None else None,
        audio_read_layer=model.read_layer if model is not None and model.block is None and stores else None,
    )  # fmt: skip
    write_release(run.scratch / RELEASE, info, backbone, model)
    if not trained:
        write_text(run.scratch / HISTORY, "")
    tracker.log_release(run.scratch / RELEASE)
    write_json(run.scratch / FINISHED, {"fingerprint": run.fingerprint})


def _check_same_key(keys: Sequence[str]) -> None:
    """Refuse processes with different stage keys.

    Raises:
        TrainingError: the processes have different params, inputs or code.
    """
    if len(set(keys)) > 1:
        raise TrainingError(
            "the processes of this training have different params, inputs or code", field="stage key", value=[key[:12] for key in keys],
            allowed="one key", next_step="on every host, check out one commit, use one params.yaml, and run coat pull",
        )  # fmt: skip


def _is_finished(run: TrainingRun) -> bool:
    path = run.scratch / FINISHED
    return path.is_file() and read_json(path) == {"fingerprint": run.fingerprint}


def _accelerator(settings: Settings) -> Accelerator:
    """Return the accelerator. DDP does not broadcast buffers, which are frozen, and the training loop accumulates gradients.

    Raises:
        TrainingError: the launcher requests that accelerate shards parameters.
        DeviceError: this host has no such device (accelerate alone would use the CPU without a warning), or not one for each process.
    """
    check_device(settings.runtime.device, "runtime.device")
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if settings.runtime.device == "cuda" and processes > torch.cuda.device_count():
        raise DeviceError(
            "this host has fewer GPUs than the training has processes here", field="training.processes", value=processes,
            allowed=f"{torch.cuda.device_count()} on this host",
            next_step="lower it, or start the training on several hosts (docs/production.md, Several GPUs, several training hosts)",
        )  # fmt: skip
    # Here, and not by its distributed type: on a CPU, accelerate ignores the request without a warning.
    requested = [name for name in _SHARDING_VARIABLES if parse_flag_from_env(name)]
    if requested:
        raise TrainingError(
            "accelerate's own sharding is not supported: checkpoints and releases read whole tensors", field="environment",
            value=", ".join(requested), allowed="a launch without it",
            next_step="set training.strategy: fsdp, which shards the base, and launch without accelerate's FSDP, DeepSpeed or Megatron",
        )  # fmt: skip
    return Accelerator(
        cpu=settings.runtime.device == "cpu", mixed_precision=MIXED_PRECISION[settings.training.precision], gradient_accumulation_steps=1,
        kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)],
    )  # fmt: skip


def _params(run: TrainingRun) -> dict[str, Param]:
    """Return the parameters to track, by dotted name: those of the sections in `_TRACKED_SECTIONS`."""
    base = run.base
    flat: dict[str, Param] = {"backbone": run.key, "arm": run.arm.name, "seed": run.seed}
    flat |= {"base": base.base, "revision": base.revision, "dtype": base.dtype}
    for name in _TRACKED_SECTIONS:
        section: dict[str, Any] = getattr(run.settings, name).model_dump(mode="json")
        for field, value in section.items():
            if isinstance(value, dict):
                flat |= {f"{name}.{field}.{key}": item for key, item in value.items()}
            else:
                flat[f"{name}.{field}"] = ",".join(map(str, value)) if isinstance(value, list) else value
    return flat


@contextmanager
def _tracked(run: TrainingRun, tracker: Tracker, *, main: bool) -> Iterator[None]:
    """Start a tracker run, or continue that of an earlier attempt, and finish it with its status."""
    path = run.scratch / RUN
    run_id = read_json(path).get("run_id") if path.is_file() else None
    tags = {"backbone": run.key, "arm": run.arm.name, "seed": str(run.seed), "fingerprint": run.fingerprint}
    tags["mlflow.note.content"] = f"{run.arm.description} (arm {run.arm.name}, seed {run.seed})"
    tracker.start(run.name, tags=tags, run_id=run_id)
    status: Status = "failed"
    try:
        if main:
            write_json(path, tracker.describe())
        yield
        status = "finished"
    except (Interrupted, KeyboardInterrupt, SystemExit):
        status = "killed"
        raise
    finally:
        tracker.finish(status)


def fixed_compute(runtime: RuntimeSettings) -> AbstractContextManager[None]:
    """Set the number of threads and deterministic kernels within the context; results depend on both."""
    return device.fixed_compute(runtime.device, runtime.threads)


@contextmanager
def _stop_on_signals() -> Iterator[Callable[[], bool]]:
    """Yield a function that returns whether the process has received SIGINT or SIGTERM.

    A second signal has its usual effect. Outside the main thread, where Python cannot set signal handlers, nothing is changed.
    """
    stopped = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stopped.is_set
        return
    usual = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    received: list[int] = []

    def stop(number: int, frame: Any) -> None:
        stopped.set()
        received.append(number)
        signal.signal(number, usual[signal.Signals(number)])

    for number in usual:
        signal.signal(number, stop)
    try:
        yield stopped.is_set
    except Interrupted as error:
        error.exit_status = 128 + received[0] if received else error.exit_status
        raise
    finally:
        for number, handler in usual.items():
            signal.signal(number, handler)


@contextmanager
def _progress_bar(title: str, steps: int, *, shown: bool) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """Yield a function that receives the row of each step and shows stage, loss, rate and remaining time."""
    interval = 0.5 if sys.stderr.isatty() else 10.0
    with ProgressBar(
        desc=title, total=steps, unit="step", file=sys.stderr, recorded=shown, disable=not shown, mininterval=interval, dynamic_ncols=True
    ) as bar:

        def show(row: Mapping[str, Any]) -> None:
            if bar.n == 0 and row["step"] > 1:
                # In a resumed run, only its own steps count for the rate.
                bar.start_at(row["step"] - 1)
            bar.note(loss=row["loss"])
            bar.set_postfix(stage=row["stage"], loss=f"{row['loss']:.3f}", refresh=False)
            bar.update()

        yield show
