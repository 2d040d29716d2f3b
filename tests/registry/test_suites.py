"""Public benchmarks with a registered version: metrics, artifacts, tags, card and gate."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from coat_core.registry.comparison import read_record
from coat_core.registry.records import SuiteScore
from coat_core.registry.releases import register_trial
from coat_core.settings import RegistrySettings
from tests.registry.conftest import NAME
from tests.testing.suite_results import write_suite_result

SUITES = ("mmau", "gtzan")
SETTINGS = RegistrySettings(min_suites={"mmau": 0.5}, max_slice_drop=0.05, min_improvement=-1.0, max_below_base=1.0)


@pytest.fixture
def artifacts(client: Any) -> Callable[[str], set[str]]:
    return lambda run_id: {file.path for file in client.list_artifacts(run_id, "suites/mmau")}


def test_results_are_stored_with_the_version(
    workspace: Path, client: Any, add_trial: Callable[..., str], artifacts: Callable[[str], set[str]]
) -> None:
    trial = add_trial()
    write_suite_result(workspace, "qwen2_audio", "coat-0", 24)
    made = register_trial(workspace, NAME, trial, SUITES)
    metrics = client.get_run(made.run_id).data.metrics
    assert (metrics["suites/mmau/strict"], metrics["suites/mmau/official"], metrics["suites/mmau/n"]) == (0.6, 0.575, 40)
    assert metrics["suites/mmau/strict_low"] < 0.6 < metrics["suites/mmau/strict_high"]
    assert metrics["suites/mmau/differing_share"] == 0.025
    assert artifacts(made.run_id) == {"suites/mmau/result.json"}
    version = client.get_model_version(NAME, made.version)
    assert "## Public benchmarks" in version.description
    assert "| MMAU, made | 40 | 0.600 [" in version.description
    score = read_record(client, NAME, made.version).suites["mmau"]
    assert (score.value, score.official, score.n, score.data) == (0.6, 0.575, 40, "made, 40 items, MD5 a")
    before = version.last_updated_timestamp
    assert not register_trial(workspace, NAME, trial, SUITES).created
    assert client.get_model_version(NAME, "1").last_updated_timestamp == before, "nothing changed"
    write_suite_result(workspace, "qwen2_audio", "coat-0", 30)
    register_trial(workspace, NAME, trial, SUITES)
    assert read_record(client, NAME, "1").suites["mmau"].value == 0.75
    assert client.get_run(made.run_id).data.metrics["suites/mmau/strict"] == 0.75


def test_a_version_without_benchmarks_has_none(workspace: Path, client: Any, add_trial: Callable[..., str]) -> None:
    made = register_trial(workspace, NAME, add_trial())
    version = client.get_model_version(NAME, made.version)
    assert not any(name.startswith("suite") for name in version.tags)
    assert "Public benchmarks" not in version.description
    assert read_record(client, NAME, made.version).suites == {}


def test_the_gate_reads_the_benchmark_that_params_name(
    workspace: Path, client: Any, register: Callable[..., str], judge: Callable[..., str]
) -> None:
    first = register(6, 6)
    assert judge(first, SETTINGS) == "refused"
    reasons = client.get_model_version(NAME, first).tags["decision_reasons"]
    assert "mmau: the candidate was not scored" in reasons
    write_suite_result(workspace, "qwen2_audio", "coat-0", 24)
    register_trial(workspace, NAME, "qwen2_audio-coat-0", SUITES)
    assert judge(first, SETTINGS) == "promoted"
    second = register(7, 7)
    write_suite_result(workspace, "qwen2_audio", "coat-0", 21)
    register_trial(workspace, NAME, "qwen2_audio-coat-0", SUITES)
    assert read_record(client, NAME, second).suites == {
        "mmau": SuiteScore(0.525, *(read_record(client, NAME, second).suites["mmau"].__dict__[name] for name in ("low", "high", "n")),
                           0.5, "made, 40 items, MD5 a")
    }  # fmt: skip
    assert judge(second, SETTINGS) == "refused"
    reasons = client.get_model_version(NAME, second).tags["decision_reasons"]
    assert reasons == "mmau: 0.525 against 0.600 (-0.075; a drop of at most 0.050 is allowed)"
