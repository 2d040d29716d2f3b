"""Workspaces: the same graph with its own params, results, MLflow database, lock and scratch; the DVC cache is shared."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from coat_core import storage
from coat_core.corpus.imported.bucket import SNAPSHOT
from coat_core.errors import CoatError, StageError
from coat_core.experts.catalogue import NEURAL
from coat_core.pipeline.cache_users import record_user
from coat_core.pipeline.changes import apply_changes, changed_text
from coat_core.pipeline.graph import other_experts
from coat_core.settings import ExpertSettings, load_settings, parse_settings, read_values

LINKED = ("coat_core", "bases", ".venv")
"""Shared with the repository by symbolic link, so that every path in dvc.yaml is valid in both."""
_PLACE = (".url", ".endpointurl", ".region", ".profile")
"""Settings of a DVC remote that a workspace takes over from the repository."""
NEURAL_CODE = ("coat_core/device.py", "coat_core/experts/neural")
"""Code that `features` depends on only where params name a neural expert."""


def repository_root() -> Path:
    """Return the folder that contains `coat_core/`."""
    return Path(__file__).resolve().parents[2]


def make_workspace(folder: Path, params: Path, changes: Mapping[str, Any] | None = None) -> Path:
    """Create or update a workspace and return its folder; existing results are kept.

    Args:
        folder: the workspace; inside the repository (`workspaces/…`, which git ignores), or anywhere on the same machine.
        params: the params file; it is validated first.
        changes: dotted name → value, changes of the params in the workspace.

    Raises:
        SettingsError: the params are invalid.
        CoatError: the folder is the repository itself, or contains other files.
    """
    settings, text = load_settings(params), params.read_text(encoding="utf-8-sig")
    if "suites" not in (read_values(params).get("evaluation") or {}):
        # A params file from before there were suites: the graph has a reference to the key.
        changes = {"evaluation.suites": {}, **(changes or {})}
    if changes:
        text = changed_text(text, changes)
        settings = parse_settings(apply_changes(read_values(params), changes), f"{params} with these changes")
    root = repository_root()
    if folder.resolve() == root:
        raise CoatError(
            "the repository is itself a workspace",
            field="folder",
            value=str(folder),
            next_step="name a new folder, e.g. workspaces/recordings",
        )
    if folder.is_dir() and any(folder.iterdir()) and not (folder / "dvc.yaml").exists():
        raise CoatError("the folder contains other files", field="folder", value=str(folder), next_step="name a new or empty folder")
    folder.mkdir(parents=True, exist_ok=True)
    for name in LINKED:
        link = folder / name
        if not link.is_symlink() and not link.exists() and (root / name).exists():
            link.symlink_to(os.path.relpath(root / name, folder.resolve()), target_is_directory=True)
    storage.write_text(folder / ".dvcignore", (root / ".dvcignore").read_text())
    graph = graph_for((root / "dvc.yaml").read_text(), settings.experts, in_bucket=settings.corpus.in_bucket)
    storage.write_text(folder / "dvc.yaml", graph)
    storage.write_text(folder / "params.yaml", text)
    if not (folder / ".dvc" / "config").exists():
        _dvc(folder, "init", "--no-scm", "-q", "--force")
        for key, value in (("core.analytics", "false"), ("core.check_update", "false"), ("cache.dir", str(root / ".dvc" / "cache"))):
            _dvc(folder, "config", "--local", key, value)
        for key, value in _remote_settings(root):
            _dvc(folder, "config", "--local", key, value)
        record_user(root / ".dvc" / "cache", folder)
    return folder


def _remote_settings(root: Path) -> list[tuple[str, str]]:
    """Return the settings of the repository's DVC remotes that say where they are; those that may be secret are not copied."""
    lines = (line.partition("=") for line in _dvc(root, "config", "--list").splitlines() if "=" in line)
    return [(key, value) for key, _, value in lines if key == "core.remote" or (key.startswith("remote.") and key.endswith(_PLACE))]


