"""Stage processes end on request and with their owner, and none starts after the end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest

from coat_core.errors import BusyError, Interrupted
from coat_core.watchdog import INTERVAL_S, OWNER, is_alive, owner_mark
from flows.lock import end_orphans, hold_workspace, remove_broken_dvc_files
from flows.processes import StageProcesses
from tests.testing.chain_runs import HANG_S, wait_for

pytestmark = pytest.mark.timeout(1800)

STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(3600)"
"""Longer than any limit: only a signal ends it."""


def test_a_stage_reports_its_exit_status_and_last_output(tmp_path: Path) -> None:
    ended = StageProcesses().run([sys.executable, "-c", "print('hello'); raise SystemExit(3)"], tmp_path, tmp_path / "log")
    assert (ended.returncode, ended.output) == (3, "hello\n")


def test_end_all_kills_a_stubborn_tree_and_forbids_new_starts(tmp_path: Path) -> None:
    processes, caught = StageProcesses(), []
    shell = ["sh", "-c", f'"{sys.executable}" -c "{STUBBORN}" & wait']

    def stage() -> None:
        try:
            processes.run(shell, tmp_path, tmp_path / "log")
        except Interrupted as error:
            caught.append(error)

    thread = threading.Thread(target=stage)
    thread.start()
    assert wait_for(lambda: (tmp_path / "log").exists() and "up" in (tmp_path / "log").read_text())
    children = [child for child in psutil.Process().children(recursive=True) if os.getpgid(child.pid) != os.getpgid(0)]
    assert len(children) >= 2
    processes.end_all()
    thread.join(HANG_S)
    assert caught
    assert wait_for(lambda: not [child for child in children if _lives(child)])
    with pytest.raises(Interrupted):
        processes.run(["true"], tmp_path, tmp_path / "log")


def test_a_stage_ends_with_its_owner(tmp_path: Path) -> None:
    owner = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)"])
    code = (
        "from coat_core.watchdog import watch_owner; import subprocess, time; watch_owner();"
        "subprocess.Popen(['sleep', '3600']); print('up', flush=True); time.sleep(3600)"
    )
    stage = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, env={**os.environ, OWNER: owner_mark(owner.pid)}, start_new_session=True
    )
    assert stage.stdout is not None
    assert stage.stdout.readline() == b"up\n"
    child = psutil.Process(stage.pid).children()[0]
    with pytest.raises(subprocess.TimeoutExpired):
        stage.wait(2 * INTERVAL_S)
    owner.kill()
    owner.wait()
    assert stage.wait(HANG_S) == -signal.SIGKILL
    assert wait_for(lambda: not _lives(child))
    stage.stdout.close()


def _lives(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


def test_marks(tmp_path: Path) -> None:
    assert is_alive(owner_mark())
    assert not is_alive(f"{os.getpid()}:1.0")
    assert not is_alive("nonsense")


def test_the_lock_names_its_holder(tmp_path: Path) -> None:
    code = (
        "from flows.lock import hold_workspace; from pathlib import Path; import time\n"
        f"with hold_workspace(Path({str(tmp_path)!r})):\n print('held', flush=True); time.sleep(3600)"
    )
    holder = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"held\n"
    with pytest.raises(BusyError, match=f"process {holder.pid} since"), hold_workspace(tmp_path):
        pass
    holder.kill()
    holder.wait()
    holder.stdout.close()
    with hold_workspace(tmp_path), hold_workspace(tmp_path):
        pass


def test_half_written_dvc_files_are_removed(tmp_path: Path) -> None:
    (tmp_path / ".dvc/tmp").mkdir(parents=True)
    (tmp_path / ".dvc/tmp/rwlock").write_text("")
    (tmp_path / "dvc.lock").write_text("")
    remove_broken_dvc_files(tmp_path)
    assert not (tmp_path / ".dvc/tmp/rwlock").exists()
    assert not (tmp_path / "dvc.lock").exists()
    (tmp_path / "dvc.lock").write_text("schema: '2.0'\nstages: {}\n")
    remove_broken_dvc_files(tmp_path)
    assert (tmp_path / "dvc.lock").exists()


def test_orphans_of_a_dead_flow_are_killed_and_other_processes_are_not(tmp_path: Path) -> None:
    code = "import time; time.sleep(3600)"
    orphan = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, env={**os.environ, OWNER: "1:1.0"})
    other = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, env={**os.environ, OWNER: owner_mark()})
    assert wait_for(lambda: OWNER in psutil.Process(orphan.pid).environ())
    assert end_orphans(tmp_path) == 1
    orphan.wait(HANG_S)
    assert other.poll() is None
    other.kill()
    other.wait()
