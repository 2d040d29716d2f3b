"""Stage processes end when they are told to, when their owner dies, and never start after the end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from coat_core.errors import BusyError, Interrupted
from coat_core.watchdog import OWNER, is_alive, owner_mark
from flows.lock import end_orphans, hold_workspace, mend_dvc
from flows.processes import StageProcesses

STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"


def _wait_for(condition, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.05)
    return False


def test_a_stage_reports_its_code_and_last_words(tmp_path: Path) -> None:
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
    assert _wait_for(lambda: (tmp_path / "log").exists() and "up" in (tmp_path / "log").read_text(), 10)
    children = [child for child in psutil.Process().children(recursive=True) if os.getpgid(child.pid) != os.getpgid(0)]
    assert len(children) >= 2
    started = time.monotonic()
    processes.end_all()
    thread.join(5)
    assert time.monotonic() - started < 5
    assert caught
    assert not [child for child in children if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]
    with pytest.raises(Interrupted):
        processes.run(["true"], tmp_path, tmp_path / "log")


def test_a_stage_ends_within_two_seconds_of_its_owner(tmp_path: Path) -> None:
    owner = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    code = (
        "from coat_core.watchdog import watch_owner; import subprocess, time; watch_owner();"
        "subprocess.Popen(['sleep', '60']); print('up', flush=True); time.sleep(60)"
    )
    stage = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, env={**os.environ, OWNER: owner_mark(owner.pid)}, start_new_session=True
    )
    assert stage.stdout is not None
    assert stage.stdout.readline() == b"up\n"
    child = psutil.Process(stage.pid).children()[0]
    time.sleep(0.7)
    assert stage.poll() is None
    owner.kill()
    owner.wait()
    assert stage.wait(2.5) == -signal.SIGKILL
    assert _wait_for(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE, 1)
    stage.stdout.close()


def test_marks(tmp_path: Path) -> None:
    assert is_alive(owner_mark())
    assert not is_alive(f"{os.getpid()}:1.0")
    assert not is_alive("nonsense")


def test_the_lock_names_its_holder(tmp_path: Path) -> None:
    code = (
        "from flows.lock import hold_workspace; from pathlib import Path; import time\n"
        f"with hold_workspace(Path({str(tmp_path)!r})):\n print('held', flush=True); time.sleep(60)"
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


def test_half_written_dvc_files_are_cleared(tmp_path: Path) -> None:
    (tmp_path / ".dvc/tmp").mkdir(parents=True)
    (tmp_path / ".dvc/tmp/rwlock").write_text("")
    (tmp_path / "dvc.lock").write_text("")
    mend_dvc(tmp_path)
    assert not (tmp_path / ".dvc/tmp/rwlock").exists()
    assert not (tmp_path / "dvc.lock").exists()
    (tmp_path / "dvc.lock").write_text("schema: '2.0'\nstages: {}\n")
    mend_dvc(tmp_path)
    assert (tmp_path / "dvc.lock").exists()


def test_orphans_of_a_dead_flow_are_killed_and_others_left(tmp_path: Path) -> None:
    code = "import time; time.sleep(60)"
    orphan = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, env={**os.environ, OWNER: "1:1.0"})
    other = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, env={**os.environ, OWNER: owner_mark()})
    assert _wait_for(lambda: OWNER in psutil.Process(orphan.pid).environ(), 5)
    assert end_orphans(tmp_path) == 1
    orphan.wait(5)
    assert other.poll() is None
    other.kill()
    other.wait()
