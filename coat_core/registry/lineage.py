"""Lineage of a registered version: its data, its code and its base."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coat_core.errors import RegistryError
from coat_core.registry.commit import UNKNOWN, commit_of
from coat_core.registry.database import open_registry
from coat_core.registry.packaging import read_info
from coat_core.registry.uris import portable
from coat_core.storage import read_json, sha256_file, sha256_tree

MODEL_PREFIX = "models:/"
"""Prefix of the URI of a registered version."""

_FEATURES = "features_sha256."


@dataclass(frozen=True)
class Lineage:
    """The origin of a release; every field becomes a tag of its version.

    Attributes:
        stage_key: SHA-256 of the training (its code, parameters and inputs).
        backbone: key of the LALM.
        arm: arm of the trial.
        seed: seed of the trial.
        base_id: hub id or workspace path of the base.
        base_revision: revision of the base, or `none`.
        base_licence: licence of the base's weights, or `unknown`.
        adapter_sha256: SHA-256 of the adapter's weights; `none` without an adapter.
        data_sha256: SHA-256 of the accepted manifest, which contains the hash of every clip.
        features_sha256: expert key → SHA-256 of its feature store.
        contract: `passed`, `failed` or `unknown`.
        git_commit: commit of the code, without a repository that in `COAT_GIT_COMMIT`, or `unknown`.
        git_dirty: whether the code has uncommitted changes: `true`, `false` or `unknown`; changes of `dvc.lock` are ignored, because a
            run writes it.
    """

    stage_key: str
    backbone: str
    arm: str
    seed: str
    base_id: str
    base_revision: str
    base_licence: str
    adapter_sha256: str
    data_sha256: str
    features_sha256: Mapping[str, str]
    contract: str
    git_commit: str
    git_dirty: str

    def to_tags(self) -> dict[str, str]:
        """Return the tags of the version."""
        tags = {name: str(getattr(self, name)) for name in self.__dataclass_fields__ if name != "features_sha256"}
        return tags | {f"{_FEATURES}{expert}": digest for expert, digest in sorted(self.features_sha256.items())}


def gather(workspace: Path, release: Path) -> Lineage:
    """Read the lineage of a release from the files of its workspace.

    Raises:
        ReleaseError: the folder is not a release.
        CoatError: the accepted manifest or a feature store of the release is missing.
    """
    info = read_info(release)
    adapter = release / "adapter_model.safetensors"
    commit, dirty = commit_of(workspace)
    return Lineage(
        stage_key=info["fingerprint"],
        backbone=info["backbone"],
        arm=info["arm"],
        seed=str(info["seed"]),
        base_id=info["base"]["id"],
        base_revision=info["base"].get("revision") or "none",
        base_licence=info["base"].get("licence") or UNKNOWN,
        adapter_sha256=sha256_file(adapter) if adapter.is_file() else "none",
        data_sha256=sha256_tree(workspace / "data/accepted.jsonl"),
        features_sha256={expert: sha256_tree(workspace / "features" / expert) for expert in sorted(info.get("experts") or {})},
        contract=contract_result(workspace),
        git_commit=commit,
        git_dirty=dirty,
    )


def contract_result(workspace: Path) -> str:
    """Return `passed` or `failed` as the contract stage recorded it, or `unknown` without a record."""
    path = workspace / "data/contract/results.json"
    if not path.is_file():
        return UNKNOWN
    passed = read_json(path).get("passed")
    return {True: "passed", False: "failed"}.get(passed, UNKNOWN)


def lineage(uri: str, workspace: Path = Path()) -> dict[str, Any]:
    """Return the recorded lineage of a version: code, parameters, data, features, contract, base, decision and run.

    Args:
        uri: `models:/name/version` or `models:/name@alias`.
        workspace: folder of MLflow's records.

    Raises:
        RegistryError: the version does not exist.
    """
    client = open_registry(workspace)
    version = resolve(client, uri)
    tags = dict(version.tags)
    run = client.get_run(version.run_id) if version.run_id else None
    return {
        "model": version.name,
        "version": str(version.version),
        "aliases": list(version.aliases),
        "stage_key": tags.get("stage_key"),
        "git_commit": tags.get("git_commit"),
        "git_dirty": tags.get("git_dirty"),
        "backbone": tags.get("backbone"),
        "arm": tags.get("arm"),
        "seed": tags.get("seed"),
        "base": {"id": tags.get("base_id"), "revision": tags.get("base_revision"), "licence": tags.get("base_licence")},
        "adapter_sha256": tags.get("adapter_sha256"),
        "data_sha256": tags.get("data_sha256"),
        "features_sha256": {key.removeprefix(_FEATURES): value for key, value in sorted(tags.items()) if key.startswith(_FEATURES)},
        "contract": tags.get("contract"),
        "evaluation_set": tags.get("evaluation_set"),
        "mean_accuracy": tags.get("mean_accuracy"),
        "decision": tags.get("decision"),
        "reasons": tags.get("decision_reasons", "").splitlines(),
        "withdrawn": tags.get("withdrawn"),
        "params": dict(sorted(run.data.params.items())) if run else {},
        "run": {
            "id": version.run_id,
            "name": run.info.run_name if run else None,
            "experiment_id": run.info.experiment_id if run else None,
            "replayed": (run.data.tags.get("replayed") if run else None) == "true",
            "tracking_uri": portable(client.tracking_uri),
            "link": f"#/experiments/{run.info.experiment_id}/runs/{version.run_id}" if run else None,
        },
        "source": version.source,
    }


def lineage_text(record: Mapping[str, Any]) -> str:
    """Format a lineage as text; nested fields are indented, empty ones are omitted."""
    return "\n".join(_lines(record, ""))


def resolve(client: Any, uri: str) -> Any:
    """Return the version that `models:/name/version` or `models:/name@alias` names.

    Raises:
        RegistryError: the URI has another form, or the version does not exist.
    """
    from mlflow.exceptions import MlflowException

    text = uri.removeprefix(MODEL_PREFIX)
    name, _, alias = text.partition("@")
    number = ""
    if not alias:
        name, _, number = text.rpartition("/")
    if not name or not (alias or re.fullmatch("[1-9][0-9]{0,17}", number)):
        raise RegistryError(
            "this is not the URI of a registered version", field="uri", value=uri, allowed="models:/NAME/VERSION or models:/NAME@ALIAS"
        )
    try:
        return client.get_model_version_by_alias(name, alias) if alias else client.get_model_version(name, number)
    except MlflowException as error:
        models = client.search_registered_models()
        known = [f"models:/{model.name}@{label}" for model in models for label in sorted(model.aliases)]
        if name in [model.name for model in models]:
            known += [f"models:/{name}/{found.version}" for found in client.search_model_versions(f"name='{name}'", max_results=20)]
        raise RegistryError(
            "this version does not exist",
            field="uri",
            value=uri,
            allowed=known or "nothing is registered yet",
            next_step="register one: coat register",
        ) from error


def _lines(record: Mapping[str, Any], indent: str) -> list[str]:
    lines = []
    width = max((len(key) for key in record), default=0)
    for key, value in record.items():
        if value is None or value in ("", [], {}):
            continue
        if isinstance(value, Mapping):
            lines += [f"{indent}{key}", *_lines(value, indent + "  ")]
        elif isinstance(value, list) and key == "reasons":
            lines += [f"{indent}{key}", *(f"{indent}  - {item}" for item in value)]
        else:
            shown = ", ".join(map(str, value)) if isinstance(value, list) else value
            lines.append(f"{indent}{key:<{width}}  {shown}")
    return lines
