"""Params: strict, frozen, and every mistake at once."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError
from ruamel.yaml import YAML

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
    assert "training.precision: Input should be 'float32', 'bfloat16' or 'float16'" in text
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
        (("training", "strategy"), "deepspeed", "training.strategy: Input should be 'single', 'ddp' or 'fsdp'"),
        (("training", "strategy"), "fsdp", "strategy is fsdp with training.processes: 1; allowed: single"),
        (("training", "strategy"), "ddp", "strategy is ddp with training.processes: 1; allowed: single"),
        (("runtime", "threads"), "2", "runtime.threads"),
        (("evaluation", "suites"), {"mmlu": {"data": "x"}}, "suites.mmlu is no public benchmark; allowed: mmau, mmar,"),
        (("evaluation", "suites"), {"a": {"data": "x", "suite": "b"}}, "evaluation.suites.a.suite: Input should be 'mmau', 'mmar'"),
        (("evaluation", "suites"), {"a-b": {"data": "x", "suite": "mmau"}}, "evaluation.suites.a-b"),
        (("evaluation", "suites"), {"mmau": {"data": "x", "judge": "gpt"}}, "allowed: null, stand-in, local, or an address"),
        (("evaluation", "suites"), {"mmau": {"data": "x", "judge": "http://x"}}, "`judge_model` names the model"),
        (("evaluation", "suites"), {"mmau": {"data": "x", "judge": "stand-in", "judge_model": "m"}}, "both, or neither"),
        (("evaluation", "suites"), {"mmau": {"data": "x", "judge": "local"}}, "`judge_model` names the model of `judge: local`"),
        (
            ("evaluation", "suites"),
            {"mmau": {"data": "x", "judge": "local", "judge_model": "a/b", "judge_revision": "main"}},
            "`judge_revision` is 'main'; allowed: a commit",
        ),
        (
            ("evaluation", "suites"),
            {"mmau": {"data": "x", "judge": "http://x", "judge_model": "m", "judge_revision": "0" * 40}},
            "allowed: a commit .*, with `judge: local`",
        ),
        (
            ("registry", "min_suites"),
            {"mmau": 0.5},
            r"min_suites names mmau; allowed: the benchmarks in evaluation.suites \(there are none\)",
        ),
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


@pytest.mark.parametrize(
    ("processes", "written", "strategy", "shards"),
    [(1, None, "single", 1), (1, "single", "single", 1), (2, None, "ddp", 1), (4, "ddp", "ddp", 1), (4, "fsdp", "fsdp", 4)],
)
def test_the_strategy_follows_the_number_of_processes(
    values: dict[str, Any], processes: int, written: str | None, strategy: str, shards: int
) -> None:
    values["training"] |= {"processes": processes, **({} if written is None else {"strategy": written})}
    training = parse_settings(values).training
    assert (training.strategy, training.shards) == (strategy, shards)


def test_one_process_cannot_have_several(values: dict[str, Any]) -> None:
    values["training"] |= {"processes": 2, "strategy": "single"}
    with pytest.raises(SettingsError, match=r"strategy is single with training\.processes: 2; allowed: ddp, fsdp"):
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
    assert {name for name, arm in ARMS.items() if arm.heads} == {"coat", "coat_shuffled", "align"}
    assert [name for name, arm in ARMS.items() if arm.heads and not arm.block] == ["align"], "these heads read the audio positions"
    assert [name for name, arm in ARMS.items() if arm.described] == ["described"]
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


@pytest.mark.parametrize("path", sorted([ROOT / "params.yaml", *(ROOT / "params").glob("*.yaml")]), ids=lambda path: path.name)
def test_params_have_the_same_values_in_yaml_1_1_and_1_2(path: Path, tmp_path: Path) -> None:
    """DVC reads and writes YAML 1.2, other tools 1.1: no value of ours is spelt as another type in one of them."""
    settings = load_settings(path)
    assert parse_settings(yaml.safe_load(path.read_text())) == settings
    (tmp_path / "old.yaml").write_text(yaml.safe_dump(yaml.safe_load(path.read_text())))
    with (tmp_path / "new.yaml").open("w") as stream:
        YAML().dump(YAML(typ="safe").load(path.read_text()), stream)
    for copy in ("old.yaml", "new.yaml"):
        assert load_settings(tmp_path / copy) == settings
        assert parse_settings(yaml.safe_load((tmp_path / copy).read_text())) == settings


@pytest.mark.parametrize(
    ("written", "new"), [("no", "float32"), ('"no"', "float32"), ("false", "float32"), ("bf16", "bfloat16"), ("fp16", "float16")]
)
def test_an_old_precision_is_refused_with_its_new_name(tmp_path: Path, written: str, new: str) -> None:
    text = (ROOT / "params.yaml").read_text().replace("precision: float32", f"precision: {written}")
    (tmp_path / "params.yaml").write_text(text)
    with pytest.raises(SettingsError, match=f"training.precision: .*write {new}; allowed: float32, bfloat16, float16"):
        load_settings(tmp_path / "params.yaml")


@pytest.mark.parametrize("written", ["2e-05", "1e-3", "0.001", "1.0E-3"])
def test_a_number_as_dvc_writes_it_is_a_number(tmp_path: Path, written: str) -> None:
    text = re.sub(r"  learning_rate: .*", f"  learning_rate: {written}", (ROOT / "params.yaml").read_text(), count=1)
    (tmp_path / "params.yaml").write_text(text)
    assert load_settings(tmp_path / "params.yaml").training.learning_rate == float(written)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("gradient_checkpointing: false", "gradient_checkpointing: off", "write true or false"),
        ("gradient_checkpointing: false", "gradient_checkpointing: false\n  gradient_checkpointing: true", "gradient_checkpointing"),
        ("seed: 7", 'seed: "7"', "write the number without quotes"),
        ("candidate: coat-0", "candidate: 0", "write it in quotes"),
    ],
    ids=["boolean-word", "key-twice", "number-in-quotes", "text-without-quotes"],
)
def test_a_value_of_another_yaml_type_is_refused(tmp_path: Path, old: str, new: str, message: str) -> None:
    text = (ROOT / "params.yaml").read_text()
    assert old in text
    (tmp_path / "params.yaml").write_text(text.replace(old, new, 1))
    with pytest.raises(SettingsError, match=message):
        load_settings(tmp_path / "params.yaml")
