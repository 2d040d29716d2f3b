"""One function per stage of `dvc.yaml`: parameters and paths in, files out. Knows neither Prefect nor DVC.

`run_stage` is the one way in. A stage writes below `.scratch/<stage key>/`, so that a killed one resumes; what it has finished
is published by copy and stays there until the next key of the same stage is begun. `outcome.json` says how it ended.
"""

from __future__ import annotations

import os
import shutil
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from coat_core import storage, watchdog
from coat_core.errors import CoatError
from coat_core.pipeline.graph import Stage, find_stage, other_experts, stage_key
from coat_core.settings import Settings, load_settings

SCRATCH = Path(".scratch")
OUTCOMES = SCRATCH / "outcomes"
_DONE = "stage.done.json"

_RETRYABLE = (OSError, MemoryError)
"""A full disk, a lost mount, no memory: the same call may succeed later. Mistakes in data or params never do."""


@dataclass(frozen=True)
class StageRun:
    """What a stage function is given."""

    stage: Stage
    settings: Settings
    workspace: Path
    key: str
    scratch: Path
    """Survives a kill; private to this stage key."""

    def out(self, path: str) -> Path:
        """Return where to write a declared out; it is published when the stage has finished."""
        assert path in self.stage.outs, f"{path} is not an out of {self.stage.name}"
        return self.scratch / "out" / path

    def path(self, path: str) -> Path:
        """Return an input's place in the workspace."""
        return self.workspace / path


def run_stage(name: str, workspace: Path = Path()) -> None:
    """Run one stage, or publish what an earlier, killed run of the same key had finished.

    Raises:
        CoatError: params, inputs or the stage's own work do not hold; nothing is published then.
    """
    watchdog.watch_owner()
    outcome = workspace / OUTCOMES / f"{name}.json"
    outcome.unlink(missing_ok=True)
    try:
        _run(name, workspace)
    except BaseException as error:
        retryable = error.retryable if isinstance(error, CoatError) else isinstance(error, _RETRYABLE)
        detail = "" if isinstance(error, CoatError) else traceback.format_exc()
        storage.write_json(outcome, {"class": type(error).__name__, "message": str(error), "retryable": retryable, "detail": detail})
        raise
    storage.write_json(outcome, {"class": "ok", "message": "", "retryable": False, "detail": ""})


def _run(name: str, workspace: Path) -> None:
    settings = load_settings(workspace / "params.yaml")
    values = yaml.safe_load((workspace / "params.yaml").read_text())
    stage = find_stage(name, workspace, values)
    key = stage_key(stage, workspace, values)
    scratch = workspace / SCRATCH / key
    _drop_older(stage, workspace, keep=scratch)
    scratch.mkdir(parents=True, exist_ok=True)
    storage.write_text(scratch / "stage.txt", stage.name)
    if not (scratch / _DONE).exists():
        _set_threads(settings)
        STAGES[name.split("@")[0]](StageRun(stage, settings, workspace, key, scratch))
        storage.write_json(scratch / _DONE, {"stage": stage.name, "outs": list(stage.outs)})
    for out in stage.outs:
        if (scratch / "out" / out).exists():
            storage.copy_tree(scratch / "out" / out, workspace / out)


def _drop_older(stage: Stage, workspace: Path, keep: Path) -> None:
    """Remove what older keys of the same stage left behind."""
    for mark in (workspace / SCRATCH).glob("*/stage.txt"):
        if mark.parent != keep and mark.read_text() == stage.name:
            shutil.rmtree(mark.parent, ignore_errors=True)