def match_graph(workspace: Path, experts: Mapping[str, ExpertSettings], *, in_bucket: bool = False, suites: bool = False) -> None:
    """Make the graph of a workspace depend on the stores and the code of the experts, and on the source, that params name now.

    Args:
        workspace: the workspace.
        experts: experts of params.
        in_bucket: whether the source of the corpus is in a bucket.
        suites: whether params name public benchmarks.

    Raises:
        CoatError: the graph names others, and is the repository's own or was changed by hand; or it is from before there were suites.
    """
    path = workspace / "dvc.yaml"
    if not path.is_file():
        return
    graph = path.read_text()
    if suites and "score_suite" not in yaml.safe_load(graph)["stages"]:
        raise StageError(
            "the graph of this workspace has no stages for public benchmarks", field="evaluation.suites", value=str(path),
            next_step="update it: coat workspace . --params params.yaml",
        )  # fmt: skip
    sources = _declares_snapshot(graph) == in_bucket
    if set(_stores(graph)) == set(experts) and _declares_neural(graph) == _needs_neural(experts) and sources:
        return
    if workspace.resolve() == repository_root():
        if set(_stores(graph)) != set(experts):
            raise other_experts(_stores(graph), list(experts))
        if not sources:
            raise StageError(
                "corpus depends on another kind of source in dvc.yaml than params.yaml names",
                field="corpus.path",
                allowed="a path on this host in the repository, also s3://bucket/prefix in a workspace",
                next_step="make a workspace: coat workspace DIR --params FILE",
            )
        raise StageError(
            "features depends on the code of another kind of experts in dvc.yaml than params.yaml names",
            field="experts.*.implementation",
            value=sorted({expert.implementation for expert in experts.values()}),
            allowed="acoustic experts in the repository, any expert in a workspace",
            next_step="make a workspace: coat workspace DIR --params FILE",
        )
    storage.write_text(path, graph_for(graph, experts, in_bucket=in_bucket))


def graph_for(graph: str, experts: Mapping[str, ExpertSettings], *, in_bucket: bool = False) -> str:
    """Return the text of `dvc.yaml` for these experts: `train` and `probe` depend on their stores, `features` on the code of their kind.

    With a source in a bucket, `corpus` depends on its snapshot.

    DVC accepts no list from params in `deps`, so the default graph names the five default experts.

    Raises:
        CoatError: the graph does not name the stores one per line in one place, as the default graph does.
    """
    stores = "".join(f"      - features/{key}\n" for key in experts)
    written = graph
    for stage in ("train", "probe"):
        written = _replace(written, stage, r"(?:^      - features/.*\n)+", stores)
    if _declares_neural(graph) != _needs_neural(experts):
        code = "".join(f"        - {dep}\n" for dep in NEURAL_CODE)
        written = _replace(written, "features", "".join(f"^        - {re.escape(dep)}\n" for dep in NEURAL_CODE), "")
        if _needs_neural(experts):
            written = _replace(written, "features", r"^        - coat_core/experts/store\n", code + r"        - coat_core/experts/store\n")
    if _declares_snapshot(graph) != in_bucket:
        written = _replace(written, "corpus", rf"^      - {SNAPSHOT}\n", "")
        if in_bucket:
            written = _replace(written, "corpus", r"^    params:", f"      - {SNAPSHOT}\n    params:")
    if _stores(written) != list(experts) or _declares_neural(written) != _needs_neural(experts) or _declares_snapshot(written) != in_bucket:
        raise CoatError(
            "dvc.yaml was changed by hand, and the lines of its experts cannot be rewritten",
            field="stages.train.deps, stages.features.do.deps",
            value=_stores(graph),
            allowed=[f"features/{key}" for key in experts],
            next_step="write these stores, one a line and together, into the deps of train"
            + (f", and {', '.join(NEURAL_CODE)} into those of features" if _needs_neural(experts) else ""),
        )
    return written


def _replace(graph: str, stage: str, pattern: str, lines: str) -> str:
    """Replace the first match of a pattern within the text of one stage."""
    section = re.search(rf"^  {stage}:\n(?:^(?:   .*)?\n)+", graph, re.MULTILINE)
    if section is None:
        return graph
    return graph.replace(section[0], re.sub(pattern, lines, section[0], count=1, flags=re.MULTILINE))


def _stores(graph: str) -> list[str]:
    """Return the experts whose stores are dependencies of `train`."""
    deps = yaml.safe_load(graph)["stages"]["train"]["deps"]
    return [dep.removeprefix("features/") for dep in deps if isinstance(dep, str) and dep.startswith("features/")]


def _declares_neural(graph: str) -> bool:
    """Return whether the code of neural experts is a dependency of `features`."""
    features = yaml.safe_load(graph)["stages"].get("features", {})
    return set(NEURAL_CODE) <= set(features.get("do", features).get("deps", []))


def _declares_snapshot(graph: str) -> bool:
    """Return whether the snapshot of a source in a bucket is a dependency of `corpus`."""
    return SNAPSHOT in yaml.safe_load(graph)["stages"].get("corpus", {}).get("deps", [])


def _needs_neural(experts: Mapping[str, ExpertSettings]) -> bool:
    return any(expert.implementation in NEURAL for expert in experts.values())


def _dvc(folder: Path, *arguments: str) -> str:
    command = [str(Path(sys.executable).parent / "dvc"), *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env={**os.environ, "DVC_NO_ANALYTICS": "true"})
    if done.returncode:
        raise CoatError(f"dvc {' '.join(arguments)} failed: {done.stderr.strip()[-500:]}", field="workspace", value=str(folder))
    return done.stdout
