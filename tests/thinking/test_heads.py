from __future__ import annotations

import pytest
import torch
from torch import nn

from coat_core.errors import TrainingError
from coat_core.experts.base import ExpertSpec
from coat_core.settings import HeadSettings, LossSettings
from coat_core.thinking.heads import ExpertHead, Layer, build_heads
from coat_core.thinking.losses import Target

SETTINGS = HeadSettings(width=16, attention_heads=2, max_frames=60)


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


@pytest.mark.parametrize("target", ["representation", "posteriors", "pitch_bins", "regression"])
def test_a_prediction_does_not_depend_on_the_batch(target: str) -> None:
    head, states, durations = _head(target), _states(), [1.0, 0.4, 2.0]
    together = head.predict(states, durations)
    other = head.predict(torch.cat([states[:1], states[1:] * 30 + 5]), [1.0, 2.4, 0.1])[0]
    torch.testing.assert_close(together[0], other, atol=1e-5, rtol=1e-5)
    for row in range(3):
        alone = head.predict(states[row : row + 1], durations[row : row + 1])[0]
        torch.testing.assert_close(together[row], alone, atol=1e-5, rtol=1e-5)


def test_a_prediction_depends_on_every_think_token() -> None:
    states = _states(1).requires_grad_()
    head = _head()
    head(states, [1.0])[0].square().sum().backward()
    assert states.grad is not None
    assert bool((states.grad.abs().sum(-1) > 0).all())


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


def test_the_loss_is_the_sum_over_valid_clips() -> None:
    head, states, losses = _head(), _states(), LossSettings()
    generator = torch.Generator().manual_seed(4)
    clips = [(torch.randn((n, 4), generator=generator), torch.ones(n).bool()) for n in (100, 40)]
    both = head.loss(states, [1.0, 0.4, 2.0], [clips[0], clips[1], None], losses)
    one = head.loss(states[:1], [1.0], [clips[0]], losses) + head.loss(states[1:2], [0.4], [clips[1]], losses)
    torch.testing.assert_close(both, one)
    masked = (clips[1][0], torch.zeros(40).bool())
    torch.testing.assert_close(
        head.loss(states, [1.0, 0.4, 2.0], [clips[0], masked, None], losses), head.loss(states[:1], [1.0], clips[:1], losses)
    )


def test_the_loss_without_a_valid_clip_is_exactly_zero() -> None:
    head, states = _head(), _states().requires_grad_()
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


def test_a_layer_equals_pytorchs_encoder_layer() -> None:
    """Equal weights give equal outputs and gradients on the valid frames."""
    torch.manual_seed(0)
    own = Layer(16, 2, dropout=0.0)
    other = nn.TransformerEncoderLayer(16, 2, 64, dropout=0.0, activation="gelu", norm_first=True, batch_first=True)
    names = {
        "self_attn.in_proj_": "qkv.",
        "self_attn.out_proj.": "out.",
        "linear1.": "up.",
        "linear2.": "down.",
        "norm1.": "norm_in.",
        "norm2.": "norm_mid.",
    }
    pairs = {f"{theirs}{end}": f"{ours}{end}" for theirs, ours in names.items() for end in ("weight", "bias")}
    other.load_state_dict({theirs: own.state_dict()[ours] for theirs, ours in pairs.items()})
    states, direction = torch.randn(3, 10, 16), torch.randn(3, 10, 16)
    mask = torch.arange(10)[None] < torch.tensor([10, 4, 1])[:, None]
    inputs, outputs = [states.clone().requires_grad_() for _ in range(2)], []
    for layer, x, arguments in ((own, inputs[0], (mask,)), (other, inputs[1], (None, ~mask))):
        outputs.append(layer(x, *arguments))
        (outputs[-1] * direction)[mask].sum().backward()
    torch.testing.assert_close(outputs[0][mask], outputs[1][mask])
    torch.testing.assert_close(inputs[0].grad, inputs[1].grad)
    gradients = dict(own.named_parameters())
    for theirs, parameter in other.named_parameters():
        torch.testing.assert_close(gradients[pairs[theirs]].grad, parameter.grad)
