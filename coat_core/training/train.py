"""The training stage: trains one arm on one backbone and publishes the release and the records of its run."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.utils.deterministic
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs
from torch import nn

from coat_core.backbones.base import Backbone
from coat_core.backbones.catalogue import load_backbone
from coat_core.corpus.examples import Example, select_split
from coat_core.device import check_device
from coat_core.errors import ExpertError, Interrupted, TrainingError
from coat_core.experts.store.store import ExpertStore
from coat_core.progress import ProgressBar
from coat_core.settings import Arm, BackboneSettings, RuntimeSettings, Settings, parse_trial
from coat_core.storage import copy_tree, read_json, sha256_json, sha256_tree, write_json, write_text
from coat_core.thinking.block import ThinkingBlock
from coat_core.thinking.heads import build_heads
from coat_core.thinking.info import BaseInfo, ReleaseInfo
from coat_core.thinking.model import ThinkingModel
from coat_core.thinking.release import write_release
from coat_core.training.batches import BatchOrder, derangement, example_length
from coat_core.training.checkpoint import CheckpointFolder
from coat_core.training.dataset import AudioEmbeddingCache, TrainingDataset
from coat_core.training.schedule import Schedule
from coat_core.training.targets import Targets
from coat_core.training.tracker import History, NullTracker, Status, Tracker
from coat_core.training.trainer import ExplainMemory, Trainer, Trial

RELEASE, RUN, HISTORY, CHECKPOINTS, FINISHED = "release", "run.json", "history.jsonl", "checkpoints", "finished.json"
"""Names in the scratch folder; the marker `finished.json` is written last."""

MIXED_PRECISION = {"float32": "no", "bfloat16": "bf16", "float16": "fp16"}
"""accelerate's names of the values of `training.precision`."""
_SHARDED = ("FSDP", "DEEPSPEED", "MEGATRON_LM")
_TRACKED_SECTIONS = ("runtime", "thinking", "heads", "losses", "lora", "training")

Param = str | int | float | bool | None


@dataclass(frozen=True)
class _TrainingRun:
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
        return self.settings.backbones[self.key]  # type: ignore[index]

    @property
    def name(self) -> str:
        return f"{self.key}-{self.arm.name}-{self.seed}"


def train(
    settings: Settings, backbone_key: str, trial: str, *, examples: Sequence[Example], corpus: Path, features: Mapping[str, Path],
    target: Path, records: Path, scratch: Path, fingerprint: str, tracker: Tracker,
    explain_memory: ExplainMemory | None = None,
) -> None:  # fmt: skip
    """Train one arm on one backbone and publish its release; a repeated call resumes, or publishes a finished run again.

    Args:
        settings: all of params.
        backbone_key: key of the LALM.
        trial: `<arm>-<seed>`; arm `base` publishes the untouched model.
        examples: the accepted manifest; only its training split is used.
        corpus: folder that audio paths are relative to.
        features: expert key → store; not read for arms without heads.
        target: the release folder, replaced atomically.
        records: folder for `run.json` and `history.jsonl`.
        scratch: folder for checkpoints and the finished release; not published.
        fingerprint: the stage key.
        tracker: tracker that records the run.
        explain_memory: returns the error of a training step that runs out of memory; None: the error recommends no value.

    Raises:
        ExpertError: a store is missing, has no features of a training clip, or has a frame that is not finite.
        NonFiniteError: a loss or gradient is not finite.
        Interrupted: the process received SIGINT or SIGTERM; a checkpoint was written.
        CoatError: another error that a user can fix.
    """
    arm, seed = parse_trial(trial)
    if backbone_key not in settings.backbones:
        raise TrainingError("no such backbone in params", field="backbone", value=backbone_key, allowed=sorted(settings.backbones))
    run = _TrainingRun(settings, backbone_key, arm, seed, scratch, fingerprint, explain_memory)
    scratch.mkdir(parents=True, exist_ok=True)
    accelerator = _accelerator(settings)
    if not _is_finished(run):
        with fixed_compute(settings.runtime):
            _train(run, examples, corpus, features, accelerator, tracker if accelerator.is_main_process else NullTracker())
    if accelerator.is_main_process:
        copy_tree(scratch / RELEASE, target)
        for name in (RUN, HISTORY):
            copy_tree(scratch / name, records / name)
    accelerator.wait_for_everyone()


def _train(
    run: _TrainingRun, examples: Sequence[Example], corpus: Path, features: Mapping[str, Path], accelerator: Accelerator, tracker: Tracker
) -> None:
    training = select_split(examples, "train")
    clips = [example.sha256 for example in training]
    stores = _open_stores(run.settings, features) if run.arm.heads else {}
    targets = Targets(stores, derangement(clips, run.seed) if run.arm.shuffled_targets else {})
    targets.check(clips)
    inputs = {"examples": sha256_json([example.to_row() for example in examples])}
    inputs |= {f"features/{key}": sha256_tree(features[key]) for key in stores}
    with _tracked(run, tracker, main=accelerator.is_main_process):
        tracker.log_params(_params(run))
        tracker.log_inputs(inputs)
        backbone, model = _build(run, stores, str(accelerator.device))
        if model is not None:
            _run_trainer(run, model, training, corpus, targets, accelerator, tracker)
        if accelerator.is_main_process:
            _finish(run, backbone, model, stores, tracker)
    accelerator.wait_for_everyone()


