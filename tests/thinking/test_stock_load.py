"""A release needs none of our code: a separate process, in which importing `coat_core` fails, thinks and answers as we do."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from coat_core.backbones.base import Query
from coat_core.thinking.model import ThinkingModel
from coat_core.thinking.release import load_release, write_release
from tests.testing.releases import info_of

PLACEMENTS = ("before_answer", "after_audio")
KEYS = ("qwen2_audio", "qwen2_5_omni", "audio_flamingo_3")


def _answer(backbone: Any, query: Query) -> list[int]:
    inputs = backbone.generation_inputs(backbone.encode([query], generation=True))
    with torch.no_grad():
        out = backbone.model.generate(**inputs, max_new_tokens=12)
    said: list[int] = out[0, inputs["input_ids"].shape[1] :].tolist()
    return said


@pytest.mark.slow
def test_stock_libraries_think_and_answer_as_we_do(
    make_model: Callable[..., ThinkingModel], tiny_bases: dict[str, Path], tmp_path: Path, queries: list[Query]
) -> None:
    query = queries[0]
    np.save(tmp_path / "waveform.npy", query.waveform)
    jobs, ours, blocks = [], [], []
    for key in KEYS:
        for placement in PLACEMENTS:
            model = make_model(key, trained=True, placement=placement)
            folder = tmp_path / f"{key}-{placement}"
            write_release(folder, info_of(model, "coat", tiny_bases[key]), model.backbone, model)
            merged = load_release(folder)
            prompt = merged.backbone.encode([query], generation=True).input_ids[0].tolist()
            ours.append((prompt, _answer(merged.backbone, query), _answer(load_release(folder, merge=False).backbone, query)))
            blocks.append(model.block)
            jobs.append({"release": str(folder), "waveform": str(tmp_path / "waveform.npy"), "text": query.text})
    (tmp_path / "jobs.json").write_text(json.dumps(jobs))
    ran = subprocess.run(
        [sys.executable, "-I", str(Path(__file__).parent / "stock_load.py"), str(tmp_path / "jobs.json")],
        capture_output=True, text=True, cwd=tmp_path, check=False, timeout=500,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr[-3000:]
    answers = json.loads(ran.stdout.splitlines()[-1])
    for job, answer, (prompt, merged_said, unmerged_said), block, placement in zip(
        jobs, answers, ours, blocks, PLACEMENTS * 3, strict=True
    ):
        where = Path(job["release"]).name
        assert block is not None
        assert answer["text"].count(block.text) == 1, where
        assert answer["text"].endswith(block.text) == (placement == "before_answer"), where
        assert answer["input_ids"] == prompt, where
        assert answer["said"] == merged_said == unmerged_said, where
        assert answer["said"] != answer["base"], "the adapter makes no difference, so equality would prove nothing"
        assert not {*answer["said"], *answer["base"]} & {*block.row_ids}, "the block's ids are never written"
