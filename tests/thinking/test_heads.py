from __future__ import annotations

import pytest
import torch

from coat_core.errors import TrainingError
from coat_core.experts.base import ExpertSpec
from coat_core.settings import HeadSettings, LossSettings
from coat_core.thinking.heads import ExpertHead, build_heads
from coat_core.thinking.losses import Target

SETTINGS = HeadSettings(width=16, attention_heads=2, max_frames=60)
BOTH = [SETTINGS, SETTINGS.model_copy(update={"time": "interpolation"})]
by_time = pytest.mark.parametrize("settings", BOTH, ids=lambda settings: settings.time)


def _spec(target: str, dim: int = 4) -> ExpertSpec:
    return ExpertSpec("made_up", "speech", target, dim, 100.0, 16000, "1", "CC0-1.0", True, "tests", tuple(map(str, range(dim))))


def _head(
    target: str = "representation", dim: int = 4, mean: float = 0.0, std: float = 1.0, settings: HeadSettings = SETTINGS
) -> ExpertHead:
    heads = build_heads({"e": _spec(target, dim)}, {"e": (torch.full((dim,), mean), torch.full((dim,), std))}, 8, settings, 0)
    head = heads["e"]
    assert isinstance(head, ExpertHead)
    return head.eval()


def _target(head: ExpertHead, features: torch.Tensor, mask: torch.Tensor, duration_s: float) -> Target:
    pooled, valid = head.pool(features, mask, duration_s)
    return head.standardise(pooled, valid), valid


def _states(rows: int = 3) -> torch.Tensor:
    return torch.randn((rows, 5, 8), generator=torch.Generator().manual_seed(2))


def test_each_clip_has_its_own_number_of_frames() -> None:
    prediction, mask = _head()(_states(), [1.0, 0.4, 9.0])
    assert prediction.shape == (3, 60, 4)
    assert mask.sum(1).tolist() == [25, 10, 60]


@by_time
@pytest.mark.parametrize("target", ["representation", "posteriors", "pitch_bins", "regression"])
def test_a_prediction_does_not_depend_on_the_batch(target: str, settings: HeadSettings) -> None:
    head, states, durations = _head(target, settings=settings), _states(), [1.0, 0.4, 2.0]
    together = head.predict(states, durations)
    other = head.predict(torch.cat([states[:1], states[1:] * 30 + 5]), [1.0, 2.4, 0.1])[0]
    torch.testing.assert_close(together[0], other, atol=1e-5, rtol=1e-5)
    for row in range(3):
        alone = head.predict(states[row : row + 1], durations[row : row + 1])[0]
        torch.testing.assert_close(together[row], alone, atol=1e-5, rtol=1e-5)


@by_time
def test_a_prediction_depends_on_every_think_token(settings: HeadSettings) -> None:
    states = _states(1).requires_grad_()
    head = _head(settings=settings)
    head(states, [1.0])[0].square().sum().backward()
    assert states.grad is not None
    assert bool((states.grad.abs().sum(-1) > 0).all())


