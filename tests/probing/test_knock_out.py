from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from coat_core.backbones.base import Backbone, Batch, Query
from coat_core.settings import ThinkingSettings
from coat_core.thinking.block import ThinkingBlock
from coat_core.thinking.cuts import blocked_pairs

PLACEMENTS = ("after_audio", "before_answer")


def _queries() -> list[Query]:
    generator = np.random.default_rng(3)
    rows = [(12_000, "What sound is this?", "dog bark"), (20_000, "Is it higher or lower?", "lower")]
    return [Query(f"clip{n}", (generator.standard_normal(n) * 0.1).astype(np.float32), text, answer) for n, text, answer in rows]


class Cut:
    """A model with random weights and a block, and its answer states under a knock-out."""

    def __init__(self, backbone: Backbone, placement: str) -> None:
        self.backbone = backbone
        self.block = ThinkingBlock.install(backbone, ThinkingSettings(tokens=3, placement=placement))  # type: ignore[arg-type]
        queries = _queries()
        self.batch: Batch = backbone.encode(queries)
        with torch.no_grad():
            self.embedded = backbone.embed(self.batch, backbone.embed_audio(backbone.mel([query.waveform for query in queries])))
        ids = self.batch.input_ids
        self.is_audio = ids == backbone.audio_token_id
        # The end token of a block before the answer predicts the first token of the answer.
        predicts_answer = torch.cat([self.batch.answer_mask[:, 1:], torch.zeros(len(ids), 1, dtype=torch.bool)], dim=1)
        self.in_block = torch.isin(ids, torch.tensor(self.block.ids)) & ~predicts_answer
        assert int(self.in_block.sum()) == len(ids) * (5 if placement == "after_audio" else 4)

    def states(self, parts: Sequence[str] | None, changed: Tensor | None = None) -> Tensor:
        """States that predict the answer; `changed` marks the positions `[B, L]` whose embeddings are replaced by noise."""
        embedded = self.embedded
        if changed is not None:
            noise = torch.randn(embedded.shape, generator=torch.Generator().manual_seed(1)) * embedded.std()
            embedded = torch.where(changed[..., None], noise, embedded)
        blocked = None if parts is None else blocked_pairs(self.batch, self.block, self.backbone.audio_token_id, parts)
        with torch.no_grad():
            _, final = self.backbone.hidden_states(embedded, self.batch.attention_mask, 1, blocked)
        return final[:, :-1][self.batch.answer_mask[:, 1:]]


@pytest.fixture(params=PLACEMENTS)
def cut(request: pytest.FixtureRequest, backbone: Backbone) -> Cut:
    torch.set_num_threads(1)
    return Cut(backbone, request.param)


def test_what_is_cut_off_cannot_influence_the_answer(cut: Cut) -> None:
    """The embeddings there are replaced by noise: bitwise the same answer states. What is not cut off changes them."""
    both = cut.states(("block", "audio"))
    assert torch.equal(both, cut.states(("block", "audio"), cut.is_audio | cut.in_block))
    without_block = cut.states(("block",))
    assert torch.equal(without_block, cut.states(("block",), cut.in_block))
    assert not torch.allclose(without_block, cut.states(("block",), cut.is_audio), atol=1e-3)
    without_audio = cut.states(("audio",))
    assert not torch.allclose(without_audio, cut.states(("audio",), cut.in_block), atol=1e-3)
    # The block is no reader: what it knows of the audio still reaches the answer.
    assert not torch.allclose(without_audio, cut.states(("audio",), cut.is_audio), atol=1e-4)


def test_cutting_nothing_is_the_normal_forward(cut: Cut) -> None:
    torch.testing.assert_close(cut.states(()), cut.states(None), atol=1e-5, rtol=1e-5)
    assert not torch.allclose(cut.states(("block",)), cut.states(None), atol=1e-3)


def test_the_gradient_at_what_is_cut_off_is_exactly_zero(cut: Cut) -> None:
    embedded = cut.embedded.clone().requires_grad_()
    blocked = blocked_pairs(cut.batch, cut.block, cut.backbone.audio_token_id, ("block",))
    _, final = cut.backbone.hidden_states(embedded, cut.batch.attention_mask, 1, blocked)
    final[:, :-1][cut.batch.answer_mask[:, 1:]].square().sum().backward()
    assert embedded.grad is not None
    assert float(embedded.grad[cut.in_block].abs().max()) == 0.0
    assert float(embedded.grad[cut.is_audio].abs().max()) > 0.0


def test_readers_are_the_positions_after_the_audio_outside_the_block() -> None:
    """Ids: 9 is audio, 5 6 7 the block; 3 is the token that closes the audio, which must not pass the audio on."""
    block = ThinkingBlock(1, "after_audio", 5, (6,), 7, "<s>", ("<t>",), "<e>", 1)
    ids = torch.tensor([[1, 9, 9, 3, 5, 6, 7, 2]])
    batch = Batch(ids, torch.ones_like(ids), torch.zeros_like(ids, dtype=torch.bool), ())
    audio = blocked_pairs(batch, block, 9, ("audio",))[0].nonzero().tolist()
    assert audio == [[3, 1], [3, 2], [7, 1], [7, 2]]
    cut_block = blocked_pairs(batch, block, 9, ("block",))[0].nonzero().tolist()
    assert [pair for pair in cut_block if pair[0] == 7] == [[7, 4], [7, 5], [7, 6]]
    both = blocked_pairs(batch, block, 9, ("block", "audio"))[0]
    assert both.sum() == len(audio) + len(cut_block)


def test_the_end_token_of_a_block_before_the_answer_is_a_reader() -> None:
    """Ids: audio 9, question 3, block 5 6 7, answer 2; position 5 (the end token) predicts the answer."""
    block = ThinkingBlock(1, "before_answer", 5, (6,), 7, "<s>", ("<t>",), "<e>", 1)
    ids = torch.tensor([[1, 9, 3, 5, 6, 7, 2]])
    batch = Batch(ids, torch.ones_like(ids), ids == 2, ())
    assert blocked_pairs(batch, block, 9, ("audio",))[0].nonzero().tolist() == [[2, 1], [5, 1], [6, 1]]
    cut_block = blocked_pairs(batch, block, 9, ("block",))[0].nonzero().tolist()
    assert [pair for pair in cut_block if pair[1] < pair[0]] == [[5, 3], [5, 4], [6, 3], [6, 4]]