def _set_threads(settings: Settings) -> None:
    """Fix the number of threads before any numerical library is loaded: one thread and two give different weights."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
        os.environ[name] = str(settings.runtime.threads)


def _examples(run: StageRun) -> list[Any]:
    from coat_core.corpus.examples import read_manifest

    return list(read_manifest(run.path("data/accepted.jsonl")))


def corpus(run: StageRun) -> None:
    """Make the corpus: generated, or composed from recordings."""
    target, settings = run.out("data/corpus"), run.settings.corpus
    if settings.kind == "generated":
        from coat_core.corpus.generated.corpus import generate_corpus

        generate_corpus(settings, target)
    else:
        from coat_core.corpus.imported.recordings import import_corpus

        assert settings.path is not None
        import_corpus(settings, run.path(settings.path), target)


def contract(run: StageRun) -> None:
    """Hold the corpus to its contract. When it does not hold, the findings are left in `data/contract` all the same."""
    from coat_core.corpus.contract.contract import check_corpus
    from coat_core.errors import ContractError

    records = run.out("data/contract")
    try:
        check_corpus(
            run.path("data/corpus"),
            run.settings.contract,
            accepted=run.out("data/accepted.jsonl"),
            quarantine=run.out("data/quarantine.jsonl"),
            records=records,
            workers=os.cpu_count() or 1,
        )
    except ContractError:
        if records.exists():
            storage.copy_tree(records, run.workspace / "data/contract")
        raise


def features(run: StageRun) -> None:
    """Extract one expert's frames, in place: the store itself is resumable, and one new clip costs one shard."""
    from coat_core.experts.store.extraction import extract_features

    key = run.stage.name.split("@")[1]
    extract_features(
        key,
        run.settings.experts[key],
        _examples(run),
        run.path("data/corpus"),
        run.path(f"features/{key}"),
        threads=run.settings.runtime.threads,
        waveforms=run.workspace / SCRATCH / "waveforms",
    )


def train(run: StageRun) -> None:
    """Train one trial on one backbone and publish its release."""
    from coat_core.registry.tracking import open_tracker
    from coat_core.training.train import train as train_trial

    _check_stores(run)
    backbone, trial = run.stage.name.split("@")[1].split("-", 1)
    with open_tracker(run.workspace, experiment="coat", run_name=f"{backbone}-{trial}", stage_key=run.key) as tracker:
        train_trial(
            run.settings,
            backbone,
            trial,
            examples=_examples(run),
            corpus=run.path("data/corpus"),
            features={key: run.path(f"features/{key}") for key in run.settings.experts},
            target=run.out(f"models/{backbone}-{trial}"),
            records=run.out(f"runs/{backbone}-{trial}"),
            scratch=run.scratch,
            fingerprint=run.key,
            tracker=tracker,
        )


def _check_stores(run: StageRun) -> None:
    """Refuse a graph and params that name different experts: the stores might not be there yet, and the key would not know them."""
    named = [dep.removeprefix("features/") for dep in run.stage.inputs if dep.startswith("features/")]
    if set(named) != set(run.settings.experts):
        raise other_experts(named, list(run.settings.experts))


def evaluate(run: StageRun) -> None:
    """Ask one release the evaluation split and score what it said."""
    from coat_core.evaluation.evaluate import evaluate_release

    trial = run.stage.name.split("@")[1]
    backbone = run.settings.backbones[trial.split("-")[0]]  # type: ignore[index]
    evaluate_release(
        run.path(f"models/{trial}"),
        _examples(run),
        run.path("data/corpus"),
        run.settings.evaluation,
        run.out(f"evaluation/{trial}"),
        device=run.settings.runtime.device,
        dtype=backbone.dtype,
        attention=backbone.attention,
    )


def latency(run: StageRun) -> None:
    """Time two releases of one backbone in turn, in this process alone."""
    from coat_core.evaluation.latency import measure_latency

    key, settings = run.stage.name.split("@")[1], run.settings.latency
    backbone = run.settings.backbones[key]  # type: ignore[index]
    releases = {trial: run.path(f"models/{key}-{trial}") for trial in (settings.baseline, settings.candidate)}
    measure_latency(
        releases,
        _examples(run),
        run.path("data/corpus"),
        settings,
        run.out(f"latency/{key}.json"),
        device=run.settings.runtime.device,
        dtype=backbone.dtype,
        attention=backbone.attention,
    )


def report(run: StageRun) -> None:
    """Write the results, the figures and the page."""
    from coat_core.report.report import write_report

    write_report(run.workspace, run.settings, _examples(run), run.scratch / "out/report")


STAGES: dict[str, Callable[[StageRun], None]] = {
    "corpus": corpus,
    "contract": contract,
    "features": features,
    "train": train,
    "evaluate": evaluate,
    "latency": latency,
    "report": report,
}
