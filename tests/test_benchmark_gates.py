"""The gates before a comparison, with measures worked out by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.gates import Gate, Measures, gates_of, loss_from_tuning, margins_of, markdown, probe_by_family, read_measures
from coat_core.evaluation.scores import ScoreRow, write_scores
from coat_core.settings import parse_settings
from coat_core.storage import write_json

GOOD = Measures(
    accuracy={"base": {"music": 0.30, "emotion": 0.40}, "sft": {"music": 0.40, "emotion": 0.40}},
    unscored=0.029,
    probe={"music": 0.50, "emotion": 0.50},
    block_loss=-0.0049,
    margins=(0.2, 0.0),
)


def passed(measures: Measures) -> list[bool | None]:
    return [gate.passed for gate in gates_of(measures)]


def test_gates_are_passed_at_their_limits() -> None:
    # sft − base = .40 − .35, probe − sft = .50 − .40.
    assert [round(gate.value or 0.0, 6) for gate in gates_of(GOOD)] == [0.05, 0.1, 0.029, 0.0049, 0.0]
    assert passed(GOOD) == [True] * 5


@pytest.mark.parametrize(
    ("number", "change"),
    [
        pytest.param(0, {"accuracy": {**GOOD.accuracy, "base": {"music": 0.31, "emotion": 0.40}}}, id="no-gain"),
        pytest.param(1, {"probe": {"music": 0.49, "emotion": 0.50}}, id="no-headroom"),
        pytest.param(2, {"unscored": 0.03}, id="unscored"),
        pytest.param(3, {"block_loss": 0.005}, id="a-costly-block"),
        pytest.param(3, {"block_loss": -0.005}, id="a-useful-block-is-no-equal-block"),
        pytest.param(4, {"margins": (0.2, -0.01)}, id="a-head-below-the-mean"),
    ],
)
def test_each_gate_fails_alone(number: int, change: dict) -> None:
    assert passed(replace(GOOD, **change)) == [i != number for i in range(5)]


def test_what_is_missing_is_not_measured() -> None:
    nothing = Measures(accuracy={}, unscored=None, probe=None, block_loss=None, margins=())
    assert passed(nothing) == [None] * 5
    assert markdown({"x": gates_of(nothing)}).count("| not measured | ≥") == 3
    # The probe has no value for a family, so sft is averaged over the others.
    assert gates_of(replace(GOOD, probe={"music": 0.55}))[1].value == pytest.approx(0.15)
    assert Gate("g", float("nan"), 0.0).passed is None


def test_the_probe_is_averaged_over_items_and_cannot_transcribe() -> None:
    rows = [
        {"family": "music", "accuracy": 1.0, "n": 10},
        {"family": "music", "accuracy": 0.5, "n": 30},
        {"family": "transcription", "accuracy": 1.0, "n": 9},
    ]
    assert probe_by_family(rows) == {"music": 0.625}


def test_measures_are_read_from_a_workspace(tmp_path: Path) -> None:
    def scores(trial: str, values: list[float | None]) -> None:
        rows = [
            ScoreRow(
                id=f"i{i}", family="music", task="t", group=f"g{i}", score=value, unscored=None if value is not None else "empty",
                kind="choice", audio="own", chance=0.5,
            )
            for i, value in enumerate(values)
        ]  # fmt: skip
        write_scores(tmp_path / "evaluation" / f"qwen2_audio-{trial}" / "scores.jsonl", rows)

    scores("base-0", [1.0, 0.0, 0.0, 0.0])
    scores("sft-1", [1.0, 1.0, None, 0.0])
    scores("sft-2", [1.0, 0.0, 0.0, 0.0])
    skills = {"events": {"skills": {"head": 0.5, "clip_mean": 0.25}}, "pitch": {"skills": {"head": None, "clip_mean": 0.1}}}
    write_json(tmp_path / "evaluation/probes/qwen2_audio-coat-1.json", {"skill": skills})
    settings = parse_settings(
        {
            "backbones": {"qwen2_audio": {"base": "b"}},
            "experts": {"events": {"implementation": "spectral_events"}},
            "trials": ["base-0", "sft-1", "sft-2", "coat-1"],
            "corpus": {"clips_per_family": {"train": 1, "validation": 1, "test": 1}},
            "latency": {"baseline": "sft-1", "candidate": "coat-1"},
            "registry": {"candidate": "coat-1"},
        }
    )
    measures = read_measures(tmp_path, settings, "qwen2_audio", None, 0.001)
    assert measures == Measures({"base": {"music": 0.25}, "sft": {"music": 0.375}}, 0.125, None, 0.001, [0.25])
    assert margins_of(tmp_path, "qwen2_5_omni") == []


def test_the_loss_of_the_block_is_read_from_a_tuning(tmp_path: Path) -> None:
    entry = {"reference": "sft", "answer_loss_difference": {"value": 0.004, "error": 0.001}}
    write_json(tmp_path / "t.json", {"differences": {"a": {"block": entry}, "b": {"block": {**entry, "reference": "coat"}}}})
    assert [loss_from_tuning(tmp_path / "t.json", key) for key in "abc"] == [0.004, None, None]
