from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from coat_core import cli
from coat_core.tiny_bases import small

PARAMS = Path(__file__).parents[2] / "params.yaml"


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    found: list[Any] = []
    monkeypatch.setattr(small, "build_small_bases", lambda *args, **options: found.append((args, options)))
    (tmp_path / "params.yaml").write_bytes(PARAMS.read_bytes())
    monkeypatch.chdir(tmp_path)
    return found


def test_the_command_builds_small_bases_of_the_parts(calls: list[Any]) -> None:
    command = ["bases", "audio_flamingo_3", "--encoder", "e", "--language-model", "m", "--to", "out", "--window", "15", "--steps", "9"]
    result = CliRunner().invoke(cli.app, command)
    assert result.exit_code == 0, result.output
    (keys, target, corpus, options), others = calls[0]
    assert (keys, target, corpus.seed) == (("audio_flamingo_3",), Path("out"), 7)
    assert (options.encoder, options.language_model, options.window_s) == ("e", "m", 15)
    assert (options.training.steps, options.training.trained) == (9, "lora")
    assert others == {"recordings": None, "avoid": set()}


def test_without_a_language_model_a_small_one_is_trained(calls: list[Any]) -> None:
    result = CliRunner().invoke(cli.app, ["bases", "--encoder", "e", "--to", "out", "--recordings", "r", "--recording-clips", "5"])
    assert result.exit_code == 0, result.output
    (keys, _, _, options), others = calls[0]
    assert len(keys) == 3
    assert (options.language_model, options.training.trained, options.recording_clips) == (None, "full", 5)
    assert others["recordings"] == Path("r")


def test_the_training_of_small_bases_can_be_made_shorter(calls: list[Any]) -> None:
    result = CliRunner().invoke(cli.app, ["bases", "--encoder", "e", "--to", "out", "--clips", "7", "--precision", "bfloat16"])
    assert result.exit_code == 0, result.output
    options = calls[0][0][3]
    assert (options.clips_per_family, options.training.precision, options.training.trained) == (7, "bfloat16", "full")


def test_small_bases_need_a_folder(calls: list[Any]) -> None:
    result = CliRunner().invoke(cli.app, ["bases", "--encoder", "e"])
    assert result.exit_code == 2
    assert "--to" in result.output
    assert not calls
