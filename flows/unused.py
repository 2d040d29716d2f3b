"""Objects of the DVC cache that nothing names, found and removed by DVC's own `gc`.

`dvc gc` keeps what the current graphs of its projects name. Here also kept: every entry of each `dvc.lock`, so also of trials that params
no longer list; what registered versions were made from; and what the branches, tags and experiments of the git repositories name.
"""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from coat_core import storage
from coat_core.errors import StageError
from coat_core.pipeline.cache_users import recorded_users
from coat_core.pipeline.runner import OUTCOMES
from coat_core.pipeline.workspace import repository_root
from flows import dvc

_REMOVING = "Removing "
_HASH = "md5"
_REPAIR = "run `coat run` in that workspace: it restores the file"


def cache_of(workspace: Path) -> Path | None:
    """Return the folder of the DVC cache of a workspace; None: it is no DVC project."""
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    try:
        with Repo(str(workspace)) as repo:
            return Path(repo.cache.repo.path).parents[1].resolve()
    except DvcException:
        return None


def sharing_workspaces(workspace: Path, also: Iterable[Path] = ()) -> list[Path]:
    """Return the workspaces that share the cache of a workspace, itself first.

    Known are the repository and its folder `workspaces`, every workspace that `coat workspace` or `coat run` has recorded in the cache, and
    those that are named.

    Args:
        workspace: the workspace.
        also: further workspaces.

    Raises:
        StageError: the workspace is no DVC project, or a named one does not share its cache.
    """
    cache = cache_of(workspace)
    if cache is None:
        raise StageError("this is no workspace", field="workspace", value=str(workspace.resolve()), next_step="change to a workspace")
    found = [workspace.resolve()]
    named = [folder.resolve() for folder in also]
    root = repository_root()
    for folder in (*named, root, *sorted((root / "workspaces").glob("*/")), *recorded_users(cache)):
        if folder.resolve() in found:
            continue
        if cache_of(folder) == cache:
            found.append(folder.resolve())
        elif folder in named:
            raise StageError(
                "this workspace does not use the same DVC cache", field="--workspace", value=str(folder), allowed=f"one with {cache}"
            )
    return found


def locks_of(workspace: Path) -> Iterator[str]:
    """Yield the `dvc.lock` of a workspace, and those of the branches, tags and experiments of its git repository.

    Raises:
        StageError: `dvc.lock` cannot be read.
    """
    path = workspace / "dvc.lock"
    if path.is_file():
        yield path.read_text(errors="replace")
    elif any(storage.read_json(outcome)["class"] == "ok" for outcome in (workspace / OUTCOMES).glob("*.json")):
        raise StageError(
            "stages have completed here, but there is no dvc.lock, and nothing is removed from the cache", field="dvc.lock",
            value=str(path), next_step=_REPAIR,
        )  # fmt: skip
    if not (workspace / ".git").exists():
        return
    seen = set()
    for reference in _git(workspace, "for-each-ref", "--format=%(refname)").splitlines():
        # Empty where a commit has no such file.
        blob = _git(workspace, "rev-parse", "-q", "--verify", f"{reference}:dvc.lock", check=False).strip()
        if blob and blob not in seen:
            seen.add(blob)
            yield _git(workspace, "cat-file", "blob", blob)


@contextmanager
def only_unused(workspace: Path, sharing: Collection[Path], locks: Iterable[str]) -> Iterator[list[str]]:
    """Yield the arguments of `dvc` that remove what is unused; with `--dry` at their front nothing is changed.

    Args:
        workspace: where DVC is called.
        sharing: the workspaces with the same cache.
        locks: texts of `dvc.lock` files whose outputs are kept.

    Raises:
        StageError: one of the texts is no `dvc.lock`.
    """
    cache = cache_of(workspace)
    with tempfile.TemporaryDirectory(prefix="coat-kept-") as folder:
        kept = Path(folder)
        dvc.call(kept, "init", "--no-scm", "-q")
        dvc.call(kept, "config", "--local", "cache.dir", str(cache))
        outputs = {output[_HASH]: output for text in locks for output in outputs_of(text)}
        for number, output in enumerate(outputs.values()):
            storage.write_text(kept / f"{number}.dvc", yaml.safe_dump({"outs": [{**output, "path": str(number)}]}))
        projects = [str(kept), *(str(other) for other in sharing if other != workspace.resolve())]
        yield ["gc", "--workspace", "--force", "--projects", *projects]


def unused_objects(workspace: Path, arguments: list[str]) -> list[Path]:
    """Return the objects that `dvc gc` would remove."""
    printed = dvc.call(workspace, arguments[0], "--dry", *arguments[1:])
    return [Path(line.removeprefix(_REMOVING)) for line in printed.splitlines() if line.startswith(_REMOVING)]


def outputs_of(lock: str) -> list[dict[str, Any]]:
    """Return the outputs that a `dvc.lock` names, each with its hash.

    Raises:
        StageError: the text is no `dvc.lock`.
    """
    try:
        # An empty file is one that a kill left behind: DVC writes it in place.
        stages = yaml.safe_load(lock).get("stages", {})
        found = [output for stage in stages.values() for output in stage.get("outs", ())]
        return [{key: output[key] for key in (_HASH, "size", "nfiles", "hash") if key in output} for output in found if _HASH in output]
    except (yaml.YAMLError, AttributeError, TypeError) as error:
        raise StageError(
            "a dvc.lock cannot be read, and nothing is removed from the cache", field="dvc.lock", value=lock[:60],
            next_step=_REPAIR,
        ) from error  # fmt: skip


def _git(workspace: Path, *arguments: str, check: bool = True) -> str:
    done = subprocess.run(["git", "-C", str(workspace), *arguments], capture_output=True, text=True, check=False)
    if done.returncode and check:
        raise StageError(f"git {' '.join(arguments)} failed: {done.stderr.strip()[-300:]}", field="workspace", value=str(workspace))
    return done.stdout
