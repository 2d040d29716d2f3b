"""Results shared by several hosts through DVC's default remote.

DVC transfers the outputs, which are named by their content. What names them is `dvc.lock`, which DVC leaves to git; here each host stores
its own beside the outputs, under a key of the graph, the params and the code. Another host with the same key takes over the entries of the
stages that are stale there. Two hosts never write the same file, and a lock is stored only after the outputs that it names.
"""

from __future__ import annotations

import json
import os
import socket
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from io import StringIO
from pathlib import Path
from typing import Any

import yaml

from coat_core import storage
from coat_core.errors import StageError
from flows import dvc

LOCK, FOLDER = "dvc.lock", "coat-locks"


@dataclass(frozen=True)
class Remote:
    """DVC's default remote of a workspace.

    Attributes:
        name: as in DVC's configuration.
        folder: path of the locks of this key in its file system.
        fs: its file system.
    """

    name: str
    folder: str
    fs: Any


def find_remote(workspace: Path, config: Mapping[str, str] | None = None) -> Remote | None:
    """Return the default remote; None if there is none.

    Args:
        workspace: the workspace.
        config: DVC's configuration by dotted name; None: it is read.

    Raises:
        StageError: DVC cannot read its configuration.
    """
    name = (dvc.config(workspace) if config is None else config).get("core.remote")
    if name is None:
        return None
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    try:
        with Repo(str(workspace)) as repo:
            remote = repo.cloud.get_remote(name)
            return Remote(name, remote.fs.join(remote.path, FOLDER, sharing_key(workspace)), remote.fs)
    except DvcException as error:
        raise StageError(f"DVC cannot use its remote: {error}", field="core.remote", value=name, next_step="dvc remote list") from error


def sharing_key(workspace: Path) -> str:
    """Return the SHA-256 of the graph, the params and the code of a workspace."""
    texts = [storage.sha256_file(workspace / name) for name in ("dvc.yaml", "params.yaml")]
    return storage.sha256_json([*texts, storage.sha256_tree(workspace / "coat_core")])


def pull(workspace: Path, remote: Remote) -> int:
    """Take over the results of other hosts for the stages that are stale here; return their number.

    Raises:
        StageError: the remote cannot be read, or lacks an output; `dvc.lock` is as before then.
    """
    stale = dvc.with_descendants(dvc.read_stale(workspace), dvc.read_graph(workspace))
    path = workspace / LOCK
    before = path.read_text() if path.is_file() else None
    local = _stages(before)
    adopted = {name: entry for name, entry in newest(_stored(remote)).items() if name in stale and entry != local.get(name)}
    if not adopted:
        return 0
    storage.write_text(path, _lock_text({**local, **adopted}))
    try:
        dvc.call(workspace, "pull", "--force", "--remote", remote.name, *sorted(adopted))
    except StageError:
        if before is None:
            path.unlink()
        else:
            storage.write_text(path, before)
        raise
    return len(adopted)


def push(workspace: Path, remote: Remote) -> None:
    """Store the outputs that `dvc.lock` names in the remote, then this host's lock.

    Raises:
        StageError: the remote cannot be written.
    """
    path = workspace / LOCK
    if not path.is_file():
        return
    text = path.read_text()
    dvc.call(workspace, "push", "--remote", remote.name)
    # DVC only warns of an output that is in no cache.
    lacking = sorted(json.loads(dvc.call(workspace, "status", "--cloud", "--json", "--remote", remote.name)))
    if lacking:
        raise StageError(
            f"{len(lacking)} outputs are neither in the cache nor in the remote", field="core.remote", value=lacking[:5],
            next_step="`coat run` computes them again; then `coat push`",
        )  # fmt: skip
    content = {"host": socket.gethostname(), "pushed": datetime.now(UTC).isoformat(), "stages": _stages(text)}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "lock.json"
        storage.write_json(file, content)
        with _transfer(remote):
            remote.fs.put_file(os.fspath(file), remote.fs.join(remote.folder, f"{_host_name(workspace)}.json"))


def newest(locks: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the entry of each stage from the lock that was pushed last of those that have it."""
    found: dict[str, Any] = {}
    for lock in sorted(locks, key=lambda lock: str(lock["pushed"])):
        found |= lock["stages"]
    return found


def _stored(remote: Remote) -> list[dict[str, Any]]:
    with _transfer(remote):
        if not remote.fs.exists(remote.folder):
            return []
        return [json.loads(remote.fs.cat_file(path)) for path in sorted(remote.fs.find(remote.folder)) if path.endswith(".json")]


def _stages(text: str | None) -> dict[str, Any]:
    return dict((yaml.safe_load(text or "") or {}).get("stages", {}))


def _lock_text(stages: Mapping[str, Any]) -> str:
    from ruamel.yaml import YAML

    stream = StringIO()
    YAML(typ="safe").dump({"schema": "2.0", "stages": dict(stages)}, stream)
    return stream.getvalue()


def _host_name(workspace: Path) -> str:
    """Return a name for this host and workspace: two workspaces of one host are two hosts here."""
    host = socket.gethostname()
    return f"{host}-{storage.sha256_json([host, str(workspace.resolve())])[:12]}"


@contextmanager
def _transfer(remote: Remote) -> Iterator[None]:
    """Turn errors of the remote's file system, whose types depend on its kind, into one message."""
    try:
        yield
    except Exception as error:
        raise StageError(
            f"the DVC remote cannot be used ({type(error).__name__})", field="core.remote", value=remote.name,
            next_step=f"check access with `dvc status --cloud --remote {remote.name}`",
        ) from error  # fmt: skip
