"""Registration of releases as versions of a registered model: once per stage key, with lineage, scores and model card."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coat_core.errors import RegistryError
from coat_core.evaluation.benchmarks.recorded import RESULT
from coat_core.evaluation.metrics import METRICS, SCORES
from coat_core.probing.verdict import FOLDER as PROBES
from coat_core.probing.verdict import flat_metrics as flat_probe
from coat_core.registry.card import CardFacts, accuracy_text, model_card
from coat_core.registry.champions import remembered_withdrawal
from coat_core.registry.data_licences import LICENCES, MANIFEST, count_licences, to_json
from coat_core.registry.database import connect, default_database
from coat_core.registry.lineage import Lineage, gather
from coat_core.registry.locks import locked
from coat_core.registry.packaging import log_release, read_info, unsafe_files
from coat_core.registry.records import is_finite
from coat_core.registry.replay import find_or_replay_run
from coat_core.registry.suites import DIGEST, digest_of, record_suites, results_of
from coat_core.registry.tables import log_tables
from coat_core.registry.tracking import EVALUATION, log_metrics, log_new_metrics
from coat_core.settings import ARMS, CLAIM, COMPARISONS
from coat_core.storage import read_json, sha256_file

BASE = "base"
"""Folder, within the scores on an evaluation set, of the untouched base's scores on the same set."""
CONTROL = "control"
"""Folder, beside that of the base, of the scores of the control arm with the same seed."""
_LINEAGE_FILES = ("dvc.lock", "params.yaml")


@dataclass(frozen=True)
class Registered:
    """A version of a registered model; `created` is true if this call created it."""

    name: str
    version: str
    run_id: str
    created: bool

    @property
    def uri(self) -> str:
        """`models:/name/version`."""
        return f"models:/{self.name}/{self.version}"


def register_trial(workspace: Path, name: str, trial: str, suites: Sequence[str] = ()) -> Registered:
    """Register `models/<trial>` from the files of a workspace; nothing is written if it is registered with the same scores already.

    The model card also shows the scores of the other arms with the same seed that were evaluated. The scores of the untouched base on
    the same evaluation set are stored with the version, for the promotion gate.

    Args:
        workspace: the workspace.
        name: registered model, e.g. `coat-qwen2-audio`.
        trial: `<backbone>-<arm>-<seed>`.
        suites: public benchmarks whose results, where there are any, are stored with the version.

    Raises:
        ReleaseError: the release does not exist.
        RegistryError: its evaluation is missing.
    """
    release, evaluation = workspace / "models" / trial, workspace / "evaluation" / trial
    info = read_info(release)
    if not (evaluation / METRICS).is_file() or not (evaluation / SCORES).is_file():
        backbone_and_trial = trial.replace("-", " ", 1)
        raise RegistryError(
            "the release was not evaluated",
            field="evaluation",
            value=str(evaluation),
            next_step=f"coat answer {backbone_and_trial} && coat score {backbone_and_trial}",
        )
    known = find_version(connect(workspace), name, info["fingerprint"])
    base = base_evaluation(workspace, info, read_json(evaluation / METRICS)["evaluation_set"])
    base_sha256 = sha256_file(base / SCORES) if base is not None else None
    recorded = known.tags if known is not None else {}
    results = results_of(workspace, trial, suites)
    if (
        known is not None
        and recorded.get("scores_sha256") == sha256_file(evaluation / SCORES)
        and base_sha256 in (None, recorded.get("base_scores_sha256"))
        and (not results or recorded.get(DIGEST) == digest_of(results))
    ):
        return Registered(name, str(known.version), known.run_id, created=False)
    found = gather(workspace, release)
    trials = {arm.name: f"{info['backbone']}-{arm.name}-{info['seed'] if arm.lora else 0}" for arm in ARMS.values()}
    controls = {arm: workspace / "evaluation" / other / METRICS for arm, other in trials.items() if other != trial}
    facts = CardFacts(
        name=name,
        info=info,
        lineage=found,
        metrics=read_json(evaluation / METRICS),
        workspace=workspace,
        controls={arm: read_json(path) for arm, path in controls.items() if path.is_file()},
        suites={suite: read_json(folder / RESULT) for suite, folder in results.items()},
    )
    return register(
        release, name, lineage=found, evaluation=evaluation, records=workspace / "runs" / trial, card=model_card(facts),
        workspace=workspace, base=base, control=_control_evaluation(workspace, info, facts.metrics["evaluation_set"]), suites=results,
    )  # fmt: skip


