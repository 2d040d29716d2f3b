"""Names of registered models and margins of the gate are checked when params are read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from coat_core.errors import SettingsError
from coat_core.settings import load_settings, parse_settings

ROOT = Path(__file__).resolve().parents[2]
GOOD = {"qwen2_audio": "coat-qwen2-audio", "qwen2_5_omni": "coat-qwen2.5-omni", "audio_flamingo_3": "coat-audio-flamingo-3"}


def parse(**registry: Any) -> Any:
    values = yaml.safe_load((ROOT / "params.yaml").read_text())
    values["training"]["precision"] = "float32"
    values["registry"] |= registry
    return parse_settings(values).registry


@pytest.mark.parametrize("name", ["a", "coat_qwen.2-audio", "Modèle 1", "音声"])
def test_a_usable_name_is_accepted(name: str) -> None:
    assert parse(names={**GOOD, "qwen2_audio": name}).names["qwen2_audio"] == name


@pytest.mark.parametrize(
    ("name", "said"),
    [
        pytest.param("a/b", "contains '/'", id="slash"),
        pytest.param("a:b", "contains ':'", id="colon"),
        pytest.param("a@b", "contains '@'", id="at"),
        pytest.param("a%20b", "contains '%'", id="percent"),
        pytest.param("a#b", "contains '#'", id="hash"),
        pytest.param("it's", 'contains "\'"', id="quote"),
        pytest.param("", "is empty", id="empty"),
        pytest.param("  ", "is empty", id="blank"),
        pytest.param(" a", "begin and end", id="leading-space"),
        pytest.param("a ", "begin and end", id="trailing-space"),
        pytest.param("..", "begin and end", id="parent-folder"),
        pytest.param("a\nb", "contains '\\n'", id="line-break"),
        pytest.param("a\x00", "contains '\\x00'", id="control-character"),
        pytest.param("a" * 201, "has 201 characters", id="too-long"),
        pytest.param("a  b", "two spaces", id="two-spaces"),
        pytest.param("coat-qwen2.5-omni", "is the name of qwen2_audio and qwen2_5_omni", id="one-name-for-two"),
        pytest.param("Coat-Qwen2.5-Omni", "is the name of qwen2_audio and qwen2_5_omni", id="one-name-in-two-cases"),
    ],
)
def test_an_unusable_name_is_refused(name: str, said: str) -> None:
    with pytest.raises(SettingsError) as caught:
        parse(names={**GOOD, "qwen2_audio": name})
    assert said in str(caught.value)
    assert "registry.names" in str(caught.value)


def test_every_wrong_name_is_listed() -> None:
    with pytest.raises(SettingsError, match=r"(?s)qwen2_audio: 'a/b'.*audio_flamingo_3: 'c:d'.*letters, digits"):
        parse(names={**GOOD, "qwen2_audio": "a/b", "audio_flamingo_3": "c:d"})


def test_every_backbone_needs_a_name() -> None:
    with pytest.raises(SettingsError, match=r"registry\.names has no name for qwen2_5_omni, audio_flamingo_3"):
        parse(names={"qwen2_audio": "a"})


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1.5, "0.1", True])
@pytest.mark.parametrize("field", ["min_improvement", "min_above_chance", "max_below_base", "max_slice_drop", "min_accuracy"])
def test_a_margin_is_a_finite_difference(field: str, value: Any) -> None:
    with pytest.raises(SettingsError, match=rf"registry\.{field}"):
        parse(**{field: value})


def test_the_candidate_is_one_of_the_trials() -> None:
    with pytest.raises(SettingsError, match=r"registry\.candidate is 'coat-9'; allowed: base-0, sft-0, coat-0"):
        parse(candidate="coat-9")


@pytest.mark.parametrize("path", ["params.yaml", *sorted(f"params/{file.name}" for file in (ROOT / "params").glob("*.yaml"))])
def test_a_shipped_gate_can_judge_its_candidate(path: str) -> None:
    """It compares with the base, which is then among the trials, or states that it does not."""
    settings = load_settings(ROOT / path)
    has_base = any(trial.startswith("base-") for trial in settings.trials)
    assert has_base or settings.registry.max_below_base == 1.0
