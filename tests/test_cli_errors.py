"""Mistakes on the command line: one line each, the near name, and nothing left behind."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from coat_core.cli import app, main
from coat_core.errors import file_problem

ROOT = Path(__file__).resolve().parent.parent
Run = Callable[..., tuple[int, str]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Return a function that runs `coat` in a folder with params and graph, and returns its status and errors."""
    for name in ("params.yaml", "dvc.yaml"):
        (tmp_path / name).write_text((ROOT / name).read_text())
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)

    def call(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["coat", *arguments])
        with pytest.raises(SystemExit) as caught:
            main()
        return int(caught.value.code or 0), capsys.readouterr().err

    return call


def test_the_version_is_printed() -> None:
    result = CliRunner().invoke(app, ["--version"])
    assert (result.exit_code, result.output) == (0, "coat 0.1.0\n")


def test_the_shell_can_complete_commands() -> None:
    environment = {"_COAT_COMPLETE": "complete_bash", "COMP_WORDS": "coat lin", "COMP_CWORD": "1"}
    result = CliRunner().invoke(app, [], prog_name="coat", env=environment)
    assert result.output.split() == ["lineage"]
    assert "--install-completion" in CliRunner().invoke(app, ["--help"]).output


@pytest.mark.parametrize(
    ("arguments", "near"),
    [
        (["train", "qwen3", "coat-0"], "train@qwen2_audio-coat-0"),
        (["train", "qwen2_audio", "cot-0"], "train@qwen2_audio-coat-0"),
        (["answer", "audio_flamingo3", "sft-0"], "answer@audio_flamingo_3-sft-0"),
        (["features", "pich"], "features@pitch"),
        (["latency", "qwen"], "latency@qwen2_audio"),
    ],
    ids=["backbone", "trial", "other-backbone", "expert", "latency"],
)
def test_an_unknown_stage_suggests_the_near_one_and_lists_few_names(run: Run, arguments: list[str], near: str) -> None:
    status, printed = run(*arguments)
    assert status == 1
    assert f"did you mean {near}?" in printed
    assert printed.count("@") == 2, "the given and the near name, not every stage"


@pytest.mark.parametrize(("typed", "near"), [("trian", "train"), ("promot", "promote"), ("servee", "serve")])
def test_an_unknown_command_suggests_the_near_one(typed: str, near: str) -> None:
    result = CliRunner().invoke(app, [typed])
    assert result.exit_code == 2
    assert near in result.output


@pytest.mark.parametrize(
    ("arguments", "messages"),
    [
        (["lineage", "nonsense"], ["does not name a version"]),
        (["lineage", "models:/coat-qwen2-audio@champion"], ["there is no registry here"]),
        (["serve", "coat-qwen2-audio/1"], ["there is no registry here"]),
        (["export", "coat-qwen2-audio@champion", "--to", "out"], ["there is no registry here"]),
        (["ui"], ["no records of a run"]),
        (["promote", "qwen2_audio", "7"], []),
        (["promote", "qwen2_audio", "abc"], []),
        (["promote", "qwen3"], ["allowed: ", "qwen2_audio"]),
        (["rollback", "qwen2_audio", "--why", "x"], []),
        (["rollback", "qwen3", "--why", "x"], ["allowed: qwen2_audio"]),
        (["register", "qwen2_audio", "coat-0"], []),
        (["corpus", "--unknown"], []),
        (["workspace", "params.yaml/below", "--params", "params.yaml"], ["params.yaml"]),
        (["workspace", "/proc/nowhere", "--params", "params.yaml"], ["next step"]),
        (["bases", "qwen3", "--target", "out"], ["qwen2_audio"]),
        (["doctor", "--published", "qwen3"], ["qwen2_audio"]),
    ],
    ids=[
        "lineage-nonsense", "lineage", "serve", "export", "ui", "promote-version", "promote-word", "promote-backbone", "rollback",
        "rollback-backbone", "register", "option", "below-a-file", "proc", "bases", "published",
    ],
)  # fmt: skip
def test_a_mistake_is_one_message_and_leaves_no_database(run: Run, tmp_path: Path, arguments: list[str], messages: list[str]) -> None:
    status, printed = run(*arguments)
    assert status in (1, 2)
    assert printed.strip()
    assert "Traceback" not in printed
    assert all(message in printed for message in messages), printed
    assert not (tmp_path / "mlflow.db").exists()
    assert not (tmp_path / "out").exists()


def test_a_rollback_without_the_users_variable_takes_the_name_of_the_account(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    monkeypatch.setattr("coat_core.registry.champions.rollback", lambda name, *, who, why: seen.append(who) or ("2", "1"))
    for name in ("USER", "LOGNAME", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    assert CliRunner().invoke(app, ["rollback", "qwen2_audio", "--why", "x"]).exit_code == 0
    monkeypatch.setattr("getpass.getuser", lambda: (_ for _ in ()).throw(KeyError("no account")))
    assert CliRunner().invoke(app, ["rollback", "qwen2_audio", "--why", "x"]).exit_code == 0
    assert seen[0]
    assert seen[1] == "", "the registry then asks for --who"


@pytest.mark.parametrize(
    ("number", "step"),
    [(errno.EACCES, "access"), (errno.EROFS, "can be written"), (errno.ENOSPC, "free space"), (errno.EISDIR, "name a file")],
    ids=["permission", "read-only", "full-disk", "folder"],
)
@pytest.mark.parametrize("named", [True, False], ids=["with-file", "without-file"])
def test_an_error_of_the_operating_system_is_one_line(
    run: Run, number: int, step: str, named: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number), *(["data/x.json"] if named else []))

    monkeypatch.setattr("coat_core.pipeline.runner.run_stage", fail)
    status, printed = run("corpus")
    assert status == 1
    assert printed.count("\n") == 1
    assert step in printed
    assert ("data/x.json" in printed) == named


@pytest.mark.parametrize("error", [OSError("a library's own message"), ConnectionResetError(errno.ECONNRESET, "reset"), KeyError("x")])
def test_any_other_error_keeps_its_traceback(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr("coat_core.pipeline.runner.run_stage", fail)
    monkeypatch.setattr(sys, "argv", ["coat", "corpus"])
    with pytest.raises(type(error)):
        main()
    if isinstance(error, OSError):
        assert file_problem(error) == ""


def test_a_stage_that_gets_sigterm_says_how_to_resume(tmp_path: Path) -> None:
    code = (
        "import sys, time\nimport coat_core.pipeline.runner as runner\n"
        "def wait(name):\n    print('started', flush=True)\n    time.sleep(600)\n"
        "runner.run_stage = wait\nsys.argv = ['coat', 'corpus']\nfrom coat_core.cli import main\nmain()\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "started\n"
    time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 143
    assert errors == "coat: stopped; completed work is kept, and the same command resumes\n"
