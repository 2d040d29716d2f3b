"""Fill the disk while a command writes, and count what was wrong afterwards: nothing may be. Linux; the right to mount is needed.

    python -m benchmarks.disk_full [--places corpus,audio] [--size 200] [--reference DIR] [--folder DIR] [--json FILE]

A finished workspace is the reference. For each place, a copy of it is on a small tmpfs, with its DVC cache, MLflow's and Prefect's records
and the temporary files; what the command makes is removed from the copy, and a ballast file leaves only a little room, from the start or
once the command has written a given file. Checked:

* the command ends with an error, and its last line says that the disk is full, how much is free and what to do; there is no traceback
* what exists of its outputs is complete: byte-equal to the reference, without temporary files (a store may lack shards)
* with the ballast removed, the same command completes, and all deterministic files are byte-equal to the reference

The exit status is 1 if a check failed.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

from benchmarks.disk_full_places import PLACES, Place
from benchmarks.machine import describe_machine
from coat_core.storage import sha256_file, write_json
from tests.testing import chain_runs

ROOT = Path(__file__).resolve().parent.parent
STORES = ("features", "audio")
"""Outputs that are updated in place: a shard is whole or absent, and the index is of the shards."""
_PAUSE_S = 0.002
_SAID = re.compile(r"the disk is (full|too small).* free.*next step: ")
_DVC_TEMPORARY = re.compile(r"\.[\w-]{22}\.tmp\Z")
"""DVC leaves such a file where it could not link an output, and removes it when the stage runs again: `dvc.lock` does not name it."""
_LIBRARY = re.compile(r"No space left on device")
_ESCAPES = re.compile(r"\x1b\[[0-9;]*m")


@dataclass
class Result:
    """What happened at one place."""

    place: str
    command: str
    status: int = 0
    said: str = ""
    """Last line of the error."""
    files: int = 0
    """Files that were compared after the command had completed."""
    problems: list[str] = field(default_factory=list)


class SmallDisk:
    """A tmpfs with a workspace, and a file that fills it.

    Args:
        folder: an empty folder, on which it is mounted.
        size: bytes.
    """

    def __init__(self, folder: Path, size: int) -> None:
        self.folder, self.size = folder, size
        self.workspace, self.ballast = folder / "workspace", folder / "ballast"

    @contextmanager
    def mounted(self) -> Iterator[SmallDisk]:
        """Mount it for the block.

        Raises:
            SystemExit: this user may not mount.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={self.size}", "tmpfs", self.folder], capture_output=True, text=True, check=False
        )
        if mounted.returncode:
            raise SystemExit(f"a tmpfs cannot be mounted at {self.folder}: {mounted.stderr.strip()}; run as root")
        try:
            yield self
        finally:
            subprocess.run(["umount", "--lazy", self.folder], check=True)

    def restore(self, reference: Path) -> None:
        """Put a copy of a finished workspace on the disk, with a DVC cache beside it, and remove everything else."""
        for path in self.folder.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        (self.folder / "tmp").mkdir()
        shutil.copytree(reference, self.workspace, symlinks=True, ignore=shutil.ignore_patterns("waveforms"))
        for link in self.workspace.iterdir():
            if link.is_symlink():
                target = (reference / link.readlink()).absolute()
                link.unlink()
                link.symlink_to(target)
        cache, own = cache_of(reference), self.folder / "workspace-cache"
        if cache.is_dir():
            shutil.copytree(cache, own, symlinks=True)
        config = self.workspace / ".dvc/config.local"
        config.write_text(config.read_text().replace(str(cache), str(own)))

    def free(self) -> int:
        """Return the free bytes."""
        state = os.statvfs(self.folder)
        return state.f_bavail * state.f_frsize

    def fill(self, room: int) -> None:
        """Make the ballast so large that `room` bytes are free; it only grows. Room that others take meanwhile is not missing here."""
        with self.ballast.open("ab") as stream, suppress(OSError):
            if (more := self.free() - room) > 0:
                os.posix_fallocate(stream.fileno(), stream.tell(), more)

    def empty(self) -> None:
        """Remove the ballast."""
        self.ballast.unlink(missing_ok=True)

    @contextmanager
    def filled(self, place: Place) -> Iterator[None]:
        """Fill the disk for the block: at once, or when the place's file appears; then keep it full."""
        if place.when is None:
            self.fill(place.room)
            yield
            return
        ended = threading.Event()

        def keep_full() -> None:
            while not ended.wait(_PAUSE_S):
                if any(self.workspace.glob(place.when or "")):
                    break
            while not ended.wait(_PAUSE_S):
                self.fill(place.room)

        thread = threading.Thread(target=keep_full)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()


def cache_of(workspace: Path) -> Path:
    """Return the DVC cache of a workspace of `chain_runs.make_tiny`."""
    found = re.search(r"^\s*dir = (.+)$", (workspace / ".dvc/config.local").read_text(), re.MULTILINE)
    assert found, "a workspace with a cache of its own"
    return Path(found[1])


