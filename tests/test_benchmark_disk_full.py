"""`benchmarks.disk_full`: two places are right, and a command that leaves half a file or says nothing of the disk is found."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import disk_full
from benchmarks.disk_full_places import PLACES, Place
from tests.testing import chain_runs

SIZE = 64_000_000


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """Return a folder below which a tmpfs can be mounted."""
    try:
        with disk_full.SmallDisk(tmp_path / "disk", SIZE).mounted():
            pass
    except (SystemExit, FileNotFoundError) as error:
        pytest.skip(str(error))
    return tmp_path


@pytest.fixture
def reference(tmp_path: Path) -> Path:
    """Return a workspace with a corpus and its contract."""
    made = chain_runs.make_tiny(tmp_path / "reference")
    for stage in ("corpus", "contract"):
        chain_runs.command("coat", stage, workspace=made)
    return made


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_full_disk_leaves_nothing_half_written(folder: Path, reference: Path) -> None:
    results = disk_full.run(folder, reference, [PLACES["corpus"], PLACES["contract"]], SIZE, folder / "results.json")
    assert [(result.status, result.problems) for result in results] == [(1, []), (1, [])]
    assert all(result.files > 20 and "the disk is full" in result.said for result in results)
    assert "FOLDER/disk/workspace" in (folder / "results.json").read_text()


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_half_a_file_and_an_error_without_help_are_found(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reference = folder / "reference"
    (reference / ".dvc").mkdir(parents=True)
    (reference / ".dvc/config.local").write_text(f"[cache]\n    dir = {folder / 'reference-cache'}\n")
    (reference / "data").mkdir()
    (reference / "data/accepted.jsonl").write_bytes(b"x" * 1_000_000)
    script = "import pathlib; pathlib.Path('data/accepted.jsonl').write_bytes(b'x' * 1_000_000)"
    monkeypatch.setattr(chain_runs, "BIN", Path(sys.executable).parent)
    place = Place("naive", (Path(sys.executable).name, "-c", script), "", ("data/accepted.jsonl",), 400_000)
    (result,) = disk_full.run(folder, reference, [place], SIZE)
    assert result.status == 1
    assert [problem.split(":")[0] for problem in result.problems] == [
        "the last line does not say that the disk is full", "a traceback was printed", "after the failure",
    ]  # fmt: skip
    assert "data/accepted.jsonl differs" in result.problems[-1]
    (result,) = disk_full.run(folder, reference, [replace(place, room=10_000_000)], SIZE)
    assert result.problems[0] == "the command did not fail"


def test_the_disk_is_filled_when_a_file_appears(folder: Path) -> None:
    with disk_full.SmallDisk(folder / "disk", SIZE).mounted() as disk:
        disk.workspace.mkdir()
        place = Place("x", (), "", (), 100_000, "begun-*")
        with disk.filled(place):
            assert not disk.ballast.exists()
            (disk.workspace / "begun-1").touch()
            assert chain_runs.wait_for(lambda: disk.free() <= 100_000, interval_s=0.01)
            # Room that is freed is taken again.
            (disk.workspace / "big").write_bytes(b"x" * disk.free())
            (disk.workspace / "big").unlink()
            assert chain_runs.wait_for(lambda: disk.free() <= 100_000, interval_s=0.01)
        disk.empty()
        assert disk.free() > SIZE // 2


def test_without_the_right_to_mount_the_message_says_so(tmp_path: Path) -> None:
    if os.geteuid() or shutil.which("setpriv") is None:
        pytest.skip("needs root and setpriv")
    code = (
        "from pathlib import Path\nfrom benchmarks.disk_full import SmallDisk\nimport sys\n"
        "with SmallDisk(Path(sys.argv[1]), 1 << 20).mounted():\n    pass\n"
    )
    command = ["setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin", sys.executable, "-c", code, str(tmp_path / "disk")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "a tmpfs cannot be mounted at" in done.stderr
    assert "run as root" in done.stderr
