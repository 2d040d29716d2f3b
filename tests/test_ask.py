"""`coat ask`: the answer is never lost, and an error says what was asked wrong for."""

from __future__ import annotations

import json
import shutil
import sys
import wave
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from coat_core.ask import Answer, ask
from coat_core.cli import main
from coat_core.errors import CoatError
from tests.testing.served import QUESTION, write_loadable_release

Run = Callable[..., tuple[int, str, str]]
MODEL = "models/qwen2_audio-coat-0"


@pytest.fixture(scope="module")
def workspace(tiny_bases: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a release on a tiny base, and a clip; the tests do not change it."""
    folder = tmp_path_factory.mktemp("ask")
    write_loadable_release(folder, tiny_bases, "qwen2_audio", scale=0.1)
    with wave.open(str(folder / "tone.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16_000)
        file.writeframes((9000 * np.sin(np.arange(12_000) / 5)).astype("<i2").tobytes())
    (folder / "empty").mkdir()
    return folder


@pytest.fixture
def run(workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Return a function that runs `coat` in the workspace and returns its status, output and errors."""

    def call(*arguments: str, folder: Path = workspace) -> tuple[int, str, str]:
        monkeypatch.chdir(folder)
        monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
        monkeypatch.setattr(sys, "argv", ["coat", *arguments])
        with pytest.raises(SystemExit) as caught:
            main()
        printed = capsys.readouterr()
        assert "Traceback" not in printed.err
        return int(caught.value.code or 0), printed.out, printed.err

    return call


@pytest.fixture(scope="module")
def answer(workspace: Path) -> str:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(workspace)
        return ask(MODEL, Path("tone.wav"), QUESTION)


def test_standard_output_has_only_the_answer_and_a_tiny_base_is_named(run: Run, answer: str) -> None:
    status, out, err = run("ask", MODEL, "tone.wav", QUESTION)
    assert (status, out) == (0, answer + "\n")
    assert "tiny" in err
    assert "synthetic" in err


def test_json_is_one_object(run: Run, answer: str) -> None:
    status, out, _ = run("ask", MODEL, "tone.wav", QUESTION, "--json")
    record = json.loads(out)
    assert status == 0
    assert (record["model"], record["version"], record["answer"], record["choice"]) == (MODEL, None, answer, None)
    assert record["tiny_base"] is True
    assert isinstance(record["finished"], bool)


def test_the_choices_are_appended_as_in_the_manifest(run: Run, answer: str) -> None:
    status, out, err = run("ask", MODEL, "tone.wav", "What sound is this?", "--choices", "dog bark, siren,rain")
    assert (status, out) == (0, answer + "\n"), "the prompt is that of QUESTION"
    assert "choice" in err


@pytest.mark.parametrize(
    ("text", "choice"), [("a siren", "siren"), ("B", "siren"), ("dog bark or siren", None)], ids=["phrase", "letter", "two"]
)
def test_the_choice_is_the_one_that_the_scorer_reads(
    workspace: Path, text: str, choice: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from coat_core.evaluation.generate import GeneratedAnswer

    seen: list[Answer] = []
    monkeypatch.chdir(workspace)
    monkeypatch.setattr("coat_core.evaluation.generate.generate_answers", lambda *_: [GeneratedAnswer(text, False, (), 3)])
    ask(MODEL, Path("tone.wav"), "What?", choices=("dog bark", "siren"), report=seen.append)
    assert seen[0].choice == choice
    assert bool(seen[0].choice_note) == (choice is None)
    assert any("cut off" in note for note in seen[0].notes())


def test_the_number_of_tokens_is_limited(run: Run) -> None:
    record = json.loads(run("ask", MODEL, "tone.wav", QUESTION, "--json", "--max-new-tokens", "1")[1])
    assert len(record["answer"].split()) <= 1
    assert run("ask", MODEL, "tone.wav", QUESTION, "--max-new-tokens", "0")[0] == 2


@pytest.mark.parametrize(
    "show",
    ["tone.wav/x.png", "empty", "/proc/nowhere/x.png", f"{'x' * 300}.png"],
    ids=["below-a-file", "a-folder", "unwritable-folder", "long-name"],
)
def test_an_answer_is_printed_before_a_figure_that_cannot_be_written(
    run: Run, answer: str, show: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coat_core.ask.build_stores", lambda release, audio: {})
    status, out, err = run("ask", MODEL, "tone.wav", QUESTION, "--show", show)
    assert (status, out) == (1, answer + "\n")
    assert "--show" in err
    assert "the figure cannot be written" in err


def test_an_answer_is_printed_before_a_figure_that_cannot_be_drawn(run: Run, answer: str, tmp_path: Path) -> None:
    status, out, err = run("ask", MODEL, "tone.wav", QUESTION, "--show", str(tmp_path / "x.png"))
    assert (status, out) == (1, answer + "\n"), "the expert of this release is not in the catalogue"
    assert "expert" in err
    assert not (tmp_path / "x.png").exists()


def test_the_figure_shows_neither_a_score_nor_a_family(workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from matplotlib.figure import Figure

    texts: list[str] = []
    write = Figure.text
    monkeypatch.setattr(Figure, "text", lambda self, x, y, s, *rest, **named: texts.append(s) or write(self, x, y, s, *rest, **named))
    monkeypatch.setattr("coat_core.ask.build_stores", lambda release, audio: {})
    monkeypatch.chdir(workspace)
    answer = ask(MODEL, Path("tone.wav"), "What is it?", show=tmp_path / "new" / "x.png")
    shown = " ".join(texts)
    assert (tmp_path / "new" / "x.png").stat().st_size > 1000
    assert "“What is it?”" in shown
    assert "coat-0" in texts
    assert answer.split()[0] in shown
    assert not any(word in shown for word in ("understanding", "score", "unscored", "the answer is", "could not"))


@pytest.mark.parametrize(
    ("arguments", "messages"),
    [
        ([MODEL, "empty", "What?"], ["is a folder"]),
        ([MODEL, ".", "What?"], ["is a folder", "tone.wav"]),
        ([MODEL, "tome.wav", "What?"], ["no such audio file", "did you mean tone.wav"]),
        ([MODEL, "/dev/null", "What?"], ["not a regular file"]),
        ([MODEL, "tone.wav", " \t"], ["the question is blank"]),
        ([MODEL, "tone.wav", "\u200b\u00a0\u2800"], ["the question is blank"]),
        ([MODEL, "tone.wav", "a\udcff"], ["not valid Unicode"]),
        ([MODEL, "tone.wav", "What?", "--choices", "rain"], ["choices has 1 text", "--choices"]),
        ([MODEL, "tone.wav", "What?", "--choices", "rain,,wind"], ["the choice '' contains no text"]),
        ([MODEL, "tone.wav", "What?", "--choices", "Rain, rain."], ["same", "Rain"]),
        ([MODEL, "tone.wav", "What?", "--device", "abacus"], ["no such device"]),
        (["models/qwen2_audio-coat-O", "tone.wav", "What?"], ["no such model", f"did you mean {MODEL}"]),
        (["qwen2_audio-coat-0", "tone.wav", "What?"], ["no such model", f"did you mean {MODEL}"]),
        (["empty", "tone.wav", "What?"], ["not a release"]),
        (["tone.wav", "tone.wav", "What?"], ["is a file"]),
        (["coat-qwen2-audio@champion", "tone.wav", "What?"], ["there is no registry here"]),
        (["models:/coat-qwen2-audio/1", "tone.wav", "What?"], ["there is no registry here"]),
    ],
    ids=[
        "folder-empty", "folder", "missing", "device-file", "blank", "invisible", "surrogate", "one-choice", "empty-choice",
        "equal-choices", "device", "near-release", "release-without-its-folder", "no-release", "file-as-model", "no-registry-alias",
        "no-registry-version",
    ],
)  # fmt: skip
def test_an_error_says_what_was_asked_wrong_for(run: Run, workspace: Path, arguments: list[str], messages: list[str]) -> None:
    status, out, err = run("ask", *arguments)
    assert (status, out) == (1, "")
    assert all(message in err for message in messages), err
    assert not (workspace / "mlflow.db").exists()


def test_a_release_from_another_workspace_finds_its_own_base(run: Run, workspace: Path, answer: str, tmp_path: Path) -> None:
    assert run("ask", str(workspace / MODEL), str(workspace / "tone.wav"), QUESTION, folder=tmp_path)[:2] == (0, answer + "\n")


def test_a_release_without_its_base_says_which_one_and_how_to_give_it(run: Run, workspace: Path, answer: str, tmp_path: Path) -> None:
    shutil.copytree(workspace / MODEL, tmp_path / "copy")
    asked = ("ask", "copy", str(workspace / "tone.wav"), QUESTION)
    status, out, err = run(*asked, folder=tmp_path)
    assert (status, out) == (1, "")
    assert "bases/qwen2_audio" in err
    assert "--base FOLDER" in err
    assert run(*asked, "--base", str(workspace / "bases/qwen2_audio"), folder=tmp_path)[:2] == (0, answer + "\n")


@pytest.mark.parametrize(("file", "message"), [("export.json", "is an export"), ("MLmodel", "saved MLflow model")])
def test_a_folder_of_another_kind_is_named(workspace: Path, tmp_path: Path, file: str, message: str) -> None:
    (tmp_path / file).write_text("{}")
    with pytest.raises(CoatError, match=message):
        ask(str(tmp_path), workspace / "tone.wav", "What?")
