"""Constant predictors by hand, as the least loss, in a new head and in a saved one; skill and the oracle of the clip's mean."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from coat_core.errors import TrainingError
from coat_core.experts.base import ExpertSpec
from coat_core.settings import HeadSettings, LossSettings
from coat_core.thinking.constants import best_constants, constant_loss, fit_constants
from coat_core.thinking.heads import ExpertHead, build_heads, empty_heads
from coat_core.thinking.losses import Target
from coat_core.thinking.skill import clip_mean_loss, skill

KINDS = ("representation", "regression", "posteriors", "pitch_bins")
SETTINGS = HeadSettings(width=16, attention_heads=2)
LOSSES = LossSettings(balance="none")


def _specs() -> dict[str, ExpertSpec]:
    """One expert of each kind, with the native rate of the heads: pooling changes nothing but the bins of unvoiced frames."""
    names = tuple("abcd")
    return {kind: ExpertSpec("made_up", "speech", kind, 4, 25.0, 16000, "1", "CC0-1.0", True, "tests", names) for kind in KINDS}  # type: ignore[arg-type]


def _heads(seed: int = 0) -> nn.ModuleDict:
    specs = _specs()
    return build_heads(specs, {key: (torch.zeros(4), torch.ones(4)) for key in specs}, 8, SETTINGS, seed)


def _clip(kind: str, seed: int, frames: int) -> tuple[Tensor, Tensor, float]:
    generator = torch.Generator().manual_seed(seed)
    features = torch.rand((frames, 4), generator=generator)
    if kind in ("representation", "regression"):
        features = 2 * torch.randn((frames, 4), generator=generator).exp() - torch.randn((1, 4), generator=generator)
    if kind == "pitch_bins":
        features[:, :3] /= features[:, :3].sum(1, keepdim=True)
    mask = torch.rand(frames, generator=generator) < 0.7
    mask[0] = True
    return features, mask, frames / 25.0


def _clips() -> dict[str, list[tuple[Tensor, Tensor, float]]]:
    return {kind: [_clip(kind, seed, frames) for seed, frames in enumerate((20, 30, 7, 50, 12))] for kind in KINDS}


def _head(heads: nn.ModuleDict, kind: str) -> ExpertHead:
    head = heads[kind]
    assert isinstance(head, ExpertHead)
    return head.eval()


def _loss(head: ExpertHead, clips: list[tuple[Tensor, Tensor, float]], losses: LossSettings = LOSSES) -> float:
    states = torch.randn((len(clips), 5, 8), generator=torch.Generator().manual_seed(9))
    return float(head.loss(states, [clip[2] for clip in clips], [clip[:2] for clip in clips], losses).detach()) / len(clips)


def test_the_constant_of_posteriors_by_hand() -> None:
    """Two clips with means ¼ and ¾: the constant is ½, whose logit is 0, and its loss is ln 2 for every target."""
    target = torch.tensor([[[0.0], [0.5]], [[0.75], [9.0]]])
    mask = torch.tensor([[True, True], [True, False]])
    assert best_constants("posteriors", target, mask, LOSSES).tolist() == [[0.0]]
    assert float(constant_loss("posteriors", torch.zeros(1, 1), target, mask, LOSSES)) == pytest.approx(2 * math.log(2))


def test_the_constant_of_pitch_by_hand() -> None:
    """Clip 1 has bins (1, 0), clip 2 (½, ½) and clip 3 is unvoiced: bins (¾, ¼), voicing (1 + ½ + 0) / 3 = ½."""
    target = torch.tensor([[[1.0, 0, 1], [1, 0, 1]], [[0.5, 0.5, 1], [0, 0, 0]], [[0, 0, 0], [0, 0, 0]]])
    constant = best_constants("pitch_bins", target, torch.ones(3, 2).bool(), LOSSES)[0]
    torch.testing.assert_close(constant[:2].softmax(0), torch.tensor([0.75, 0.25]), atol=1e-3, rtol=0)
    assert float(constant[2]) == pytest.approx(0.0, abs=1e-6)


def test_the_constant_of_a_regression_by_hand() -> None:
    """Targets 0, 0, 0, 4: smooth-L1 has derivative 3c - 1 for 0 ≤ c ≤ 1, so c = ⅓ (the mean is 1): (3 · c² / 2 + 4 - c - ½) / 4."""
    target, mask = torch.tensor([[[0.0], [0], [0], [4], [7]]]), torch.tensor([[True, True, True, True, False]])
    constant = best_constants("regression", target, mask, LOSSES)
    assert float(constant) == pytest.approx(1 / 3, abs=1e-3)
    assert float(constant_loss("regression", constant, target, mask, LOSSES)) == pytest.approx((1 / 6 + 4 - 1 / 3 - 0.5) / 4, rel=1e-4)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("by_clip", [False, True])
def test_no_other_constant_has_a_smaller_loss(kind: str, by_clip: bool) -> None:
    head = _head(_heads(), kind)
    clips = _clips()[kind]
    target, mask = head.targets([clip[2] for clip in clips], [clip[:2] for clip in clips], torch.device("cpu"))
    constants = best_constants(kind, target, mask, LOSSES, by_clip=by_clip)
    assert constants.shape == (len(clips) if by_clip else 1, 4)
    least = float(constant_loss(kind, constants, target, mask, LOSSES))
    generator = torch.Generator().manual_seed(0)
    for scale in (0.01, 0.1, 1.0):
        for _ in range(20):
            other = constants + scale * torch.randn(constants.shape, generator=generator)
            assert float(constant_loss(kind, other, target, mask, LOSSES)) > least - 1e-4
    if not by_clip:
        each = best_constants(kind, target, mask, LOSSES, by_clip=True)
        assert float(constant_loss(kind, each, target, mask, LOSSES)) < least


@pytest.mark.parametrize("kind", KINDS)
def test_an_untrained_head_has_no_skill(kind: str) -> None:
    heads = _heads()
    fit_constants(heads, _clips(), LOSSES)
    head = _head(heads, kind)
    assert skill(_loss(head, _clips()[kind]), float(head.constant)) == pytest.approx(0.0, abs=1e-5)
    assert _loss(head, _clips()[kind], LossSettings(balance="constant")) == pytest.approx(1.0, abs=1e-5)


def test_the_fit_depends_on_the_clips_only() -> None:
    one, other = _heads(0), _heads(1)
    state = torch.get_rng_state()
    fit_constants(one, _clips(), LOSSES)
    fit_constants(other, {kind: iter(clips) for kind, clips in _clips().items()}, LOSSES)
    assert torch.equal(torch.get_rng_state(), state)
    for kind in KINDS:
        assert torch.equal(_head(one, kind).constant, _head(other, kind).constant)
        assert torch.equal(_head(one, kind).leave.bias, _head(other, kind).leave.bias)


def test_clips_without_a_valid_frame_are_ignored() -> None:
    heads, other = _heads(), _heads()
    silent = (torch.full((10, 4), torch.nan), torch.zeros(10).bool(), 0.4)
    fit_constants(heads, {kind: [*clips, silent] for kind, clips in _clips().items()}, LOSSES)
    fit_constants(other, _clips(), LOSSES)
    assert all(torch.equal(_head(heads, kind).constant, _head(other, kind).constant) for kind in KINDS)
    with pytest.raises(TrainingError, match="features/posteriors"):
        fit_constants(_heads(), {**_clips(), "posteriors": [silent]}, LOSSES)
    with pytest.raises(TrainingError, match="different experts"):
        fit_constants(_heads(), {"posteriors": [silent]}, LOSSES)


def test_targets_that_never_vary_leave_the_loss_unscaled() -> None:
    heads = _heads()
    clip = (torch.full((10, 4), 0.5), torch.ones(10).bool(), 0.4)
    fit_constants(heads, {**_clips(), "regression": [clip, clip]}, LOSSES)
    head = _head(heads, "regression")
    assert float(head.constant) == 0.0
    assert math.isfinite(_loss(head, [clip], LossSettings(balance="constant")))


def test_long_clips_are_sampled() -> None:
    """Of 640 frames the fit takes every tenth: one in ten is 1."""
    heads = _heads()
    features = torch.zeros(640, 4)
    features[::10] = 1.0
    fit_constants(heads, {**_clips(), "posteriors": [(features, torch.ones(640).bool(), 25.6)]}, LOSSES)
    assert bool((_head(heads, "posteriors").leave.bias > 5).all())


def test_the_constant_is_saved_with_the_head() -> None:
    heads, loaded = _heads(), empty_heads(_specs(), 8, SETTINGS)
    fit_constants(heads, _clips(), LOSSES)
    loaded.load_state_dict(heads.state_dict())
    for kind in KINDS:
        assert float(_head(loaded, kind).constant) == float(_head(heads, kind).constant) > 0


def test_skill_by_hand() -> None:
    assert skill(0.5, 2.0) == 0.75
    assert skill(3.0, 2.0) == -0.5
    assert skill(torch.tensor([2.0, 0.0]), torch.tensor(2.0)).tolist() == [0.0, 1.0]


def test_the_clip_mean_oracle_by_hand() -> None:
    """Clip 1 is constant and costs nothing; clip 2 alternates -½ and ½: its mean 0 costs (½)² / 2 = 1/8; the third has no target."""
    head = _head(_heads(), "regression")
    targets: list[Target | None] = [
        (torch.full((10, 4), 3.0), torch.ones(10).bool()),
        (torch.tensor([-0.5, 0.5]).repeat(5)[:, None].repeat(1, 4), torch.ones(10).bool()),
        None,
    ]
    assert float(clip_mean_loss(head, [0.4] * 3, targets, LOSSES)) == pytest.approx(0.125, rel=1e-4)
    head.constant.fill_(0.5)
    assert float(clip_mean_loss(head, [0.4] * 3, targets, LossSettings(balance="constant"))) == pytest.approx(0.25, rel=1e-4)
    assert float(clip_mean_loss(head, [0.4], [None], LOSSES)) == 0.0
