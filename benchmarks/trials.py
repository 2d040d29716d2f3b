"""One training with changed params, evaluated on the validation split: what `benchmarks.tune` runs in its processes."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from coat_core.errors import SettingsError
from coat_core.pipeline.changes import apply_changes, parse_changes
from coat_core.settings import Settings, parse_settings, read_values
from coat_core.storage import read_json, sha256_file, sha256_json, sha256_tree, write_json, write_jsonl

ROOT = Path(__file__).resolve().parent.parent
RATES = ("training.learning_rate", "training.rows_learning_rate", "training.heads_learning_rate")
SECTIONS = ("runtime", "thinking", "heads", "losses", "lora", "training", "evaluation")
"""The sections that a trial depends on; the others, apart from its backbone and the experts, do not change its result."""
FIXED = ("corpus", "contract")
"""Sections that the workspace's stages have already used."""
CACHE_MB = 2048
ROW, SCORES, LOSSES = "row.json", "scores.jsonl", "losses.jsonl"


@dataclass(frozen=True)
class Trial:
    """An arm with changed params.

    Attributes:
        label: name in tables.
        arm: the arm.
        changes: dotted name → value; `rate` sets all three learning rates.
    """

    label: str
    arm: str
    changes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Task:
    """A trial on one backbone with one seed.

    Attributes:
        trial: arm and changes.
        workspace: folder with params.yaml, data, features and bases.
        manifest: the accepted manifest.
        backbone: key of the LALM.
        seed: the seed.
    """

    trial: Trial
    workspace: Path
    manifest: Path
    backbone: str
    seed: int

    def settings(self) -> Settings:
        """Return the workspace's params with the trial's changes.

        Raises:
            SettingsError: a change is invalid, or of a section that the workspace's stages have already used.
        """
        values = changed(read_values(self.workspace / "params.yaml"), self.trial.changes)
        return parse_settings(values, f"params with the changes of {self.trial.label}")

    def key(self) -> str:
        """Return the hash of everything that the result depends on, except the code."""
        settings = self.settings()
        values = settings.model_dump(mode="json", include={*SECTIONS, "experts"})
        base = settings.backbones[self.backbone].model_dump(mode="json")  # type: ignore[index]
        return sha256_json([values, base, self.trial.arm, self.backbone, self.seed, sha256_file(self.manifest)])[:20]

    def folder(self) -> Path:
        """Return the folder of the results of this task."""
        return self.workspace / ".scratch/tuning" / self.key()


def parse_trial(words: Sequence[str]) -> Trial:
    """Return the trial of `ARM [label=TEXT] [KEY=VALUE …]`; values are YAML 1.2, e.g. `losses.expert_weights={events: 3}`.

    Raises:
        SettingsError: there is no such arm, or a word has another form.
    """
    from coat_core.settings import find_arm

    arm, *rest = words
    try:
        find_arm(arm)
    except ValueError as error:
        raise SettingsError(str(error), field="--trial") from None
    labels = [word.removeprefix("label=") for word in rest if word.startswith("label=")]
    rest = [word for word in rest if not word.startswith("label=")]
    return Trial(labels[-1] if labels else " ".join([arm, *rest]), arm, parse_changes(rest))


def with_changes(trial: Trial, changes: Mapping[str, Any]) -> Trial:
    """Return the trial with more changes; its own have precedence."""
    return replace(trial, changes={**changes, **trial.changes})


