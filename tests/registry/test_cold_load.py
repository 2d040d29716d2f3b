from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from coat_core.errors import RegistryError
from coat_core.registry.cold_load import load_cold
from coat_core.registry.database import connect
from tests.testing.served import QUESTION, Served

NAME = "coat-qwen2-audio"
pytestmark = pytest.mark.slow


def test_a_version_is_loaded_cold_once_and_its_answer_is_recorded(served: Served, wav: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The weights of this release are random: what it says is no text. Only here, it counts as an answer.
    monkeypatch.setattr("coat_core.registry.cold_load.answer_problem", lambda answer: "")
    result = load_cold(NAME, "1", served.workspace, audio=wav, question=QUESTION)
    assert (result.answer, result.error) == (served.answer, "")
    tags = connect(served.workspace).get_model_version(NAME, "1").tags
    assert (tags["probe"], tags["probe_answer"]) == ("passed" if result.finished else "failed", served.answer)
    assert tags["probe_finished"] == str(result.finished).lower()
    if not result.finished:
        assert tags["probe_reason"] == "was cut off after 64 tokens"

    def fail(*arguments: Any) -> None:
        raise AssertionError("a version that has passed is not loaded again")

    monkeypatch.setattr("coat_core.registry.cold_load._run_process", fail)
    assert load_cold(NAME, "1", served.workspace, audio=wav, question=QUESTION).answer == served.answer


def test_a_failed_cold_load_contains_the_cause(served: Served) -> None:
    for weights in (served.workspace / "mlartifacts").rglob("adapter_model.safetensors"):
        weights.write_bytes(b"broken")
    result = load_cold(NAME, "1", served.workspace)
    assert not result.passed
    assert "adapter_model.safetensors" in result.error
    assert connect(served.workspace).get_model_version(NAME, "1").tags["probe"] == "failed"
    with pytest.raises(RegistryError, match="version does not exist"):
        load_cold(NAME, "2", served.workspace)
