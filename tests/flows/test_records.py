"""Whose runs a host closes: its own whose process is gone, never those of another host."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from coat_core.watchdog import host_name, owner_mark
from flows.records import owner_state, owner_tag

GONE = "999999999:1.00"


def test_the_tag_of_a_living_process_says_so() -> None:
    assert owner_state(["other", owner_tag()]) == "lives"


@pytest.mark.parametrize(
    ("tags", "state"),
    [
        pytest.param([], "unnamed", id="started by a worker"),
        pytest.param([f"owner:{GONE}@{host_name()}"], "gone", id="process gone"),
        pytest.param([f"owner:{GONE}"], "gone", id="tag of an earlier version"),
        pytest.param([f"owner:{GONE}@another-host"], "elsewhere", id="another host"),
        pytest.param([f"owner:{owner_mark()}@another-host"], "elsewhere", id="another host with a process of the same id"),
    ],
)
def test_only_a_process_of_this_host_is_judged(tags: list[str], state: str) -> None:
    assert owner_state(tags) == state


def test_a_container_with_process_ids_of_its_own_is_another_host(monkeypatch: pytest.MonkeyPatch) -> None:
    tag = owner_tag()
    monkeypatch.setattr(Path, "readlink", lambda _: Path("pid:[4026539999]"))
    assert host_name().endswith("pid:[4026539999]")
    assert owner_state([tag]) == "elsewhere"
    assert owner_state([owner_tag()]) == "lives"


def test_without_linux_names_the_host_is_the_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_proc(_: Path) -> Path:
        raise FileNotFoundError

    monkeypatch.setattr(Path, "readlink", no_proc)
    assert host_name() == os.uname().nodename
