"""The command line: no heavy imports at start-up, and one clear message for an error."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from coat_core.cli import app, main

ROOT = Path(__file__).resolve().parent.parent
COMMANDS = ["run", "workspace", "bases", "register", "promote", "rollback", "lineage", "ask", "serve", "export", "doctor", "ui"]
COMMANDS += ["classifiers", "corpus", "contract", "features", "train", "answer", "score", "latency", "report", "benchmark"]
HEAVY = {
    "torch",
    "transformers",
    "peft",
    "mlflow",
    "prefect",
    "great_expectations",
    "librosa",
    "sklearn",
    "matplotlib",
    "pandas",
    "dvc",
    "flows",
}


def test_help_names_every_command_and_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom coat_core.cli import app\n"
        "try:\n    app(['--help'])\nexcept SystemExit:\n    pass\n"
        "print('LOADED', *sorted({name.split('.')[0] for name in sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    shown, loaded = done.stdout.split("LOADED")
    assert all(f" {command} " in shown for command in COMMANDS)
    assert not HEAVY & set(loaded.split())


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_describes_the_command_and_each_of_its_arguments(command: str) -> None:
    found = get_command(app).commands[command]  # type: ignore[attr-defined]
    result = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "200"})
    assert result.exit_code == 0
    shown = " ".join(result.output.split())
    assert len(found.help.split()) > 2
    assert " ".join(found.help.split()) in shown
    for parameter in found.params:
        assert parameter.opts[0] in shown, "the name of an argument, or an option with its dashes"
        assert parameter.help
        assert parameter.help in shown, "in one line: the window is wide enough"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "qwen2_audio", "coat-7"], "params name no such stage"),
        (["train", "bert", "coat-0"], "train@qwen2_audio-coat-0"),
        (["register", "bert", "coat-0"], "allowed: qwen2_audio"),
        (["rollback", "qwen2_audio", "--why", "", "--who", "me"], "a rollback needs who and why"),
        (["ask", "models/nothing", "none.wav", "What?"], "none.wav"),
        (["ask", "models/nothing", "none.wav", "What?", "--show", "x.jpg"], "ends in .png"),
        (["export", "models/nothing", "--to", "out"], "not a release"),
        (["export", "models/nothing", "--to", "out", "--dtype", "int4"], "unknown dtype"),
        (["workspace", ".", "--params", "params.yaml"], "itself a workspace"),
        (["workspace", "w", "--params", "nothing.yaml"], "cannot read params"),
    ],
)
def test_an_error_is_one_clear_message(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if arguments[0] == "workspace" and arguments[1] == ".":
        monkeypatch.chdir(ROOT)
    else:
        monkeypatch.chdir(tmp_path)
        for name in ("params.yaml", "dvc.yaml"):
            (tmp_path / name).write_text((ROOT / name).read_text())
    before = sorted(path.name for path in tmp_path.iterdir())
    monkeypatch.setattr(sys, "argv", ["coat", *arguments])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 1
    printed = capsys.readouterr().err
    assert message in printed
    assert "Traceback" not in printed
    assert {path.name for path in tmp_path.iterdir()} - set(before) <= {".scratch", "mlflow.db", "mlartifacts"}


@pytest.mark.parametrize(("arguments", "called"), [(["run"], "flows.main.run_chain"), (["corpus"], "coat_core.pipeline.runner.run_stage")])
def test_an_interrupt_is_reported_and_sets_the_exit_status(
    arguments: list[str], called: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(called, interrupt)
    monkeypatch.setattr(sys, "argv", ["coat", *arguments])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 130
    assert capsys.readouterr().err == "coat: stopped; completed work is kept, and the same command resumes\n"


def test_the_number_of_jobs_is_positive() -> None:
    assert CliRunner().invoke(app, ["run", "--jobs", "0"]).exit_code == 2


def test_invalid_params_start_no_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    text = (ROOT / "params.yaml").read_text()
    (tmp_path / "dvc.yaml").write_text((ROOT / "dvc.yaml").read_text())
    (tmp_path / "params.yaml").write_text(
        text.replace("batch_size: 16", "batch_size: 0").replace("tokens: 8 ", "tokens: many ").replace("rank: 16", "rank: -1")
        + "\nextra: 1\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["coat", "corpus"])
    with pytest.raises(SystemExit):
        main()
    printed = capsys.readouterr().err
    assert "4 mistakes" in printed
    assert all(path in printed for path in ("training.batch_size", "thinking.tokens", "lora.rank", "extra: unknown key"))
    assert not (tmp_path / "data").exists()
