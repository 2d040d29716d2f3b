"""The evaluation of a model and those of its controls, from the registry or from the workspace of a release."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from coat_core.errors import RegistryError, SettingsError
from coat_core.evaluation.arms import ArmScores, difference
from coat_core.evaluation.metrics import METRICS, SCORES, bootstrap_of
from coat_core.evaluation.scores import read_scores
from coat_core.evaluation.statistics import Bootstrap
from coat_core.registry.comparison import has_scores
from coat_core.registry.database import open_registry
from coat_core.registry.lineage import MODEL_PREFIX, resolve
from coat_core.registry.packaging import read_info
from coat_core.registry.releases import BASE, CONTROL, base_evaluation, control_of, evaluation_folder
from coat_core.settings import EvaluationSettings
from coat_core.settings.params import read_values
from coat_core.storage import read_json, sha256_file


@dataclass(frozen=True)
class Evaluations:
    """Scores of a model, of its control arm and of the untouched base on one evaluation set.

    Attributes:
        arm: arm of the model.
        seed: seed of the model.
        metrics: content of the model's `metrics.json`.
        own: seed → folder with `scores.jsonl`, of this arm; always with the model's seed.
        control: the arm that the model is compared with; None for the untouched base.
        controls: seed → folder, of the control arm; empty if it was not evaluated on this set.
        base: folder of the untouched base; None if it was not evaluated on this set.
        bootstrap: of all intervals.
    """

    arm: str
    seed: int
    metrics: Mapping[str, Any]
    own: Mapping[int, Path]
    control: str | None
    controls: Mapping[int, Path]
    base: Path | None
    bootstrap: Bootstrap

    @cached_property
    def tables(self) -> dict[str, dict[str, Any]]:
        """Accuracy by family and their mean, with intervals: of the model, of its control with the same seed, and of the base."""
        folders = {self.arm: self.own[self.seed]}
        if self.control is not None and self.seed in self.controls:
            folders[self.control] = self.controls[self.seed]
        if self.base is not None and self.control != BASE:
            folders[BASE] = self.base
        return {name: ArmScores.of({0: read_scores(folder / SCORES)}).table(self.bootstrap) for name, folder in folders.items()}

    @cached_property
    def difference(self) -> dict[str, Any] | None:
        """Model − control over the seeds that both have, paired by item; None without a control. See `coat_core.evaluation.arms`."""
        if not self.controls:
            return None
        own, control = (
            ArmScores.of({seed: read_scores(folder / SCORES) for seed, folder in folders.items()}) for folders in (self.own, self.controls)
        )
        return difference(own, control, self.bootstrap)


def find_evaluations(model: str, release: Path, workspace: Path = Path()) -> Evaluations:
    """Find the evaluation of a model and those of its controls on the same evaluation set.

    A version's scores are stored with it. Further seeds, and a control that is not stored, are read from the workspace if the workspace
    still has this very evaluation. A release folder `WORKSPACE/models/TRIAL` belongs to `WORKSPACE/evaluation/TRIAL`.

    Args:
        model: `models:/name/version`, `models:/name@alias`, or the release folder.
        release: folder of the release.
        workspace: folder of MLflow's records.

    Raises:
        RegistryError: the version does not exist, or the model was not evaluated.
    """
    info = read_info(release)
    trial = f"{info['backbone']}-{info['arm']}-{info['seed']}"
    if not model.startswith(MODEL_PREFIX):
        place = release.resolve().parent.parent
        own = place / "evaluation" / trial
        if not all((own / name).is_file() for name in (METRICS, SCORES)):
            named = trial.replace("-", " ", 1)
            raise RegistryError(
                "the release was not evaluated", field="evaluation", value=str(own),
                next_step=f"coat answer {named} && coat score {named}, or name a registered version",
            )  # fmt: skip
        return _of_workspace(place, info, read_json(own / METRICS))
    client = open_registry(workspace)
    version = resolve(client, model)
    stored = version.tags.get("evaluation_set", "")
    if not stored or not has_scores(client, version.name, version.version, stored):
        raise RegistryError(
            "the scores of a version are missing", field="version", value=model, next_step="evaluate the release and register it again"
        )
    own = workspace / "evaluation" / trial
    if (own / SCORES).is_file() and sha256_file(own / SCORES) == version.tags.get("scores_sha256"):
        return _of_workspace(workspace, info, read_json(own / METRICS))
    folder = Path(client.download_artifacts(version.run_id, evaluation_folder(stored)))
    params = [file.path for file in client.list_artifacts(version.run_id, "lineage") if file.path.endswith("/params.yaml")]
    control, seed = control_of(info["arm"]), int(info["seed"])
    stored_control = folder / CONTROL if control != BASE else folder / BASE
    return Evaluations(
        info["arm"], seed, read_json(folder / METRICS), {seed: folder}, control,
        {seed: stored_control} if (stored_control / SCORES).is_file() else {},
        folder / BASE if (folder / BASE / SCORES).is_file() else None,
        _bootstrap(Path(client.download_artifacts(version.run_id, params[0])) if params else None),
    )  # fmt: skip


def _of_workspace(workspace: Path, info: Mapping[str, Any], metrics: Mapping[str, Any]) -> Evaluations:
    evaluation_set, arm, seed = metrics["evaluation_set"], info["arm"], int(info["seed"])
    base = None if arm == BASE else base_evaluation(workspace, info, evaluation_set)
    control = control_of(arm)
    if control == BASE:
        controls = {seed: base} if base is not None else {}
    else:
        controls = _seeds(workspace, info["backbone"], control, evaluation_set) if control else {}
    own = _seeds(workspace, info["backbone"], arm, evaluation_set)
    return Evaluations(arm, seed, metrics, own, control, controls, base, _bootstrap(workspace / "params.yaml"))


def _seeds(workspace: Path, backbone: str, arm: str, evaluation_set: str) -> dict[int, Path]:
    """Return seed → folder of an arm's evaluations on an evaluation set."""
    found = {}
    for folder in workspace.glob(f"evaluation/{backbone}-{arm}-*"):
        seed = folder.name.rpartition("-")[2]
        complete = all((folder / name).is_file() for name in (METRICS, SCORES))
        if seed.isdigit() and complete and read_json(folder / METRICS).get("evaluation_set") == evaluation_set:
            found[int(seed)] = folder
    return dict(sorted(found.items()))


def _bootstrap(params: Path | None) -> Bootstrap:
    """Return the bootstrap of a params file; that of the defaults if the file is missing or of another format."""
    from pydantic import ValidationError

    try:
        section = (read_values(params) or {}).get("evaluation") or {} if params is not None else {}
        return bootstrap_of(EvaluationSettings.model_validate(section))
    except (SettingsError, ValidationError):
        return bootstrap_of(EvaluationSettings())
