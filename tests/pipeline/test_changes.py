"""Changes of params by dotted name: the file of a workspace that differs in a few values."""

from __future__ import annotations

from contextlib import nullcontext, suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ruamel.yaml import YAML

from coat_core.errors import SettingsError
from coat_core.pipeline.changes import apply_changes, changed_text, parse_changes
from coat_core.pipeline.workspace import make_workspace
from coat_core.settings import load_settings, parse_settings, read_values

ROOT = Path(__file__).resolve().parents[2]
PARAMS = ROOT / "params.yaml"


def test_a_workspace_has_its_own_values_and_keeps_the_comments(tmp_path: Path) -> None:
    changes = parse_changes(["trials=[base-0, sft-4, coat-4]", "corpus.labelled_clips_per_family=2", "training.learning_rate=1e-3",
                             "probes.trials=[]", "latency={baseline: sft-4, candidate: coat-4}", "registry.candidate=coat-4"])  # fmt: skip
    made = make_workspace(tmp_path / "few", PARAMS, changes)
    settings = load_settings(made / "params.yaml")
    assert (settings.trials, settings.corpus.labelled_clips_per_family, settings.training.learning_rate) == (
        ("base-0", "sft-4", "coat-4"), 2, 0.001)  # fmt: skip
    before, after = PARAMS.read_text().splitlines(), (made / "params.yaml").read_text().splitlines()
    assert [line for line in before if "#" in line] == [line for line in after if "#" in line]
    assert sum(line not in before for line in after) == len(changes)


def test_without_changes_the_file_is_copied_byte_for_byte(tmp_path: Path) -> None:
    assert (make_workspace(tmp_path / "same", PARAMS) / "params.yaml").read_bytes() == PARAMS.read_bytes()


@pytest.mark.parametrize("path", sorted([PARAMS, *ROOT.glob("params/*.yaml")]), ids=lambda path: path.stem)
def test_every_params_file_can_be_changed_in_one_line(path: Path) -> None:
    after = changed_text(path.read_text(), {"evaluation.seed": 12345}).splitlines()
    different = [(old, new) for old, new in zip(path.read_text().splitlines(), after, strict=True) if old != new]
    assert [new.strip() for _, new in different] == ["seed: 12345"]


@given(st.dictionaries(st.sampled_from(["a", "b.c", "b.d.e"]), st.one_of(st.none(), st.integers(), st.text("abno: #'-\n"), st.booleans())))
def test_the_written_text_has_the_applied_values(changes: dict[str, object]) -> None:
    text = "# start\na: 1  # one\nb:\n  c: no\n  d: {e: [1, 2]}\n"
    read, unusual = YAML(typ="safe"), any(isinstance(value, str) for value in changes.values())
    with suppress(SettingsError) if unusual else nullcontext():
        assert read.load(changed_text(text, changes)) == apply_changes(read.load(text), changes)


def test_a_string_that_cannot_be_written_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"cannot write these values.*by hand"):
        changed_text("b: {e: 1}", {"b.e": ":a"})


@pytest.mark.parametrize("word", ["thinking.tokens", "=3", "a..b=1", ".a=1"])
def test_a_change_of_another_form_is_refused(word: str) -> None:
    with pytest.raises(SettingsError, match="NAME=VALUE"):
        parse_changes([word])


def test_a_value_that_is_not_yaml_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"(?s)not YAML.*field: trials"):
        parse_changes(["trials=[base-0"])


def test_unknown_names_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"with these changes.*\n.*thinking\.tokenz: unknown key; allowed: .*tokens"):
        make_workspace(tmp_path / "w", PARAMS, {"thinking.tokenz": 4})
    with pytest.raises(SettingsError, match="no parts"):
        make_workspace(tmp_path / "w", PARAMS, {"thinking.tokens.more": 4})
    assert not (tmp_path / "w").exists()


def test_values_from_the_command_line_are_checked_like_those_of_a_file() -> None:
    values = apply_changes(read_values(PARAMS), parse_changes(["thinking.tokens=4", "losses.balance=none", "training.learning_rate=2e-3"]))
    assert parse_settings(values, "params").thinking.tokens == 4