def base_evaluation(workspace: Path, info: Mapping[str, Any], evaluation_set: str) -> Path | None:
    """Return the folder of the untouched base's scores on an evaluation set; None if the base was not evaluated on it.

    A trial of another base than that of the release (`info`, the content of its `coat.json`) does not count.
    """
    for arm in (arm.name for arm in ARMS.values() if not arm.lora):
        for folder in sorted(workspace.glob(f"evaluation/{info['backbone']}-{arm}-*"), key=lambda path: (len(path.name), path.name)):
            if not (folder / METRICS).is_file() or not (folder / SCORES).is_file():
                continue
            release = workspace / "models" / folder.name
            same_base = not (release / "coat.json").is_file() or _identity(read_info(release)) == _identity(info)
            if same_base and read_json(folder / METRICS).get("evaluation_set") == evaluation_set:
                return folder
    return None


def control_of(arm: str) -> str | None:
    """Return the arm that an arm is compared with: the first of `COMPARISONS`, else standard fine-tuning; None for the untouched base."""
    if not ARMS[arm].lora:
        return None
    return next((second for first, second in COMPARISONS if first == arm), CLAIM[1])


def _control_evaluation(workspace: Path, info: Mapping[str, Any], evaluation_set: str) -> Path | None:
    """Return the folder of the control's scores with the same seed; None if it was not evaluated on this set, or is the base."""
    folder = workspace / "evaluation" / f"{info['backbone']}-{control_of(info['arm'])}-{info['seed']}"
    if control_of(info["arm"]) in (None, BASE) or not all((folder / name).is_file() for name in (METRICS, SCORES)):
        return None
    return folder if read_json(folder / METRICS).get("evaluation_set") == evaluation_set else None


def _identity(info: Mapping[str, Any]) -> tuple[Any, Any]:
    return info["base"]["id"], info["base"].get("revision")


def register(
    release: Path,
    name: str,
    *,
    lineage: Lineage,
    evaluation: Path,
    records: Path,
    card: str,
    workspace: Path = Path(),
    base: Path | None = None,
    control: Path | None = None,
    suites: Mapping[str, Path] | None = None,
) -> Registered:
    """Register a release, once per stage key.

    The version is created last: its run, model, artifacts and metrics exist before it. A registered release that was evaluated again
    gets the new scores and the new card.

    Args:
        release: folder of the release.
        name: registered model.
        lineage: source of the tags.
        evaluation: folder with `metrics.json` and `scores.jsonl`.
        records: folder with `run.json` and `history.jsonl` of the training; a run that is not in MLflow is replayed from them.
        card: Markdown, the version's description.
        workspace: folder of MLflow's records, `dvc.lock` and `params.yaml`.
        base: folder with `metrics.json` and `scores.jsonl` of the untouched base on the same evaluation set.
        control: folder with those of the control arm with the same seed.
        suites: public benchmark → folder of its result.
    """
    client = connect(workspace)
    with locked(workspace):
        known = find_version(client, name, lineage.stage_key)
        run_id = known.run_id if known is not None else find_or_replay_run(client, workspace, release, name, records)
        model_id = log_release(client, workspace, release, run_id=run_id)
        _record_probe(client, run_id, workspace / PROBES / f"{release.name}.json")
        log_tables(client, run_id, workspace, release.name, evaluation=evaluation)
        tags = lineage.to_tags() | _record_evaluation(client, run_id, model_id, evaluation) | log_base(client, run_id, base)
        _log_scores(client, run_id, control, CONTROL)
        tags |= record_suites(client, run_id, suites or {})
        for file in _LINEAGE_FILES:
            if (workspace / file).is_file():
                client.log_artifact(run_id, str(workspace / file), "lineage")
        if (workspace / MANIFEST).is_file():
            client.log_dict(run_id, to_json(count_licences(workspace / MANIFEST)), f"lineage/{LICENCES}")
        if known is None:
            tags |= remembered_withdrawal(client, name, lineage.stage_key)
            tags["unsafe_files"] = "\n".join(_unsafe(client, model_id)) or "none"
            made, created = _create_version(client, name, run_id, model_id, tags, card)
            return Registered(name, str(made.version), made.run_id, created=created)
        for key, value in tags.items():
            if known.tags.get(key) != value:
                client.set_model_version_tag(name, known.version, key, value)
        client.update_model_version(name, known.version, description=card)
        return Registered(name, str(known.version), run_id, created=False)


def find_version(client: Any, name: str, stage_key: str) -> Any | None:
    """Return the version with a stage key (the lowest if there are several), or None."""
    found, token = [], None
    while True:
        page = client.search_model_versions(f"name='{name}'", page_token=token)
        found += [version for version in page if version.tags.get("stage_key") == stage_key]
        token = page.token
        if not token:
            return min(found, key=lambda version: int(version.version), default=None)


