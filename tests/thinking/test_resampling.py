from __future__ import annotations

import pytest
import torch

from coat_core.thinking.resampling import (
    frame_count,
    frame_mask,
    frame_width_s,
    interpolate,
    pool_frames,
    sinusoidal_positions,
    time_features,
)


@pytest.mark.parametrize(("duration", "expected"), [(1.0, 25), (0.01, 1), (2.5, 62), (59.0, 100)])
def test_frame_count(duration: float, expected: int) -> None:
    assert frame_count(duration, 25.0, 100) == expected


def test_a_long_clip_has_wider_frames() -> None:
    assert frame_width_s(2.0, 25.0, 100) == pytest.approx(0.04)
    assert frame_width_s(10.0, 25.0, 100) == pytest.approx(0.1)


def test_pooling_by_hand() -> None:
    """100 Hz to 25 Hz: four native frames per bin; masked frames are ignored, and a bin without valid frames is masked."""
    features = torch.tensor([[1.0], [3.0], [5.0], [99.0], [2.0], [2.0], [4.0], [8.0], [7.0], [7.0], [7.0], [7.0]])
    mask = torch.tensor([1, 1, 1, 0, 1, 1, 1, 1, 0, 0, 0, 0]).bool()
    pooled, valid = pool_frames(features, mask, 100.0, 3, 0.04)
    assert pooled.tolist() == [[3.0], [4.0], [0.0]]
    assert valid.tolist() == [True, True, False]


def test_pooling_an_uneven_rate_by_hand() -> None:
    """60 Hz to 25 Hz: frames at 0, 16.7, 33.3 | 50, 66.7 | 83.3, 100 ms …"""
    pooled, valid = pool_frames(torch.arange(7.0)[:, None], torch.ones(7).bool(), 60.0, 3, 0.04)
    assert pooled.flatten().tolist() == [1.0, 3.5, 5.5]
    assert valid.all()


def test_a_frame_on_a_border_belongs_to_the_later_bin() -> None:
    pooled, _ = pool_frames(torch.arange(300.0)[:, None], torch.ones(300).bool(), 100.0, 75, 0.04)
    assert pooled.flatten().tolist() == [4 * t + 1.5 for t in range(75)]


def test_of_the_frames_beyond_the_last_one_is_kept() -> None:
    """Frames of five bins for three target frames: the fourth bin is added to the third, the fifth is ignored."""
    pooled, _ = pool_frames(torch.tensor([0.0, 0, 1, 1, 2, 2, 4, 4, 90, 90])[:, None], torch.ones(10).bool(), 50.0, 3, 0.04)
    assert pooled.flatten().tolist() == [0.0, 1.0, 3.0]


def test_a_slow_expert_leaves_gaps() -> None:
    _, valid = pool_frames(torch.ones(2, 1), torch.ones(2).bool(), 12.5, 4, 0.04)
    assert valid.tolist() == [True, False, True, False]


def test_interpolation_by_hand() -> None:
    """Tokens are at ¼ and ¾ of the clip, four frames at ⅛, ⅜, ⅝ and ⅞; the outer frames equal the nearest token."""
    states, mask = interpolate(torch.tensor([[[0.0], [4.0]], [[1.0], [3.0]]]), [4, 2])
    assert states[0].flatten().tolist() == [0.0, 1.0, 3.0, 4.0]
    assert states[1].flatten().tolist() == [1.0, 3.0, 0.0, 0.0]
    assert mask.tolist() == [[True] * 4, [True, True, False, False]]


def test_interpolation_equals_that_of_torch() -> None:
    tokens = torch.randn((1, 25, 3), generator=torch.Generator().manual_seed(0))
    for frames in (1, 7, 25, 90):
        expected = torch.nn.functional.interpolate(tokens.transpose(1, 2), size=frames, mode="linear", align_corners=False).transpose(1, 2)
        torch.testing.assert_close(interpolate(tokens, [frames])[0], expected)


def test_positions_are_sines_and_cosines() -> None:
    table = sinusoidal_positions(3, 5, torch.device("cpu"))
    assert table.shape == (3, 5)
    torch.testing.assert_close(
        table[2, :2], torch.tensor([2.0]).sin().repeat(2) * torch.tensor([1.0, 0.0]) + torch.tensor([0.0, float(torch.tensor(2.0).cos())])
    )
    assert len({tuple(row.tolist()) for row in sinusoidal_positions(200, 8, torch.device("cpu"))}) == 200


def test_interpolation_over_each_rows_own_tokens() -> None:
    """Rows of 2 and of 1 tokens; what follows them is not read."""
    states, mask = interpolate(torch.tensor([[[0.0], [4.0], [50.0]], [[7.0], [50.0], [50.0]]]), [4, 2], torch.tensor([2, 1]))
    assert states[0].flatten().tolist() == [0.0, 1.0, 3.0, 4.0]
    assert states[1].flatten().tolist() == [7.0, 7.0, 0.0, 0.0]
    assert mask.tolist() == [[True] * 4, [True, True, False, False]]


def test_a_frame_mask_counts_the_frames_of_each_clip() -> None:
    assert frame_mask([3, 1], torch.device("cpu")).tolist() == [[True, True, True], [True, False, False]]


def test_time_features_by_hand() -> None:
    """One point stands at half of a clip of 0.32 s: half-period 1 gives (1, 0), half of it (√½, √½); 0.16 s are a period of 0.16 s."""
    features = time_features(torch.tensor([1]), torch.tensor([0.32]), 1, 8)[0, 0]
    torch.testing.assert_close(features[:6], torch.tensor([1.0, 0.0, 0.5**0.5, 0.5**0.5, 0.0, 1.0]), atol=1e-5, rtol=0)


def test_equal_times_have_equal_features_on_different_grids() -> None:
    """Point 1 of 3 and point 4 of 9 are both at half of the clip."""
    seconds = torch.tensor([2.5, 2.5])
    features = time_features(torch.tensor([3, 9]), seconds, 9, 64)
    torch.testing.assert_close(features[0, 1], features[1, 4])
    assert features.shape == (2, 9, 64)
    products = features[1] @ features[0, 1]
    assert int(products.argmax()) == 4
    assert len({tuple(row.tolist()) for row in time_features(torch.tensor([200]), seconds[:1], 200, 16)[0]}) == 200
