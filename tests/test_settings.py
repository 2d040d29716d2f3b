"""Params: strict, frozen, and every mistake at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from coat_core.errors import SettingsError
from coat_core.settings import load_settings, parse_settings

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def values() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "params.yaml").read_text())


@pytest.mark.parametrize("path", sorted([ROOT / "params.yaml", *(ROOT / "params").glob("*.yaml")]), ids=lambda path: path.name)
def test_every_shipped_params_file_holds(path: Path) -> None:
    settings = load_settings(path)
    raw = yaml.safe_load(path.read_text())
    assert set(raw) == set(type(settings).model_fields), "every section is written out, since dvc.yaml refers to it"


def test_every_mistake_is_reported_at_once(values: dict[str, Any]) -> None:
    values["surprise"] = 1
    values["training"]["batch_size"] = 0
    values["training"]["precision"] = "int8"
    values["lora"]["rank"] = "sixteen"
    with pytest.raises(SettingsError) as caught:
        parse_settings(values)
    text = str(caught.value)
    assert "4 mistakes" in text
    assert "surprise: unknown key; allowed: backbones," in text
    assert "training.batch_size: Input should be greater than or equal to 1 (got 0)" in text
    assert "training.precision: Input should be 'no', 'bf16' or 'fp16'" in text
    assert "lora.rank" in text


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        (("trials",), ["coat"], "<arm>-<seed>"),
        (("trials",), ["sft-0", "coat-0", "sft-0"], "named twice"),
        (("latency", "candidate"), "coat-7", "allowed: base-0, sft-0, coat-0"),
        (("losses", "expert_weights"), {"smell": 1.0}, "smell"),
        (("corpus", "kind"), "recordings", "must name a folder"),
        (("thinking", "tokens"), 2.5, "thinking.tokens"),
        (("runtime", "threads"), "2", "runtime.threads"),
        (("backbones",), {"bert": {"base": "x", "revision": None, "dtype": "float32"}}, "qwen2_audio"),
    ],
)
def test_a_wrong_value_is_named(values: dict[str, Any], path: tuple[str, ...], value: Any, said: str) -> None:
    section = values
    for part in path[:-1]:
        section = section[part]
    section[path[-1]] = value
    with pytest.raises(SettingsError, match=said):
        parse_settings(values)


def test_settings_are_frozen(values: dict[str, Any]) -> None:
    settings = parse_settings(values)
    with pytest.raises(ValidationError):
        settings.lora.rank = 3  # type: ignore[misc]


def test_missing_file_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="coat workspace"):
        load_settings(tmp_path / "params.yaml")
