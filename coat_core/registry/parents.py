"""Parent runs: MLflow shows the trials of one chain run below one run, named as Prefect names the chain run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coat_core.registry.commit import commit_of
from coat_core.registry.locks import locked
from coat_core.storage import sha256_file

PARENT = "mlflow.parentRunId"
"""MLflow's tag of a child run."""
CHAIN = "chain"
"""Tag of a parent run: the digest of workspace, params and commit."""
NOTE = "mlflow.note.content"
"""MLflow's tag with the description of a run, in Markdown."""
DESCRIPTION = "The trials that were trained in this workspace with these params and this commit."
_MISSING = "missing"


@dataclass(frozen=True)
class ChainRun:
    """What runs of a chain have in common.

    Attributes:
        workspace: name of the folder.
        params: SHA-256 of `params.yaml`.
        commit: commit of the code.
        changed: whether the code has changes that are not committed.
    """

    workspace: str
    params: str
    commit: str
    changed: bool

    @staticmethod
    def of(workspace: Path) -> ChainRun:
        """Read params and commit of a workspace as they are now."""
        folder = workspace.resolve()
        params = folder / "params.yaml"
        commit, changed = commit_of(folder)
        return ChainRun(folder.name, sha256_file(params) if params.is_file() else _MISSING, commit, changed == "true")

    @property
    def name(self) -> str:
        """Name of the run, in Prefect and in MLflow."""
        return f"{self.workspace}, params {self.params[:8]}, commit {self.commit[:8]}{' with changes' if self.changed else ''}"

    @property
    def key(self) -> str:
        """Digest of all attributes; a name may contain characters that a search in MLflow does not accept."""
        return hashlib.sha256(json.dumps([self.workspace, self.params, self.commit, self.changed]).encode()).hexdigest()


def find_parent(client: Any, experiment: str, workspace: Path, tags: Mapping[str, str]) -> str:
    """Return the id of the parent run for trials that are trained now; create it if there is none.

    A parent is a record without work: it is closed when it is created. Without a common lock two hosts may create one at the same moment;
    the later one is removed before it is used.

    Args:
        client: `MlflowClient` of the records.
        experiment: id of the experiment of the trials.
        workspace: the workspace.
        tags: further tags of a new parent, among them those of its owner.
    """
    chain = ChainRun.of(workspace)
    found = _first(client, experiment, chain)
    if found is None:
        with locked(workspace):
            found = _first(client, experiment, chain) or _create(client, experiment, chain, tags)
    if found.info.status != "FINISHED":
        # A kill came between the two requests that create it.
        client.set_terminated(found.info.run_id, status="FINISHED")
    return str(found.info.run_id)


def _first(client: Any, experiment: str, chain: ChainRun) -> Any | None:
    found = client.search_runs([experiment], f"tags.{CHAIN} = '{chain.key}'")
    return min(found, key=lambda run: (run.info.start_time, run.info.run_id), default=None)


def _create(client: Any, experiment: str, chain: ChainRun, tags: Mapping[str, str]) -> Any:
    own = {
        CHAIN: chain.key, "workspace": chain.workspace, "params_sha256": chain.params, "mlflow.source.git.commit": chain.commit,
        NOTE: DESCRIPTION,
    }  # fmt: skip
    made = client.create_run(experiment, tags={**tags, **own}, run_name=chain.name)
    first = _first(client, experiment, chain) or made
    if first.info.run_id != made.info.run_id:
        client.delete_run(made.info.run_id)
    return first
