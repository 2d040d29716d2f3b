from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from peft.tuners.trainable_tokens import TrainableTokensConfig
from peft.tuners.trainable_tokens.layer import TrainableTokensLayer

from coat_core.backbones.base import Query
from coat_core.thinking.model import ThinkingModel
from coat_core.thinking.trainable_tokens import TrainableTokensHook, initial_embeddings

Make = Callable[..., ThinkingModel]


def test_initial_embeddings_are_the_mean_with_the_mean_norm(make_model: Make, backbone_key: str) -> None:
    model = make_model(backbone_key, "block", tokens=3, rows="shared", placement="before_answer")
    assert model.block is not None
    weight, tokenizer = model.backbone.embedding.weight, model.backbone.tokenizer
    ids = model.block.trainable_token_ids
    text = [i for i in range(min(tokenizer.added_tokens_decoder)) if i not in ids]
    mean, norm = weight[text].mean(0), weight[text].norm(dim=1).mean()
    end = ids.index(model.block.end_id)
    new = [row for row in range(3) if row != end]
    torch.testing.assert_close(model.trainable_tokens[new].norm(dim=1), norm.expand(2))
    noiseless = initial_embeddings(model.backbone, type(model.block)(**{**vars(model.block), "row_noise": 0.0}), 0)
    torch.testing.assert_close(noiseless[new], (mean * norm / mean.norm()).expand(2, -1), atol=1e-5, rtol=1e-4)
    newline = tokenizer("\n")["input_ids"]
    assert torch.equal(model.trainable_tokens[end], weight[newline[0]]), "the answer follows the same embedding as in the base"
    assert not torch.equal(model.trainable_tokens[new[0]], model.trainable_tokens[new[1]])
    for seed in (0, 1):
        other = make_model(backbone_key, "block", tokens=3, rows="shared", placement="before_answer", seed=seed)
        assert torch.equal(model.trainable_tokens, other.trainable_tokens) == (seed == 0)


def test_only_the_trainable_tokens_have_a_gradient() -> None:
    embedding = torch.nn.Embedding(10, 4)
    embedding.weight.requires_grad_(False)
    tokens = torch.nn.Parameter(torch.ones(2, 4))
    hook = TrainableTokensHook((3, 7), lambda: tokens)
    hook.attach(embedding)
    out = embedding(torch.tensor([[1, 3, 7, 7, 9]]))
    assert torch.equal(out[0, 1:4], torch.ones(3, 4))
    assert torch.equal(out[0, [0, 4]], embedding.weight[[1, 9]])
    out.sum().backward()
    assert torch.equal(tokens.grad, torch.tensor([[1.0], [2.0]]).expand(2, 4))  # type: ignore[arg-type]
    assert embedding.weight.grad is None
    hook.detach()
    assert torch.equal(embedding(torch.tensor([3])), embedding.weight[[3]])


def test_equal_to_stock_peft(make_model: Make, backbone_key: str, queries: list[Query]) -> None:
    """The hook gives the same logits and the same gradient as PEFT's trainable-token layer."""
    model = make_model(backbone_key, "block", trained=True)
    assert model.block is not None
    assert model._tokens_hook is not None
    batch = model.backbone.encode(queries)
    inputs: dict[str, Any] = model.backbone.generation_inputs(batch)

    def logits_and_gradient(parameter: torch.nn.Parameter) -> tuple[torch.Tensor, torch.Tensor]:
        parameter.grad = None
        logits = model.backbone.model(**inputs).logits
        logits.float().pow(2).mean().backward()
        assert parameter.grad is not None
        return logits.detach(), parameter.grad.clone()

    ours, our_gradient = logits_and_gradient(model.trainable_tokens)
    model._tokens_hook.detach()
    layer = TrainableTokensLayer(model.backbone.embedding, "default")
    layer.update_layer("default", TrainableTokensConfig(token_indices=list(model.block.trainable_token_ids)))
    without = model.backbone.model(**inputs).logits.detach()
    with torch.no_grad():
        layer.trainable_tokens_delta["default"].copy_(model.trainable_tokens)
    model.backbone.model.set_input_embeddings(layer)  # type: ignore[operator]
    stock, stock_gradient = logits_and_gradient(layer.trainable_tokens_delta["default"])
    assert torch.equal(ours, stock)
    torch.testing.assert_close(our_gradient, stock_gradient)
    assert not torch.allclose(ours, without, atol=1e-3)


@pytest.mark.parametrize("ids", [[[0, 1, 2]], [[9, 8, 8]]])
def test_other_ids_are_untouched(ids: list[list[int]]) -> None:
    embedding = torch.nn.Embedding(10, 4)
    expected = embedding(torch.tensor(ids))
    TrainableTokensHook((3, 7), lambda: torch.ones(2, 4)).attach(embedding)
    assert torch.equal(embedding(torch.tensor(ids)), expected)