def try_place(place: Place, disk: SmallDisk, reference: Path) -> Result:
    """Fill the disk at one place, and compare what is there then, and after the same command has completed."""
    expected = outputs(reference)
    result = Result(place.name, " ".join(place.command))
    disk.restore(reference)
    place.forget(disk.workspace)
    versions = chain_runs.versions(disk.workspace)
    with disk.filled(place):
        result.status, printed = call(place, disk)
    result.said = next((line for line in reversed(printed.splitlines()) if line.strip()), "")
    if not result.status:
        result.problems.append("the command did not fail")
    if not (_LIBRARY if place.foreign else _SAID).search(result.said):
        result.problems.append(f"the last line does not say that the disk is full: {result.said[-300:]}")
    if "Traceback (most recent call last)" in printed:
        result.problems.append(f"a traceback was printed: {printed[:1500]}")
    result.problems += [f"after the failure: {problem}" for problem in half_written(place, disk.workspace, reference, expected)]
    if chain_runs.versions(disk.workspace) != versions:
        result.problems.append("after the failure: a version was registered")
    disk.empty()
    for name in place.removed:
        (disk.workspace / name).unlink(missing_ok=True)
    status, printed = call(place, disk)
    if status:
        result.problems.append(f"with room, the command failed: {printed[-1500:]}")
    found = outputs(disk.workspace)
    result.files = len(found)
    if differing := sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name)):
        result.problems.append(f"with room, {len(differing)} files differ: {differing[:5]}")
    result.problems += [f"with room, there is no {name}" for name in place.makes if not (disk.workspace / name).exists()]
    result.problems += [f"with room, a temporary file is left: {path}" for path in temporary_files(place, disk.workspace)]
    return result


def call(place: Place, disk: SmallDisk) -> tuple[int, str]:
    """Run the command of a place; return its status and what it printed."""
    variables = chain_runs.environment(TMPDIR=str(disk.folder / "tmp"), NO_COLOR="1")
    program = chain_runs.BIN / place.command[0]
    done = subprocess.run(
        [program, *place.command[1:]], cwd=disk.workspace, env=variables, timeout=chain_runs.HANG_S,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", check=False,
    )  # fmt: skip
    return done.returncode, _ESCAPES.sub("", done.stdout)


def outputs(workspace: Path) -> dict[str, str]:
    """Return the SHA-256 of every deterministic file that a workspace has."""
    files = (path for name in chain_runs.DETERMINISTIC for path in files_of(workspace / name))
    return {path.relative_to(workspace).as_posix(): sha256_file(path) for path in files}


def files_of(path: Path) -> list[Path]:
    """Return a file, or the files of a folder."""
    return [path] if path.is_file() else sorted(part for part in path.rglob("*") if part.is_file())


def half_written(place: Place, workspace: Path, reference: Path, expected: Mapping[str, str]) -> list[str]:
    """Return what a command that failed has left as if it were complete."""
    problems = [f"a temporary file is left: {path}" for path in temporary_files(place, workspace) if not _DVC_TEMPORARY.search(path)]
    found = {name: digest for name, digest in outputs(workspace).items() if not _DVC_TEMPORARY.search(name)}
    for name, digest in found.items():
        shard = name.rpartition("/")[2].startswith("shard-")
        if expected.get(name) != digest and (shard or not name.startswith(STORES)):
            problems.append(f"{name} differs")
    for name in place.makes:
        whole, there = ({path.relative_to(top) for path in files_of(top / name)} for top in (reference, workspace))
        # DVC compares an output with `dvc.lock` before it is used, and fetches what is missing.
        if (workspace / name).exists() and there != whole and not name.startswith(STORES) and not place.by_dvc:
            problems.append(f"{name} has {len(there)} files, of {len(whole)}")
    return problems


def temporary_files(place: Place, workspace: Path) -> list[str]:
    """Return the files with temporary names beside and below the outputs of a place."""
    names = {*chain_runs.DETERMINISTIC, *place.makes}
    folders = {workspace, *(workspace / name for name in names), *((workspace / name).parent for name in names)}
    found = {path for folder in folders if folder.is_dir() for path in folder.glob(".*.*") if not path.name.startswith((".dvc", ".git"))}
    return sorted(path.relative_to(workspace).as_posix() for path in found)


def run(folder: Path, reference: Path, places: Sequence[Place], size: int, report: Path | None = None) -> list[Result]:
    """Try the places one after the other, print a row for each, and write the results so far."""
    results = []
    with SmallDisk(folder / "disk", size).mounted() as disk:
        print(f"{'place':<12} {'status':>6} {'files':>5} {'s':>5}  last line", flush=True)
        for place in places:
            began = time.monotonic()
            results.append(result := try_place(place, disk, reference))
            said = result.said if len(result.said) < 240 else f"{result.said[:240]} …"
            print(f"{place.name:<12} {result.status:>6} {result.files:>5} {time.monotonic() - began:>5.0f}  {said}", flush=True)
            for problem in result.problems:
                print(f"{'':>12} PROBLEM {problem}", flush=True)
            if report is not None:
                rows = json.loads(json.dumps([asdict(row) for row in results]).replace(str(folder), "FOLDER"))
                write_json(report, {"machine": describe_machine(), "size_mb": size // 1_000_000, "places": rows})
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--places", default=",".join(PLACES), help="default: all")
    parser.add_argument("--size", type=int, default=200, help="of the disk, MB")
    parser.add_argument("--reference", type=Path, default=None, help="a finished tiny workspace; default: run one")
    parser.add_argument("--folder", type=Path, default=None, help="default: a temporary folder")
    parser.add_argument("--json", type=Path, default=None)
    options = parser.parse_args()
    if unknown := [name for name in options.places.split(",") if name not in PLACES]:
        parser.error(f"no such place: {unknown}; there are {', '.join(PLACES)}")
    folder = options.folder or Path(tempfile.mkdtemp(prefix="coat-disk-full-"))
    with SmallDisk(folder / "disk", 1 << 20).mounted():
        pass  # refused here, before a chain is run for nothing
    reference = options.reference
    if reference is None:
        reference = chain_runs.make_tiny(folder / "reference")
        chain_runs.run_chain(reference)
    results = run(folder, reference.resolve(), [PLACES[name] for name in options.places.split(",")], options.size * 1_000_000, options.json)
    count = sum(len(result.problems) for result in results)
    print(f"{len(results)} places, {count} problems")
    sys.exit(1 if count else 0)


if __name__ == "__main__":
    main()
