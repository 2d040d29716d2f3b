from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from coat_core.doctor import blocks
from coat_core.probing.verdict import BYPASS_LOSS, FOLDER, flat_metrics, read_probe, verdict
from coat_core.storage import write_json, write_text
from tests.testing.probes import KNOCK_OUT, invented_probe


def _cost(value: float, error: float) -> dict[str, Any]:
    return {**KNOCK_OUT, "block": {"loss": {"value": 1.0, "error": 0.1}, "cost": {"value": value, "error": error}}}


@pytest.mark.parametrize(
    ("value", "error", "bypassed"),
    [
        pytest.param(0.08, 0.01, False, id="clearly used"),
        pytest.param(0.08, 0.05, True, id="not clear of zero: .08 - 2 x .05"),
        pytest.param(0.009, 0.001, True, id="clear of zero, but below the threshold"),
        pytest.param(BYPASS_LOSS, 0.001, False, id="at the threshold"),
        pytest.param(-0.05, 0.001, True, id="the block does harm"),
    ],
)
def test_a_block_is_bypassed_if_its_cost_is_small_or_not_clear_of_zero(value: float, error: float, bypassed: bool) -> None:
    found = verdict(_cost(value, error))
    assert (found["bypassed"], found["knock_out_cost"]) == (bypassed, value)
    assert found["sentence"].startswith("The thinking block is bypassed:") is bypassed
    assert f"{value:+.3f} ± {2 * error:.3f} nats per token" in found["sentence"]


def test_doctor_names_a_bypassed_block_and_never_fails(tmp_path: Path) -> None:
    assert list(blocks(tmp_path)) == []
    for trial, bypassed in (("coat-0", False), ("coat-1", True)):
        write_json(tmp_path / FOLDER / f"qwen2_audio-{trial}.json", invented_probe(trial=trial, bypassed=bypassed))
    write_text(tmp_path / FOLDER / "qwen2_audio-coat-2.json", "{")
    (finding,) = blocks(tmp_path)
    assert finding.ok
    assert finding.found.splitlines()[0] == "1 of 2 probed releases use their block"
    assert finding.found.splitlines()[1].startswith("qwen2_audio-coat-1: The thinking block is bypassed")


def test_metrics_of_a_probe_are_flat(tmp_path: Path) -> None:
    write_json(tmp_path / FOLDER / "qwen2_audio-coat-0.json", invented_probe())
    probe = read_probe(tmp_path, "qwen2_audio", "coat-0")
    assert probe is not None
    assert read_probe(tmp_path, "qwen2_audio", "coat-7") is None
    flat = flat_metrics(probe)
    assert (flat["probe/knock_out_cost"], flat["probe/bypassed"], flat["probe/cost/audio"]) == (0.08, 0.0, 0.4)
    assert (flat["probe/skill/pitch"], flat["probe/skill_clip_mean/pitch"], flat["probe/choice_accuracy/mean"]) == (0.2, 0.4, 0.5)
    assert "probe/skill/events" not in flat, "an expert without a head"
