from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from coat_core.backbones.base import Backbone, Query
from coat_core.errors import BackboneError
from coat_core.settings import ThinkingSettings
from coat_core.thinking.block import ThinkingBlock, choose_read_layer

Make = Callable[[str], Backbone]


def test_spare_rows_are_used_first(make_backbone: Make) -> None:
    backbone = make_backbone("qwen2_audio")
    before, rows = len(backbone.tokenizer), backbone.embedding.num_embeddings
    block = ThinkingBlock.install(backbone, ThinkingSettings(tokens=5, rows="shared"))
    assert block.ids == [before, *[before + 1] * 5, before + 2]
    assert block.text == "<|think_start|>" + "<|think|>" * 5 + "<|think_end|>"
    assert backbone.tokenizer.encode(block.text, add_special_tokens=False) == block.ids
    assert backbone.tokenizer.decode(block.ids, skip_special_tokens=True) == ""
    assert backbone.embedding.num_embeddings == rows


def test_distinct_rows(make_backbone: Make) -> None:
    backbone = make_backbone("qwen2_5_omni")
    before = len(backbone.tokenizer)
    block = ThinkingBlock.install(backbone, ThinkingSettings(tokens=3, rows="distinct"))
    assert block.ids == list(range(before, before + 5))
    assert block.trainable_token_ids == tuple(range(before, before + 5))
    assert block.text == "<|think_start|><|think_0|><|think_1|><|think_2|><|think_end|>"


def test_reserved_tokens_are_used_without_spare_rows(make_backbone: Make) -> None:
    backbone = make_backbone("audio_flamingo_3")
    length, rows = len(backbone.tokenizer), backbone.embedding.num_embeddings
    assert rows - length < 3
    block = ThinkingBlock.install(backbone, ThinkingSettings(tokens=2, rows="shared"))
    assert block.text == "<|object_ref_start|><|box_start|><|box_start|><|object_ref_end|>"
    assert len(backbone.tokenizer) == length
    assert backbone.embedding.num_embeddings == rows
    assert backbone.tokenizer.encode(block.text, add_special_tokens=False) == block.ids


@pytest.mark.parametrize(
    ("key", "tokens", "rows", "ids"),
    [
        ("qwen2_5_omni", 30, "distinct", "spare"),
        ("qwen2_5_omni", 31, "shared", "spare"),
        ("audio_flamingo_3", 4, "distinct", "reserved"),
        ("audio_flamingo_3", 5, "shared", "reserved"),
    ],
)
def test_auto_rows_are_distinct_where_there_are_enough_ids(make_backbone: Make, key: str, tokens: int, rows: str, ids: str) -> None:
    """The tiny bases have 32 and 2 spare rows; there are 6 reserved tokens."""
    backbone = make_backbone(key)
    length = len(backbone.tokenizer)
    block = ThinkingBlock.install(backbone, ThinkingSettings(tokens=tokens, rows="auto"))
    assert block.rows == rows
    assert len(block.trainable_token_ids) == (tokens + 2 if rows == "distinct" else 3)
    assert len(block.ids) == tokens + 2
    assert (min(block.ids) >= length) == (ids == "spare")
    assert ThinkingBlock.from_json(block.to_json()).rows == rows


@pytest.mark.parametrize("placement", ["after_audio", "before_answer"])
@pytest.mark.parametrize("generation", [False, True])
def test_a_batch_without_the_block_is_that_of_the_base(
    make_backbone: Make, backbone_key: str, queries: list[Query], placement: Any, generation: bool
) -> None:
    backbone = make_backbone(backbone_key)
    expected = backbone.encode(queries, generation=generation)
    block = ThinkingBlock.install(backbone, ThinkingSettings(tokens=3, placement=placement))
    batch = backbone.encode(queries, generation=generation)
    found = block.remove_from(batch)
    assert batch.input_ids.shape[1] == found.input_ids.shape[1] + 5
    for name in ("input_ids", "attention_mask", "answer_mask"):
        assert torch.equal(getattr(found, name), getattr(expected, name))
    with pytest.raises(BackboneError, match=r"row 0 \(clip0\)"):
        block.remove_from(found)


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        (ThinkingSettings(tokens=40, rows="distinct"), r"the block needs 42 ids.*next step: use thinking\.rows: auto"),
        (ThinkingSettings(reserved_tokens=("<|box_start|>", "<|box_end|>")), "the block needs 3 ids"),
        (ThinkingSettings(reserved_tokens=("<|box_start|>", "<|box_end|>", "<|nowhere|>")), "not one token"),
        (ThinkingSettings(reserved_tokens=("<|box_start|>", "<|box_end|>", "<|im_start|>")), "used by the chat template"),
        (ThinkingSettings(read_layer=6), "cannot reach the answer"),
    ],
)
def test_an_invalid_block_changes_nothing(make_backbone: Make, settings: ThinkingSettings, what: str) -> None:
    backbone = make_backbone("audio_flamingo_3")
    template, vocabulary = backbone.tokenizer.chat_template, backbone.tokenizer.get_vocab()
    with pytest.raises(BackboneError, match=what):
        ThinkingBlock.install(backbone, settings)
    assert backbone.tokenizer.chat_template == template
    assert backbone.tokenizer.get_vocab() == vocabulary


def test_a_block_is_not_installed_twice(make_backbone: Make) -> None:
    for key in ("qwen2_audio", "audio_flamingo_3"):
        backbone = make_backbone(key)
        ThinkingBlock.install(backbone, ThinkingSettings())
        with pytest.raises(BackboneError, match=r"already|template"):
            ThinkingBlock.install(backbone, ThinkingSettings())


@pytest.mark.parametrize(
    ("requested", "layers", "expected"), [(None, 6, 4), (None, 28, 19), (None, 32, 21), (None, 2, 1), (3, 6, 3), (5, 6, 5)]
)
def test_read_layer(requested: int | None, layers: int, expected: int) -> None:
    assert choose_read_layer(requested, layers) == expected


@pytest.mark.parametrize(("requested", "layers"), [(6, 6), (7, 6), (None, 1), (0, 6)])
def test_read_layer_must_be_below_the_last(requested: int | None, layers: int) -> None:
    with pytest.raises(BackboneError, match="read_layer"):
        choose_read_layer(requested, layers)


BLOCK = ThinkingBlock(3, "before_answer", 90, (91,), 92, "<s>", ("<t>",), "<e>", 1)


def test_positions_with_padding_on_either_side() -> None:
    ids = torch.tensor([[0, 0, 5, 90, 91, 91, 91, 92], [90, 91, 91, 91, 92, 6, 0, 0]])
    assert BLOCK.positions(ids).tolist() == [[4, 5, 6], [1, 2, 3]]


@pytest.mark.parametrize(
    "row",
    [
        [5, 6, 7, 8, 9, 10, 11, 12],
        [5, 90, 91, 91, 92, 6, 7, 8],
        [5, 90, 91, 91, 7, 91, 92, 8],
        [5, 91, 90, 91, 91, 92, 6, 7],
        [90, 91, 91, 91, 92, 5, 91, 6],
        [90, 91, 91, 91, 91, 92, 5, 6],
        [91, 91, 91, 92, 5, 6, 7, 90],
    ],
)
def test_positions_reject_any_other_row(row: list[int]) -> None:
    good = [5, 90, 91, 91, 91, 92, 6, 7]
    with pytest.raises(BackboneError, match=r"row 1 \(clip-b\)"):
        BLOCK.positions(torch.tensor([good, row]), ["clip-a", "clip-b"])


def test_block_through_json() -> None:
    assert ThinkingBlock.from_json(BLOCK.to_json()) == BLOCK