def evaluation_folder(evaluation_set: str) -> str:
    """Return the artifact folder of the scores on an evaluation set."""
    return f"evaluation/{evaluation_set[:16]}"


def log_base(client: Any, run_id: str, base: Path | None) -> dict[str, str]:
    """Store the untouched base's scores as artifacts of a run, by evaluation set; return the tags that the version gets."""
    if base is None:
        return {}
    _log_scores(client, run_id, base, BASE)
    return {"base_scores_sha256": sha256_file(base / SCORES)}


def _log_scores(client: Any, run_id: str, evaluation: Path | None, name: str) -> None:
    """Store another model's scores as artifacts of a run, in a folder of their evaluation set's."""
    if evaluation is not None:
        folder = f"{evaluation_folder(read_json(evaluation / METRICS)['evaluation_set'])}/{name}"
        for file in (SCORES, METRICS):
            client.log_artifact(run_id, str(evaluation / file), folder)


def log_evaluation(client: Any, run_id: str, evaluation: Path) -> dict[str, Any]:
    """Store an evaluation as artifacts of a run, by evaluation set; return its metrics."""
    metrics: dict[str, Any] = read_json(evaluation / METRICS)
    for file in (SCORES, METRICS):
        client.log_artifact(run_id, str(evaluation / file), evaluation_folder(metrics["evaluation_set"]))
    return metrics


def flat_metrics(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Return the main numbers of a `metrics.json` under flat names: `evaluation/mean_accuracy`, `evaluation/music/low`.

    All others are in the run's table of accuracy (see `coat_core.registry.tables`).
    """
    flat = {f"{EVALUATION}{key}": float(metrics[key]) for key in ("mean_accuracy", "unscored_share", "n") if metrics.get(key) is not None}
    slices = {**metrics.get("families", {}), **({"mean": metrics["mean"]} if isinstance(metrics.get("mean"), Mapping) else {})}
    for family, entry in slices.items():
        for key in ("accuracy", "low", "high"):
            if entry.get(key) is not None:
                flat[f"{EVALUATION}{family}/{key}"] = float(entry[key])
    return flat


def _record_evaluation(client: Any, run_id: str, model_id: str, evaluation: Path) -> dict[str, str]:
    """Store the scores, log the numbers with run and model, and return the tags that the version gets."""
    metrics = log_evaluation(client, run_id, evaluation)
    flat = flat_metrics(metrics)
    if {key: value for key, value in client.get_run(run_id).data.metrics.items() if key in flat} != flat:
        log_metrics(client, run_id, flat, step=0, model_id=model_id)
    shown = {f"accuracy.{family}": accuracy_text(entry) for family, entry in metrics["families"].items()}
    return shown | {
        "evaluation_set": metrics["evaluation_set"],
        "scores_sha256": sha256_file(evaluation / SCORES),
        **{key: f"{metrics[key]:.6f}" for key in ("mean_accuracy", "unscored_share") if is_finite(metrics.get(key))},
    }


def _record_probe(client: Any, run_id: str, path: Path) -> None:
    """Log the main numbers of a probe with the run, unless the stage `probe` did; a run that was replayed does not have them."""
    if path.is_file():
        log_new_metrics(client, client.get_run(run_id), flat_probe(read_json(path)))


def _create_version(client: Any, name: str, run_id: str, model_id: str, tags: Mapping[str, str], card: str) -> tuple[Any, bool]:
    """Create a version; return the only one with its stage key, and whether it is the new one.

    Another version with the same key exists where a host without the common lock registered at the same time, or where the answer of
    the server was lost and the request was sent again. Numbers follow the order of the commits: who sees a lower one removes its own.
    """
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name, description=f"{name}: releases of `coat`; the alias `champion` is served.")
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    with default_database(client.tracking_uri):
        version = client.create_model_version(name, f"models:/{model_id}", run_id, tags=dict(tags), description=card, model_id=model_id)
    canonical = find_version(client, name, tags["stage_key"]) or version
    if int(canonical.version) < int(version.version):
        client.delete_model_version(name, str(version.version))
    if canonical.run_id == run_id:
        # As `mlflow.register_model` does: the model's page then links to its version.
        client.set_logged_model_tags(model_id, {"mlflow.modelVersions": json.dumps([{"name": name, "version": int(canonical.version)}])})
    return canonical, int(canonical.version) == int(version.version)


def _unsafe(client: Any, model_id: str) -> tuple[str, ...]:
    from mlflow.artifacts import download_artifacts

    local = download_artifacts(artifact_uri=client.get_logged_model(model_id).artifact_location, tracking_uri=client.tracking_uri)
    return unsafe_files(Path(local))
