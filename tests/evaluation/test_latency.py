from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from coat_core.corpus.examples import Example
from coat_core.errors import EvaluationError
from coat_core.evaluation.latency import (
    measure_described_latency,
    measure_latency,
    spread_over_durations,
    summarise_timings,
    time_answer,
    time_once,
)
from coat_core.settings import LatencySettings
from coat_core.storage import read_json
from tests.testing.evaluations import KEY, make_example


@pytest.mark.slow
def test_latency_times_both_trials_over_the_same_forced_tokens(
    make_release: Callable[..., Path], corpus: tuple[Path, list[Example]], tmp_path: Path
) -> None:
    releases = {f"{arm}-0": make_release(KEY, arm) for arm in ("sft", "coat")}
    settings = LatencySettings(clips=2, repeats=2, new_tokens=3)
    result = measure_latency(releases, corpus[1], corpus[0], settings, tmp_path / "latency.json")
    assert result == read_json(tmp_path / "latency.json")
    sft, coat = result["trials"]["sft-0"], result["trials"]["coat-0"]
    assert sft["decoded_tokens"] == coat["decoded_tokens"] == 3
    assert coat["prompt_tokens"] == sft["prompt_tokens"] + 4 + 2
    assert result["decoded_tokens_added"] == 0
    assert 0 < coat["first_token_s"] < coat["total_s"]
    assert result["ratios"]["total_s"]["pairs"] == 4
    assert result["ratios"]["total_s"]["min"] <= result["ratios"]["total_s"]["median"] <= result["ratios"]["total_s"]["max"]
    with pytest.raises(EvaluationError, match="missing"):
        measure_latency({"sft-0": releases["sft-0"]}, corpus[1], corpus[0], settings, tmp_path / "latency.json")


@pytest.mark.slow
def test_a_described_trial_is_timed_until_its_end_of_turn(
    make_release: Callable[..., Path], corpus: tuple[Path, list[Example]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coat_core.evaluation.latency.MAX_TOKENS", 5)
    releases = {f"{arm}-0": make_release(KEY, arm) for arm in ("described", "coat")}
    settings = LatencySettings(baseline="sft-0", candidate="coat-0", described=("described-0",), clips=2, repeats=2, new_tokens=3)
    result = measure_described_latency(releases, "described-0", corpus[1], corpus[0], settings, tmp_path / "latency.json")
    assert result == read_json(tmp_path / "latency.json")
    assert (result["baseline"], result["candidate"], result["max_tokens"]) == ("described-0", "coat-0", 5)
    assert result["ratios"]["total_s"]["pairs"] == 4
    assert all(1 <= trial["decoded_tokens"] <= 5 for trial in result["trials"].values())
    with pytest.raises(EvaluationError, match="missing"):
        measure_described_latency(releases, "described-1", corpus[1], corpus[0], settings, tmp_path / "latency.json")


def test_decoded_tokens_are_counted_up_to_the_end_of_turn(tiny_bases: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from coat_core.backbones.catalogue import load_backbone
    from tests.testing.prompting import query

    backbone: Any = load_backbone(KEY, str(tiny_bases[KEY]))
    end = backbone.tokenizer.convert_tokens_to_ids("<|im_end|>")

    def generate(ids: list[int]) -> Any:
        def decode(input_ids: Any, stopping_criteria: Any, **arguments: Any) -> Any:
            for _ in ids:
                stopping_criteria[0](input_ids, None)
            return torch.cat([input_ids, torch.tensor([ids])], dim=1)

        return decode

    for ids, finished in (([5, 6, end], 1.0), ([5, 6, 7, 8], 0.0)):
        monkeypatch.setattr(backbone.model, "generate", generate(ids))
        row = time_answer(backbone, query("What?"), 4)
        assert (row["decoded_tokens"], row["finished"]) == (len(ids), finished)
        assert 0 < row["first_token_s"] <= row["total_s"]
    monkeypatch.setattr(backbone.model, "generate", generate([5, 6, 7, 6]))
    assert time_once(backbone, query("What?"), 4, thinking={6, 9})["thinking_tokens"] == 2


def test_clips_to_time_are_spread_over_durations() -> None:
    examples = [make_example(i, duration_s=float(i), sha256=f"{i:064d}") for i in range(10)]
    assert [example.duration_s for example in spread_over_durations(examples, 3)] == [1.0, 5.0, 8.0]
    assert len(spread_over_durations(examples, 20)) == 10


def test_ratios_are_taken_pair_by_pair() -> None:
    def row(first: float) -> dict[str, float]:
        return {"first_token_s": first, "decode_s_per_token": 1.0, "total_s": 2.0, "prompt_tokens": 9, "decoded_tokens": 4}

    summary = summarise_timings({"sft-0": [row(1.0), row(10.0), row(2.0)], "coat-0": [row(2.0), row(10.0), row(3.0)]}, "sft-0", "coat-0")
    assert summary["ratios"]["first_token_s"] == {"median": 1.5, "min": 1.0, "max": 2.0, "pairs": 3}
    assert summary["trials"]["coat-0"]["first_token_s"] == 3.0