def changed(values: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a params file with changes by dotted name; a missing section is added."""
    for name in changes:
        if name.split(".")[0] in FIXED:
            raise SettingsError(
                "this section was used when the workspace's corpus was made", field=name, next_step="change it in another workspace"
            )
    spread = {key: value for name, value in changes.items() for key in (RATES if name == "rate" else [name])}
    return dict(apply_changes(values, spread))


def run_task(task: Task) -> dict[str, Any]:
    """Train and evaluate, or return the row of an earlier run; an interrupted training continues at its checkpoint."""
    folder = task.folder()
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder / "lock"):
        if not (folder / ROW).is_file():
            # The base of a release is relative to the workspace.
            os.chdir(task.workspace)
            write_json(folder / ROW, _run(task, folder))
            shutil.rmtree(folder / "scratch", ignore_errors=True)
        return {**read_json(folder / ROW), "label": task.trial.label}


def _run(task: Task, folder: Path) -> dict[str, Any]:
    import transformers

    from coat_core.audio_store.store import AudioStore
    from coat_core.corpus.examples import read_manifest
    from coat_core.device import fixed_compute
    from coat_core.evaluation.answer_losses import answer_losses, loss_per_token
    from coat_core.evaluation.generate import answer_release
    from coat_core.evaluation.metrics import score_trial
    from coat_core.evaluation.selection import select
    from coat_core.settings import ARMS
    from coat_core.thinking.release import load_release
    from coat_core.training.dataset import AudioEmbeddingCache
    from coat_core.training.tracker import NullTracker
    from coat_core.training.train import train

    transformers.utils.logging.disable_progress_bar()
    settings, arm, code = task.settings(), ARMS[task.trial.arm], sha256_tree(ROOT / "coat_core")[:12]
    examples, corpus = read_manifest(task.manifest), task.workspace / "data/corpus"
    audio = task.workspace / "audio" / task.backbone
    store = audio if (audio / "index.json").is_file() else None
    # A checkpoint of other code is not continued.
    scratch = folder / "scratch" / code
    started = time.perf_counter()
    train(
        settings, task.backbone, f"{arm.name}-{task.seed}", examples=examples, corpus=corpus,
        features={key: task.workspace / "features" / key for key in settings.experts}, target=scratch / "release",
        records=scratch / "records", scratch=scratch / "state", fingerprint="tuning", tracker=NullTracker(),
        audio=store,
    )  # fmt: skip
    trained = time.perf_counter()
    evaluation = settings.evaluation.model_copy(update={"split": "validation"})
    identity = {"backbone": task.backbone, "arm": arm.name, "seed": task.seed}
    with fixed_compute(settings.runtime.device, settings.runtime.threads):
        answer_release(scratch / "release", examples, corpus, evaluation, scratch / "responses.jsonl", audio=store)
        metrics = score_trial(scratch / "responses.jsonl", examples, evaluation, scratch / "evaluation", identity)
        chosen = select(examples, evaluation)
        losses = None
        # The answer of a described release follows its own description: its loss compares with no other.
        if not arm.described:
            backbone = load_release(scratch / "release").backbone
            cache = AudioEmbeddingCache(backbone, CACHE_MB, AudioStore.open(store, backbone) if store is not None else None)
            losses = answer_losses(backbone, chosen, corpus, batch_size=evaluation.batch_size, embeddings=cache)
    shutil.copy(scratch / "evaluation" / SCORES, folder / SCORES)
    shutil.copy(scratch / "records/history.jsonl", folder / "history.jsonl")
    write_jsonl(folder / LOSSES, map(asdict, losses or []))
    shutil.copytree(scratch / "release", folder / "release", dirs_exist_ok=True)
    mean = loss_per_token(losses) if losses else None
    training = settings.training
    return {
        "key": folder.name, "label": task.trial.label, "code": code, "corpus": settings.corpus.kind, "manifest": sha256_file(task.manifest),
        "backbone": task.backbone, "arm": arm.name, "seed": task.seed, "changed": dict(task.trial.changes),
        "steps": [training.ground_steps, training.respond_steps], "batch": training.batch_size * training.accumulation,
        "learning_rate": training.learning_rate,
        "thinking": settings.thinking.model_dump(mode="json", exclude={"reserved_tokens"}) if arm.block else None,
        "losses": settings.losses.model_dump(mode="json") if arm.heads else None,
        "seconds": {"train": round(trained - started, 1), "evaluate": round(time.perf_counter() - trained, 1)},
        "items": metrics["n"], "mean": metrics["mean_accuracy"], "unscored": metrics["unscored_share"],
        "families": {family: entry["accuracy"] for family, entry in metrics["families"].items()},
        "answer_loss": None if mean is None else {"value": round(mean.value, 6), "error": round(mean.error, 6)},
    }  # fmt: skip


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock, so that two processes do not run one task at once."""
    with path.open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def add_row(path: Path, row: Mapping[str, Any], derive: Callable[[dict[str, Any]], Mapping[str, Any]]) -> dict[str, Any]:
    """Add a row to a results file atomically, in place of one with equal key and label; return the content of the file.

    Args:
        path: the file, `{"trials": [...], ...}`.
        row: the row.
        derive: returns further fields of the file from its content.
    """
    with _locked(Path(tempfile.gettempdir()) / f"coat-{sha256_json(str(path.resolve()))[:16]}.lock"):
        content = read_json(path) if path.is_file() else {}
        content["trials"] = [*(old for old in content.get("trials", []) if not _same(old, row)), dict(row)]
        content |= derive(content)
        write_json(path, content)
    return dict(content)


def _same(first: Mapping[str, Any], second: Mapping[str, Any]) -> bool:
    return "key" in first and (first["key"], first["label"]) == (second["key"], second["label"])
