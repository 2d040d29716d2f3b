"""The layers of a head: equal to PyTorch's encoder layer; attention over time starts at the states near a frame."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from coat_core.thinking.head_layers import Layer, TimeAttention
from coat_core.thinking.resampling import time_features


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


def _read(states: Tensor, counts: list[int], frames: list[int], durations_s: list[float]) -> Tensor:
    """Return what each frame reads of the states at first, without the frame's own time: `[B, T, W]`."""
    mask = torch.arange(states.shape[1])[None] < torch.tensor(counts)[:, None]
    seconds, numbers = torch.tensor(durations_s), torch.tensor(frames)
    attention = TimeAttention(states.shape[2], 4)
    return attention(states, mask, numbers, seconds, max(frames)) - time_features(numbers, seconds, max(frames), states.shape[2])


@pytest.mark.parametrize("count", [4, 8, 16])
def test_a_frame_at_first_attends_most_to_the_state_of_its_time(count: int) -> None:
    """The states are one-hot, so what a frame reads are the weights of attention, those of each head in its own quarter."""
    states = torch.eye(count).repeat(1, 1, 4)[..., : 4 * 16] if count == 16 else torch.eye(count, 16).repeat(1, 4)[None]
    weights = _read(states, [count], [5 * count], [2.0])[0].view(5 * count, 4, 16)[..., :count].mean(1).detach()
    assert weights.argmax(-1).tolist() == [frame // 5 for frame in range(5 * count)]
    torch.testing.assert_close(weights.sum(-1), torch.ones(5 * count))


def test_attention_ignores_padding_states_and_other_rows() -> None:
    states = torch.randn((2, 6, 16), generator=torch.Generator().manual_seed(0))
    both = _read(states, [6, 3], [10, 7], [1.0, 0.7])
    torch.testing.assert_close(both[1, :7], _read(states[1:, :3], [3], [7], [0.7])[0])
    torch.testing.assert_close(both[0], _read(states[:1], [6], [10], [1.0])[0])
