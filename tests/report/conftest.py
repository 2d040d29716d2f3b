"""Workspaces in the layout of the stages, with invented scores."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from coat_core.corpus.examples import Example
from coat_core.evaluation.metrics import METRICS, SCORES, summarise
from coat_core.evaluation.scores import write_scores
from coat_core.evaluation.selection import evaluation_set
from coat_core.evaluation.statistics import Bootstrap
from coat_core.settings import parse_trial
from coat_core.storage import write_json
from tests.testing.evaluations import BACKBONES, CONTRACT, identity_of, invented_scores, make_examples, write_latency, write_run


@pytest.fixture
def make_workspace(tmp_path: Path) -> Callable[..., Path]:
    def make(trials: Sequence[str], backbones: Sequence[str] = BACKBONES, examples: Sequence[Example] | None = None) -> Path:
        chosen = list(examples or make_examples())
        for backbone in backbones:
            for trial in trials:
                arm, _ = parse_trial(trial)
                folder = tmp_path / "evaluation" / f"{backbone}-{trial}"
                rows = invented_scores(chosen, trial, backbone)
                write_scores(folder / SCORES, rows)
                identity = {**identity_of(trial, backbone), "split": "test", "evaluation_set": evaluation_set(chosen)}
                write_json(folder / METRICS, {**identity, **summarise(rows, Bootstrap(resamples=100))})
                if arm.lora:
                    write_run(tmp_path / "runs" / f"{backbone}-{trial}", arm)
            if {"sft-0", "coat-0"} <= set(trials):
                write_latency(tmp_path / "latency" / f"{backbone}.json", backbone)
        write_json(tmp_path / "data/contract/results.json", CONTRACT)
        return tmp_path

    return make