def _build(run: _TrainingRun, stores: Mapping[str, ExpertStore], device: str) -> tuple[Backbone, ThinkingModel | None]:
    """Load the base and add the trainable parts of the arm."""
    settings = run.settings
    base = run.base
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
    return backbone, ThinkingModel(backbone, block, heads, settings.lora, settings.losses, run.seed)


def _run_trainer(
    run: _TrainingRun,
    model: ThinkingModel,
    examples: Sequence[Example],
    corpus: Path,
    targets: Targets,
    accelerator: Accelerator,
    tracker: Tracker,
) -> None:
    settings = run.settings.training
    order = BatchOrder(
        lengths=tuple(map(example_length, examples)), batch_size=settings.batch_size, accumulation=settings.accumulation,
        world=accelerator.num_processes, length_groups=settings.length_groups, seed=run.seed,
    )  # fmt: skip
    dataset = TrainingDataset(model.backbone, examples, corpus, AudioEmbeddingCache(model.backbone, settings.tower_cache_mb))
    main = accelerator.is_main_process
    with _stop_on_signals() as stop, _progress_bar(run.name, Schedule(settings).total_steps, shown=main) as show:
        Trainer(
            model, Trial(run.arm, run.seed, settings, run.settings.losses), dataset, order, targets, accelerator,
            CheckpointFolder(run.scratch / CHECKPOINTS, run.fingerprint), History(run.scratch / HISTORY if main else None, tracker),
            stop=stop, progress=show, explain_memory=run.explain_memory,
        ).run()  # fmt: skip


def _finish(
    run: _TrainingRun, backbone: Backbone, model: ThinkingModel | None, stores: Mapping[str, ExpertStore], tracker: Tracker
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
    )  # fmt: skip
    write_release(run.scratch / RELEASE, info, backbone, model)
    if not trained:
        write_text(run.scratch / HISTORY, "")
    tracker.log_release(run.scratch / RELEASE)
    write_json(run.scratch / FINISHED, {"fingerprint": run.fingerprint})


def _is_finished(run: _TrainingRun) -> bool:
    path = run.scratch / FINISHED
    return path.is_file() and read_json(path) == {"fingerprint": run.fingerprint}


def _open_stores(settings: Settings, features: Mapping[str, Path]) -> dict[str, ExpertStore]:
    """Open the stores of the experts whose weight is not 0; the others have no head."""
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


def _accelerator(settings: Settings) -> Accelerator:
    """Return the accelerator. DDP does not broadcast buffers, which are frozen, and the training loop accumulates gradients.

    Raises:
        TrainingError: the launcher requests sharded parameters.
        DeviceError: this host has no such device (accelerate alone would use the CPU without a warning).
    """
    check_device(settings.runtime.device, "runtime.device")
    accelerator = Accelerator(
        cpu=settings.runtime.device == "cpu", mixed_precision=MIXED_PRECISION[settings.training.precision], gradient_accumulation_steps=1,
        kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)],
    )  # fmt: skip
    if accelerator.distributed_type.value in _SHARDED:
        # The audio tower runs outside the wrapper's forward and checkpoints read complete tensors: both would have to gather shards.
        raise TrainingError(
            "sharded parameters are not supported", field="distributed_type", value=accelerator.distributed_type.value,
            allowed="one process, or DDP", next_step="launch with DDP: LoRA keeps gradients and optimizer state small",
        )  # fmt: skip
    return accelerator


def _params(run: _TrainingRun) -> dict[str, Param]:
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
def _tracked(run: _TrainingRun, tracker: Tracker, *, main: bool) -> Iterator[None]:
    """Start a tracker run, or continue that of an earlier attempt, and finish it with its status."""
    path = run.scratch / RUN
    run_id = read_json(path).get("run_id") if path.is_file() else None
    tags = {"backbone": run.key, "arm": run.arm.name, "seed": str(run.seed), "fingerprint": run.fingerprint}
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


@contextmanager
def fixed_compute(runtime: RuntimeSettings) -> Iterator[None]:
    """Set the number of threads and deterministic kernels within the context; results depend on both."""
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    memory: Any = torch.utils.deterministic
    fill = memory.fill_uninitialized_memory
    # cuBLAS reads this variable at its first use; without it, its results vary from run to run.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.set_num_threads(runtime.threads)
    torch.use_deterministic_algorithms(True, warn_only=runtime.device != "cpu")
    # No code here reads uninitialised memory, and filling it takes time at every operation.
    memory.fill_uninitialized_memory = False
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)
        memory.fill_uninitialized_memory = fill


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
