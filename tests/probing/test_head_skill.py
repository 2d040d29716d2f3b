from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from coat_core.experts.base import ExpertSpec
from coat_core.probing.head_skill import Clips, head_skills
from coat_core.settings import HeadSettings, LossSettings

HEADS = HeadSettings(width=16, attention_heads=2)
DURATION_S, RATE_HZ = 0.4, 25.0
SPEC = ExpertSpec("made_up", "affect", "regression", 2, RATE_HZ, 16000, "1", "CC0-1.0", True, "tests", ("d0", "d1"))
STORES: Any = {"affect": SimpleNamespace(spec=SPEC, normaliser=SimpleNamespace(mean=np.zeros(2, np.float32), std=np.ones(2, np.float32)))}


def _clips(count: int, seed: int) -> Clips:
    """Clips whose features are constant in time; the states at the audio positions contain them, those at the think positions do not."""
    generator = torch.Generator().manual_seed(seed)
    audio, think, targets = [], [], []
    for _ in range(count):
        value = torch.randn(2, generator=generator)
        states = 0.1 * torch.randn((7, 8), generator=generator)
        states[:, :2] += value
        states[:, 2] += 1.0  # RMSNorm would remove the scale of a state without a constant part.
        audio.append(states)
        think.append(torch.randn((3, 8), generator=generator))
        targets.append((value.expand(10, 2).clone(), torch.ones(10, dtype=torch.bool)))
    return Clips(audio, think, [DURATION_S] * count, {"affect": targets})


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    torch.set_num_threads(1)
    losses = LossSettings(smooth_l1_beta=10.0)
    return head_skills(None, STORES, _clips(48, 1), _clips(16, 2), HEADS, losses, steps=120, seed=3)


def test_a_fresh_head_on_the_audio_positions_has_skill_where_they_contain_the_target(found: dict[str, Any]) -> None:
    entry = found["affect"]
    assert entry["clips"] == 16
    assert entry["skills"]["fresh_on_audio"] > 0.5
    assert entry["skills"]["head"] is None
    assert entry["losses"]["head"] is None
    # The features of a clip are constant, so its mean predicts them exactly.
    assert entry["skills"]["clip_mean"] == pytest.approx(1.0, abs=1e-6)


def test_the_constant_is_the_training_mean_evaluated_on_validation(found: dict[str, Any]) -> None:
    """With β = 10 smooth-L1 is x² / 20, whose best constant is the mean."""
    train, test = ([float(x) for frames, _ in clips.targets["affect"] for x in frames[0]] for clips in (_clips(48, 1), _clips(16, 2)))
    means = np.asarray(train).reshape(-1, 2).mean(axis=0)
    expected = ((np.asarray(test).reshape(-1, 2) - means) ** 2 / 20).mean()
    assert found["affect"]["losses"]["constant"] == pytest.approx(expected, rel=1e-3)


def test_a_head_without_information_has_no_skill() -> None:
    from coat_core.thinking.constants import fit_constants
    from coat_core.thinking.heads import build_heads

    normalisers = {"affect": (torch.zeros(2), torch.ones(2))}
    heads = build_heads({"affect": SPEC}, normalisers, 8, HEADS, 0)
    train, losses = _clips(48, 1), LossSettings(smooth_l1_beta=10.0)
    clips = [(features, mask, DURATION_S) for features, mask in (target for target in train.targets["affect"] if target is not None)]
    fit_constants(heads, {"affect": clips}, losses)
    result = head_skills(heads, STORES, train, _clips(16, 2), HEADS, losses, steps=1, seed=3)
    assert abs(result["affect"]["skills"]["head"]) < 0.1
