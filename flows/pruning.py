"""`coat prune`: remove what is no longer needed (old scratch, unused objects of the DVC cache, old versions); by default only list it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from coat_core.errors import BusyError
from coat_core.pipeline.scratch import Leftover, leftovers
from coat_core.pipeline.scratch import remove as remove_leftover
from coat_core.registry.retention import OldVersion, old_versions, recorded_locks, remove_version
from coat_core.registry.uris import DATABASE, configured
from coat_core.settings import Settings, load_settings
from coat_core.storage import read_json
from flows import dvc
from flows.lock import dvc_runs_in, hold_workspace
from flows.unused import locks_of, only_unused, sharing_workspaces, unused_objects

PARTS = ("scratch", "versions", "cache")


@dataclass(frozen=True)
class Pruned:
    """What was removed, or would be.

    Attributes:
        part: one of `PARTS`.
        count: files and folders, versions, or objects.
        size: bytes.
    """

    part: str
    count: int
    size: int


def prune(
    workspace: Path,
    *,
    days: int,
    parts: Collection[str] = PARTS,
    apply: bool = False,
    also: Iterable[Path] = (),
    echo: Callable[[str], None] = print,
) -> list[Pruned]:
    """List what is no longer needed with its bytes; with `apply`, remove it. No run may be live in a workspace that is concerned.

    Args:
        workspace: the workspace; its own scratch and registry, and the DVC cache that it shares with others.
        days: age of scratch and versions. DVC's `gc` knows no age.
        parts: which of `PARTS`.
        apply: False changes nothing.
        also: workspaces elsewhere that share the cache, where they are not recorded.
        echo: prints one line.

    Raises:
        BusyError: a run is live in this workspace, or in one that shares the cache; nothing was removed.
        StageError: DVC cannot be used, or a `dvc.lock` cannot be read.
        RegistryError: the registry cannot be read or changed.
        SettingsError: params are invalid.
    """
    settings = load_settings(workspace / "params.yaml")
    sharing = sharing_workspaces(workspace, also)
    now = datetime.now(UTC)
    done = []
    with ExitStack() as stack:
        for folder in sharing if "cache" in parts else [workspace]:
            stack.enter_context(hold_workspace(folder, tidy=False))
            if dvc_runs_in(folder):
                raise BusyError(
                    "DVC works in this workspace", field="workspace", value=str(folder), allowed="no run", next_step="wait for it"
                )
        if "scratch" in parts:
            done.append(_scratch(leftovers(workspace, now - timedelta(days=days)), workspace, apply, echo))
        old = _old_versions(workspace, settings, sharing, days, now) if _has_registry(workspace) else []
        if "versions" in parts:
            done.append(_versions(old, workspace, apply, echo))
        if "cache" in parts:
            gone = {(item.name, item.version) for item in old} if "versions" in parts and not apply else set()
            done.append(_cache(workspace, sharing, gone, apply, echo))
    total = sum(item.size for item in done)
    if apply:
        echo(f"removed: {megabytes(total)}")
    else:
        echo(f"would be removed: {megabytes(total)}; nothing was changed" + ("; next: coat prune --apply" if total else ""))
    return done


def megabytes(size: int) -> str:
    """Return a number of bytes in MB, or in bytes below a tenth of one."""
    return f"{size / 1e6:,.1f} MB" if size >= 100_000 else f"{size:,} bytes"


def _scratch(items: Collection[Leftover], workspace: Path, apply: bool, echo: Callable[[str], None]) -> Pruned:
    size = sum(item.size for item in items)
    echo(f"scratch: {len(items)} leftovers, {megabytes(size)}")
    for item in items:
        echo(f"  {item.path.relative_to(workspace)}  {item.what}, since {item.changed:%Y-%m-%d}  {megabytes(item.size)}")
        if apply:
            remove_leftover(item)
    return Pruned("scratch", len(items), size)


def _has_registry(workspace: Path) -> bool:
    return bool(configured()) or (workspace / DATABASE).is_file()


def _old_versions(workspace: Path, settings: Settings, sharing: Iterable[Path], days: int, now: datetime) -> list[OldVersion]:
    in_use = {read_json(path)["fingerprint"] for folder in sharing for path in folder.glob("models/*/coat.json")}
    return old_versions(workspace, set(settings.registry.names.values()), days=days, in_use=in_use, now=now)


def _versions(old: Collection[OldVersion], workspace: Path, apply: bool, echo: Callable[[str], None]) -> Pruned:
    echo(f"versions: {len(old)} withdrawn or superseded, {megabytes(sum(item.size for item in old))}")
    count = size = 0
    for item in old:
        note = f" ({item.note})" if item.note else ""
        kept = apply and not remove_version(workspace, item)
        echo(
            f"  {item.name} version {item.version}  {item.why} {item.since:%Y-%m-%d}{note}  {megabytes(item.size)}"
            + ("  kept: it is in use again" if kept else "")
        )
        count, size = count + (not kept), size + (0 if kept else item.size)
    return Pruned("versions", count, size)


def _cache(workspace: Path, sharing: Sequence[Path], gone: Collection[tuple[str, str]], apply: bool, echo: Callable[[str], None]) -> Pruned:
    locks = [text for folder in sharing for text in locks_of(folder)]
    registries = [folder for folder in sharing if _has_registry(folder)]
    registered = [text for folder in registries for text in recorded_locks(folder, gone if folder == sharing[0] else ())]
    with only_unused(workspace, sharing, [*locks, *registered]) as arguments:
        objects = unused_objects(workspace, arguments)
        size = sum(path.stat().st_size for path in objects if path.is_file())
        echo(f"cache: {len(objects)} objects without a use, {megabytes(size)}")
        for folder in sharing:
            echo(f"  kept: the results of {folder}")
        echo(f"  kept: what registered versions were made from: {len(registered)}")
        if apply and objects:
            dvc.call(workspace, *arguments)
    return Pruned("cache", len(objects), size)
