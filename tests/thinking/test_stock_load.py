"""A release loads without `coat_core`: a separate process, in which importing it fails, gives the same prompts and answers."""

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
    answer: list[int] = out[0, inputs["input_ids"].shape[1] :].tolist()
    return answer


@pytest.mark.slow
def test_stock_libraries_give_the_same_prompts_and_answers(
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
            release = load_release(folder)
            prompt = release.backbone.encode([query], generation=True).input_ids[0].tolist()
            ours.append((prompt, _answer(release.backbone, query), _answer(load_release(folder, merge=False).backbone, query)))
            blocks.append(model.block)
            jobs.append({"release": str(folder), "waveform": str(tmp_path / "waveform.npy"), "text": query.text})
    (tmp_path / "jobs.json").write_text(json.dumps(jobs))
    ran = subprocess.run(
        [sys.executable, "-I", str(Path(__file__).parents[1] / "testing" / "stock_load.py"), str(tmp_path / "jobs.json")],
        capture_output=True, text=True, cwd=tmp_path, check=False, timeout=1800,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr[-3000:]
    answers = json.loads(ran.stdout.splitlines()[-1])
    for job, answer, (prompt, merged, unmerged), block, placement in zip(jobs, answers, ours, blocks, PLACEMENTS * 3, strict=True):
        where = Path(job["release"]).name
        assert block is not None
        assert answer["text"].count(block.text) == 1, where
        assert answer["text"].endswith(block.text) == (placement == "before_answer"), where
        assert answer["input_ids"] == prompt, where
        assert answer["answer_ids"] == merged == unmerged, where
        assert answer["answer_ids"] != answer["base_ids"], "the adapter has no effect, so the comparison is meaningless"
        assert not {*answer["answer_ids"], *answer["base_ids"]} & {*block.trainable_token_ids}, "the block's ids are never generated"