@by_time
def test_every_parameter_has_a_gradient(settings: HeadSettings) -> None:
    """After one step, which changes the parts that start as zero."""
    head = _head(settings=settings).train()
    optimizer = torch.optim.SGD(head.parameters(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        head(_states(), [1.0, 0.4, 2.0])[0].square().sum().backward()
        optimizer.step()
    # A bias of the keys shifts all scores of a query alike, which the softmax ignores.
    without = {name for name, parameter in head.named_parameters() if float(parameter.grad.abs().max()) < 1e-6}  # type: ignore[union-attr]
    assert without <= {"time.place.bias"}


@by_time
def test_padding_of_the_states_changes_nothing(settings: HeadSettings) -> None:
    """Rows of 5, 3 and 1 states, as of audio of different lengths: the padding, here NaN, gets a zero gradient."""
    head, states, durations, counts = _head(settings=settings), _states(), [1.0, 0.4, 2.0], [5, 3, 1]
    mask = torch.arange(5)[None] < torch.tensor(counts)[:, None]
    padded = torch.where(mask[..., None], states, torch.nan).requires_grad_()
    together = head.predict(padded, durations, mask)
    for row, count in enumerate(counts):
        alone = head.predict(states[row : row + 1, :count], durations[row : row + 1])[0]
        torch.testing.assert_close(together[row], alone, atol=1e-5, rtol=1e-5)
    clips = [(torch.randn((round(100 * duration), 4)), torch.ones(round(100 * duration)).bool()) for duration in durations]
    whole = head.loss(padded, durations, clips, LossSettings(), state_mask=mask)
    whole.backward()
    assert padded.grad is not None
    assert bool(torch.isfinite(padded.grad).all())
    assert bool((padded.grad.abs().sum(-1) > 0).eq(mask).all())
    rest = head.loss(padded, durations, [None, clips[1], clips[2]], LossSettings(), state_mask=mask)
    torch.testing.assert_close(whole - rest, head.loss(states[:1], durations[:1], clips[:1], LossSettings()))


@by_time
def test_a_row_without_states_is_finite(settings: HeadSettings) -> None:
    mask = torch.tensor([[True] * 5, [False] * 5, [True] * 5])
    predictions = _head(settings=settings).predict(_states(), [1.0] * 3, mask)
    assert all(bool(torch.isfinite(clip).all()) for clip in predictions)


def test_the_scale_of_states_does_not_matter() -> None:
    head = _head()
    torch.testing.assert_close(head.predict(_states(), [1.0] * 3), head.predict(_states() * 100, [1.0] * 3), atol=1e-4, rtol=1e-4)


def test_targets_are_pooled_and_standardised() -> None:
    features = torch.arange(8.0)[:, None].repeat(1, 2)
    mask = torch.tensor([1, 1, 1, 1, 1, 0, 1, 0]).bool()
    target, valid = _target(_head("regression", 2, mean=0.5, std=2.0), features, mask, 0.08)
    assert valid.tolist() == [True, True]
    assert target.tolist() == [[0.5, 0.5], [2.25, 2.25]]
    target, _ = _target(_head("posteriors", 2, mean=0.5, std=2.0), features / 10, mask, 0.08)
    torch.testing.assert_close(target, torch.tensor([[0.15, 0.15], [0.5, 0.5]]))


def test_pooled_pitch_bins_are_renormalised() -> None:
    """Two bins + voicing. Bin 0: voiced frames (1, 0), (0, 1), (0, 1) and an unvoiced one → (⅓, ⅔), voicing ¾. Bin 1 is unvoiced."""
    features = torch.tensor([[1.0, 0, 1], [0, 1, 1], [0, 1, 1], [0.5, 0.5, 0], [0.5, 0.5, 0], [0.5, 0.5, 0], [0.5, 0.5, 0], [0.5, 0.5, 0]])
    target, valid = _target(_head("pitch_bins", 3), features, torch.ones(8).bool(), 0.08)
    torch.testing.assert_close(target, torch.tensor([[1 / 3, 2 / 3, 0.75], [0.0, 0.0, 0.0]]))
    assert valid.all()


def test_predictions_have_the_experts_units() -> None:
    raw, _ = _head("regression")(_states(1), [1.0])
    torch.testing.assert_close(_head("regression", mean=0.5, std=2.0).predict(_states(1), [1.0])[0], raw[0] * 2.0 + 0.5)
    posteriors = _head("posteriors").predict(_states(1), [1.0])[0]
    assert 0 < float(posteriors.min()) < float(posteriors.max()) < 1
    pitch = _head("pitch_bins").predict(_states(1), [1.0])[0]
    torch.testing.assert_close(pitch[:, :-1].sum(1), torch.ones(25))


@by_time
def test_the_loss_is_the_sum_over_valid_clips(settings: HeadSettings) -> None:
    head, states, losses = _head(settings=settings), _states(), LossSettings()
    generator = torch.Generator().manual_seed(4)
    clips = [(torch.randn((n, 4), generator=generator), torch.ones(n).bool()) for n in (100, 40)]
    both = head.loss(states, [1.0, 0.4, 2.0], [clips[0], clips[1], None], losses)
    one = head.loss(states[:1], [1.0], [clips[0]], losses) + head.loss(states[1:2], [0.4], [clips[1]], losses)
    torch.testing.assert_close(both, one)
    masked = (clips[1][0], torch.zeros(40).bool())
    torch.testing.assert_close(
        head.loss(states, [1.0, 0.4, 2.0], [clips[0], masked, None], losses), head.loss(states[:1], [1.0], clips[:1], losses)
    )


@by_time
def test_the_loss_without_a_valid_clip_is_exactly_zero(settings: HeadSettings) -> None:
    head, states = _head(settings=settings), _states().requires_grad_()
    loss = head.loss(states, [1.0] * 3, [None, None, (torch.full((100, 4), float("nan")), torch.zeros(100).bool())], LossSettings())
    loss.backward()
    assert loss.item() == 0.0
    assert torch.equal(states.grad, torch.zeros_like(states))  # type: ignore[arg-type]


def test_each_head_is_initialised_with_its_own_generator() -> None:
    specs = {"a": _spec("regression"), "b": _spec("posteriors")}
    normalisers = {key: (torch.zeros(4), torch.ones(4)) for key in specs}
    state = torch.get_rng_state()
    both = build_heads(specs, normalisers, 8, SETTINGS, 3)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(99)
    alone = build_heads({"b": specs["b"]}, normalisers, 8, SETTINGS, 3)
    for (name, one), (_, other) in zip(both["b"].state_dict().items(), alone["b"].state_dict().items(), strict=True):
        assert torch.equal(one, other), name
    assert not torch.equal(build_heads(specs, normalisers, 8, SETTINGS, 4)["a"].enter.weight, both["a"].enter.weight)  # type: ignore[union-attr]


def test_a_constant_dimension_is_not_scaled() -> None:
    head = _head("regression", std=0.0)
    target, _ = _target(head, torch.full((4, 4), 3.0), torch.ones(4).bool(), 0.04)
    assert target.tolist() == [[3.0] * 4]


@pytest.mark.parametrize(
    ("settings", "normaliser"),
    [(HeadSettings(width=10, attention_heads=4), (torch.zeros(4), torch.ones(4))), (SETTINGS, (torch.zeros(3), torch.ones(3)))],
)
def test_invalid_settings_are_rejected(settings: HeadSettings, normaliser: tuple[torch.Tensor, torch.Tensor]) -> None:
    with pytest.raises(TrainingError, match="field"):
        ExpertHead(_spec("regression"), normaliser, 8, settings)


def test_a_head_saved_before_the_constant_existed_loads() -> None:
    head, other = _head(settings=BOTH[1]), _head(settings=BOTH[1])
    head.constant.fill_(2.0)
    state = {name: value for name, value in head.state_dict().items() if name != "constant"}
    other.constant.fill_(3.0)
    other.load_state_dict(state)
    assert float(other.constant) == 0.0
    torch.testing.assert_close(other.predict(_states(1), [1.0])[0], head.predict(_states(1), [1.0])[0])
    other.load_state_dict(head.state_dict())
    assert float(other.constant) == 2.0


def test_the_constant_divides_the_loss() -> None:
    head, states = _head(), _states(1)
    clip = (torch.randn((100, 4), generator=torch.Generator().manual_seed(1)), torch.ones(100).bool())
    balanced, none = LossSettings(balance="constant"), LossSettings(balance="none")
    loss = head.loss(states, [1.0], [clip], none)
    torch.testing.assert_close(head.loss(states, [1.0], [clip], balanced), loss)
    head.constant.fill_(0.25)
    torch.testing.assert_close(head.loss(states, [1.0], [clip], balanced), 4 * loss)
    torch.testing.assert_close(head.loss(states, [1.0], [clip], none), loss)
