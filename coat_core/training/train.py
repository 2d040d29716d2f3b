"""The training stage: from params, examples and expert stores to a release and the records of its run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs
from torch import nn

from coat_core.backbones.base import Backbone
from coat_core.backbones.catalogue import load_backbone
from coat_core.corpus.examples import Example, of_split
from coat_core.device import check_device
from coat_core.errors import ExpertError, Interrupted, TrainingError
from coat_core.experts.store.store import ExpertStore
from coat_core.settings import Arm, BackboneSettings, Settings, parse_trial
from coat_core.storage import copy_tree, read_json, sha256_json, sha256_tree, write_json, write_text
from coat_core.thinking.block import ThinkingBlock
from coat_core.thinking.heads import build_heads
from coat_core.thinking.info import BaseInfo, ReleaseInfo
from coat_core.thinking.model import ThinkingModel
from coat_core.thinking.release import write_release
from coat_core.training.batches import BatchOrder, derangement, example_length
from coat_core.training.checkpoint import CheckpointFolder
from coat_core.training.dataset import Questions
from coat_core.training.environment import fixed_compute, progress_bar, stop_on_signals
from coat_core.training.history import History
from coat_core.training.schedule import DISTILLED, Schedule
from coat_core.training.targets import Targets
from coat_core.training.tower_cache import TowerCache
from coat_core.training.tracker import NullTracker, Status, Tracker
from coat_core.training.trainer import Trainer, Trial

RELEASE, RUN, HISTORY, CHECKPOINTS, FINISHED = "release", "run.json", "history.jsonl", "checkpoints", "finished.json"
"""Names within the scratch folder; the marker `finished.json` is written last."""

_SHARDED = ("FSDP", "DEEPSPEED", "MEGATRON_LM")
_TRACKED_SECTIONS = ("runtime", "thinking", "heads", "losses", "lora", "training")

Param = str | int | float | bool | None


@dataclass(frozen=True)
class _Run:
    """One training and where its state lives."""

    settings: Settings
    key: str
    arm: Arm
    seed: int
    scratch: Path
    fingerprint: str

    @property
    def base(self) -> BackboneSettings:
        return self.settings.backbones[self.key]  # type: ignore[index]

    @property
    def name(self) -> str:
        return f"{self.key}-{self.arm}-{self.seed}"


def train(
    settings: Settings, backbone_key: str, trial: str, *, examples: Sequence[Example], corpus: Path, features: Mapping[str, Path],
    target: Path, records: Path, scratch: Path, fingerprint: str, tracker: Tracker,
) -> None:  # fmt: skip
    """Train one arm on one backbone and publish its release; the same call again resumes, or publishes what is finished.

    Args:
        settings: all of params.
        backbone_key: which LALM.
        trial: `<arm>-<seed>`; arm `base` publishes the untouched model.
        examples: the accepted manifest; its training split is read.
        corpus: folder that audio paths are relative to.
        features: expert key → store; arms without heads read none.
        target: the release folder, published whole.
        records: folder for `run.json` and `history.jsonl`.
        scratch: resume state and the finished release; never published.
        fingerprint: the stage key.
        tracker: where the run is recorded.

    Raises:
        ExpertError: a store is missing, lacks a training clip or holds a frame that is not finite.
        NonFiniteError: a loss or gradient is not finite.
        Interrupted: the run was asked to stop (SIGINT, SIGTERM); a checkpoint was written.
        CoatError: anything else that a user can mend.
    """
    arm, seed = parse_trial(trial)
    if backbone_key not in settings.backbones:
        raise TrainingError("no such backbone in params", field="backbone", value=backbone_key, allowed=sorted(settings.backbones))
    run = _Run(settings, backbone_key, arm, seed, scratch, fingerprint)
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
    run: _Run, examples: Sequence[Example], corpus: Path, features: Mapping[str, Path], accelerator: Accelerator, tracker: Tracker
) -> None:
    training = of_split(examples, "train")
    clips = [example.sha256 for example in training]
    stores = _open_stores(run.settings, features) if run.arm in DISTILLED else {}
    targets = Targets(stores, derangement(clips, run.seed) if run.arm == "coat_shuffled" else {})
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


def _build(run: _Run, stores: Mapping[str, ExpertStore], device: str) -> tuple[Backbone, ThinkingModel | None]:
    """Load the base and put in what the arm has."""
    settings = run.settings
    base = run.base
    backbone = load_backbone(
        run.key, base.base, revision=base.revision, allow_moving_revision=base.allow_moving_revision, dtype=base.dtype, device=device,
        attention=base.attention, long_audio=base.long_audio,
    )  # fmt: skip
    if run.arm == "base":
        return backbone, None
    block = None if run.arm == "sft" else ThinkingBlock.install(backbone, settings.thinking, run.seed)
    normalisers = {key: (torch.from_numpy(store.normaliser.mean), torch.from_numpy(store.normaliser.std)) for key, store in stores.items()}
    specs = {key: store.spec for key, store in stores.items()}
    heads = build_heads(specs, normalisers, backbone.hidden_size, settings.heads, run.seed) if stores else nn.ModuleDict()
    if settings.training.gradient_checkpointing:
        backbone.model.activation_checkpointing_enable({"use_reentrant": False})  # type: ignore[operator]
    return backbone, ThinkingModel(backbone, block, heads, settings.lora, settings.losses, run.seed)


def _run_trainer(
    run: _Run, model: ThinkingModel, examples: Sequence[Example], corpus: Path, targets: Targets, accelerator: Accelerator, tracker: Tracker
) -> None:
    own = run.settings.training
    order = BatchOrder(
        lengths=tuple(map(example_length, examples)), batch_size=own.batch_size, accumulation=own.accumulation,
        world=accelerator.num_processes, length_groups=own.length_groups, seed=run.seed,
    )  # fmt: skip
    questions = Questions(model.backbone, examples, corpus, TowerCache(model.backbone, own.tower_cache_mb))
    main = accelerator.is_main_process
    with stop_on_signals() as stop, progress_bar(run.name, Schedule(own).total_steps, shown=main) as show:
        Trainer(
            model, Trial(run.arm, run.seed, own, run.settings.losses), questions, order, targets, accelerator,
            CheckpointFolder(run.scratch / CHECKPOINTS, run.fingerprint), History(run.scratch / HISTORY if main else None, tracker),
            stop=stop, progress=show,
        ).run()  # fmt: skip


def _finish(run: _Run, backbone: Backbone, model: ThinkingModel | None, stores: Mapping[str, ExpertStore], tracker: Tracker) -> None:
    """Write the release into scratch, record it, and only then the marker that says it is whole."""
    trained = model is not None
    info = ReleaseInfo(
        backbone=run.key, arm=run.arm, seed=run.seed, fingerprint=run.fingerprint,
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


def _is_finished(run: _Run) -> bool:
    path = run.scratch / FINISHED
    return path.is_file() and read_json(path) == {"fingerprint": run.fingerprint}


def _open_stores(settings: Settings, features: Mapping[str, Path]) -> dict[str, ExpertStore]:
    """Open the stores of the experts that have a weight; one with the weight 0 is left out: no store is read, no head is built."""
    weights = settings.losses.expert_weights
    wanted = sorted(key for key in settings.experts if weights.get(key, 1.0) > 0)
    if not wanted:
        raise TrainingError("every expert has the weight 0", field="losses.expert_weights", value=dict(weights),
                            next_step="give one a weight, or train arm block, which distils nothing")  # fmt: skip
    missing = sorted(set(wanted) - set(features))
    if missing:
        raise ExpertError(
            "the arm distils from experts whose features were not given", field="features", value=missing,
            next_step="run stage " + ", ".join(f"features@{key}" for key in missing),
        )  # fmt: skip
    return {key: ExpertStore.open(features[key]) for key in wanted}


def _accelerator(settings: Settings) -> Accelerator:
    """Return the accelerator; frozen buffers are equal on all ranks, so DDP need not send them, and the loop accumulates itself.

    Raises:
        TrainingError: the launcher asks for sharded parameters.
        DeviceError: this host has no such device; accelerate would compute on the processor and say nothing.
    """
    check_device(settings.runtime.device, "runtime.device")
    accelerator = Accelerator(
        cpu=settings.runtime.device == "cpu", mixed_precision=settings.training.precision, gradient_accumulation_steps=1,
        kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)],
    )  # fmt: skip
    if accelerator.distributed_type.value in _SHARDED:
        # The tower runs outside the wrapper's forward, and checkpoints read whole tensors: both would need gathering.
        raise TrainingError(
            "sharded parameters are not supported", field="distributed_type", value=accelerator.distributed_type.value,
            allowed="one process, or DDP", next_step="launch with DDP: LoRA keeps gradients and optimizer state small",
        )  # fmt: skip
    return accelerator


def _params(run: _Run) -> dict[str, Param]:
    """Return the parameters that a tracker may see: an allow-list of sections, flat, with dots."""
    base = run.base
    flat: dict[str, Param] = {"backbone": run.key, "arm": run.arm, "seed": run.seed}
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
def _tracked(run: _Run, tracker: Tracker, *, main: bool) -> Iterator[None]:
    """Open the run, or the one that an earlier try of this stage began, and close it with how it ended."""
    path = run.scratch / RUN
    before = read_json(path).get("run_id") if path.is_file() else None
    tags = {"backbone": run.key, "arm": run.arm, "seed": str(run.seed), "fingerprint": run.fingerprint}
    tracker.start(run.name, tags=tags, run_id=before)
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
