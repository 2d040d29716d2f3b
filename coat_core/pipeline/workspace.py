"""Workspaces: the same graph over its own params, results, MLflow database, lock and scratch; the DVC cache is shared."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import yaml

from coat_core import storage
from coat_core.errors import CoatError
from coat_core.pipeline.graph import other_experts
from coat_core.settings import load_settings

LINKED = ("coat_core", "bases", ".venv")
"""What a workspace shares with the repository, by symbolic link, so that every path in dvc.yaml holds in both."""


def repository_root() -> Path:
    """Return the folder that holds `coat_core/`."""
    return Path(__file__).resolve().parents[2]


def make_workspace(folder: Path, params: Path) -> Path:
    """Make (or bring up to date) a workspace and return it. Results that are already there stay.

    Args:
        folder: the workspace; inside the repository (`workspaces/…`, which git ignores), or anywhere on the same machine.
        params: the params file; it is checked before anything is made.

    Raises:
        SettingsError: the params do not hold.
        CoatError: the folder is the repository itself, or holds something else.
    """
    settings = load_settings(params)
    root = repository_root()
    if folder.resolve() == root:
        raise CoatError(
            "the repository is itself a workspace",
            field="folder",
            value=str(folder),
            next_step="name a new folder, e.g. workspaces/recordings",
        )
    if folder.is_dir() and any(folder.iterdir()) and not (folder / "dvc.yaml").exists():
        raise CoatError("the folder holds something else", field="folder", value=str(folder), next_step="name a new or empty folder")
    folder.mkdir(parents=True, exist_ok=True)
    for name in LINKED:
        link = folder / name
        if not link.is_symlink() and not link.exists() and (root / name).exists():
            link.symlink_to(os.path.relpath(root / name, folder.resolve()), target_is_directory=True)
    storage.write_text(folder / ".dvcignore", (root / ".dvcignore").read_text())
    storage.write_text(folder / "dvc.yaml", graph_for((root / "dvc.yaml").read_text(), list(settings.experts)))
    storage.write_text(folder / "params.yaml", params.read_text())
    if not (folder / ".dvc" / "config").exists():
        _dvc(folder, "init", "--no-scm", "--quiet", "--force")
        for key, value in (("core.analytics", "false"), ("core.check_update", "false"), ("cache.dir", str(root / ".dvc" / "cache"))):
            _dvc(folder, "config", "--local", key, value)
    return folder


def match_graph(workspace: Path, experts: Sequence[str]) -> None:
    """Let `train` wait for the stores of the experts that params name now: of a workspace, its graph is written anew.

    Raises:
        CoatError: the graph names others, and is the repository's own or was changed by hand.
    """
    path = workspace / "dvc.yaml"
    if not path.is_file():
        return
    graph = path.read_text()
    if set(_stores(graph)) == set(experts):
        return
    if workspace.resolve() == repository_root():
        raise other_experts(_stores(graph), experts)
    storage.write_text(path, graph_for(graph, experts))


def graph_for(graph: str, experts: Sequence[str]) -> str:
    """Return the text of `dvc.yaml` whose `train` depends on the stores of these experts.

    DVC takes no list from params there, so the default graph names its five; a workspace has as many as its params.

    Raises:
        CoatError: the graph does not name the stores line by line in one place, as the default one does.
    """
    section = re.search(r"^  train:\n(?:^(?:   .*)?\n)+", graph, re.MULTILINE)
    stores = "".join(f"      - features/{key}\n" for key in experts)
    text = section[0] if section is not None else ""
    written = graph.replace(text, re.sub(r"(?:^      - features/.*\n)+", stores, text, count=1, flags=re.MULTILINE)) if text else graph
    if _stores(written) != list(experts):
        raise CoatError(
            "dvc.yaml was changed by hand, and its stores cannot be rewritten",
            field="stages.train.deps",
            value=_stores(graph),
            allowed=[f"features/{key}" for key in experts],
            next_step="write these stores, one a line and together, into the deps of train",
        )
    return written


def _stores(graph: str) -> list[str]:
    """Return the experts whose stores `train` waits for."""
    deps = yaml.safe_load(graph)["stages"]["train"]["deps"]
    return [dep.removeprefix("features/") for dep in deps if isinstance(dep, str) and dep.startswith("features/")]


def _dvc(folder: Path, *arguments: str) -> None:
    command = [str(Path(sys.executable).parent / "dvc"), *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env={**os.environ, "DVC_NO_ANALYTICS": "true"})
    if done.returncode:
        raise CoatError(f"dvc {' '.join(arguments)} failed: {done.stderr.strip()[-500:]}", field="workspace", value=str(folder))
