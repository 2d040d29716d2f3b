"""Params: strict, frozen, and every mistake at once."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from coat_core.errors import SettingsError
from coat_core.settings import ARMS, COMPARISONS, find_arm, load_settings, parse_settings, parse_trial

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def values() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "params.yaml").read_text())


@pytest.mark.parametrize("path", sorted([ROOT / "params.yaml", *(ROOT / "params").glob("*.yaml")]), ids=lambda path: path.name)
def test_every_shipped_params_file_is_valid(path: Path) -> None:
    settings = load_settings(path)
    raw = yaml.safe_load(path.read_text())
    assert set(raw) == set(type(settings).model_fields), "dvc.yaml refers to every section"


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
    ("path", "value", "message"),
    [
        (("trials",), ["coat"], "<arm>-<seed>"),
        (("trials",), ["sft-0", "coat-0", "sft-0"], "listed twice"),
        (("latency", "candidate"), "coat-7", "allowed: base-0, sft-0, coat-0"),
        (("registry", "candidate"), "block-0", "registry.candidate is 'block-0'; allowed: base-0, sft-0, coat-0"),
        (("losses", "expert_weights"), {"smell": 1.0}, "smell"),
        (("corpus", "kind"), "recordings", "must name a folder"),
        (("thinking", "tokens"), 2.5, "thinking.tokens"),
        (("runtime", "threads"), "2", "runtime.threads"),
        (("backbones",), {"bert": {"base": "x", "revision": None, "dtype": "float32"}}, "qwen2_audio"),
    ],
)
def test_a_wrong_value_is_named(values: dict[str, Any], path: tuple[str, ...], value: Any, message: str) -> None:
    section = values
    for part in path[:-1]:
        section = section[part]
    section[path[-1]] = value
    with pytest.raises(SettingsError, match=message):
        parse_settings(values)


def test_settings_are_frozen(values: dict[str, Any]) -> None:
    settings = parse_settings(values)
    with pytest.raises(ValidationError):
        settings.lora.rank = 3  # type: ignore[misc]


def test_missing_file_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="coat workspace"):
        load_settings(tmp_path / "params.yaml")


def test_an_arm_is_described_by_its_fields() -> None:
    assert [name for name, arm in ARMS.items() if not arm.lora] == ["base"]
    assert {name for name, arm in ARMS.items() if arm.heads} == {"coat", "coat_shuffled"}
    assert all(arm.block for arm in ARMS.values() if arm.heads), "heads read the block"
    assert {name for pair in COMPARISONS for name in pair} <= set(ARMS)
    assert parse_trial("coat_shuffled-12") == (ARMS["coat_shuffled"], 12)
    with pytest.raises(ValueError, match="not an arm; allowed: base, sft"):
        find_arm("other")


def test_only_the_table_of_arms_decides_by_name() -> None:
    """No comparison with an arm's name and no list of arm names outside settings/arm.py."""
    compared = re.compile(rf"[=!]= *\"({'|'.join(ARMS)})\"|\bin \(\"({'|'.join(ARMS)})\"")
    found = [
        f"{path.relative_to(ROOT)}:{number}"
        for folder in ("coat_core", "flows")
        for path in sorted((ROOT / folder).rglob("*.py"))
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if compared.search(line)
    ]
    assert found == []
