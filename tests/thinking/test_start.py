"""The start of the trainable tokens: its candidates, their measurement, and what the release records."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from coat_core.backbones.base import Backbone, Query
from coat_core.backbones.catalogue import load_backbone
from coat_core.corpus.audio import decode
from coat_core.corpus.examples import read_manifest
from coat_core.corpus.generated.corpus import generate_corpus
from coat_core.errors import NonFiniteError, TrainingError
from coat_core.settings import CorpusSettings
from coat_core.storage import sha256_json
from coat_core.thinking.info import BaseInfo, ReleaseInfo
from coat_core.thinking.losses import StageWeights, Totals
from coat_core.thinking.model import ThinkingModel
from coat_core.thinking.start import Start, audio_end_id, candidates, measure_starts
from coat_core.thinking.trainable_tokens import initial_embeddings
from coat_core.thinking.warm_start import WarmStart

Make = Callable[..., ThinkingModel]
NAMES = ("audio_end", "newline", "end_of_turn", "mean_audio", "mean_text")
BASES = Path(__file__).parents[2] / "bases"


def batches_of(backbone: Backbone, queries: Sequence[Query]) -> list[tuple[Any, list[Tensor]]]:
    """Return one batch for each query."""
    with torch.no_grad():
        return [(backbone.encode([query]), backbone.embed_audio(backbone.mel([query.waveform]))) for query in queries]


def stock_loss(backbone: Backbone, queries: Sequence[Query]) -> float:
    """Return the answer loss per token, computed by the stock class from the prompt of the backbone's template."""
    total, count = 0.0, 0
    for query in queries:
        batch = backbone.encode([query])
        with torch.no_grad():
            logits = backbone.model(**backbone.generation_inputs(batch)).logits[0].log_softmax(-1)
        for position in batch.answer_mask[0].nonzero().flatten().tolist():
            total -= float(logits[position - 1, batch.input_ids[0, position]])
            count += 1
    return total / count


def names_of(backbone_key: str) -> tuple[str, ...]:
    return NAMES[1:] if backbone_key == "audio_flamingo_3" else NAMES


@pytest.mark.parametrize("placement", ["after_audio", "before_answer"])
def test_candidates_are_existing_embeddings_at_their_own_norm(
    make_model: Make, backbone_key: str, placement: str, queries: list[Query]
) -> None:
    model = make_model(backbone_key, "block", placement=placement)
    backbone, block = model.backbone, model.block
    assert block is not None
    batches = batches_of(backbone, queries)
    found = candidates(backbone, block, batches, 3)
    assert tuple(found) == names_of(backbone_key)
    weight, tokenizer = backbone.embedding.weight, backbone.tokenizer
    sources = {"newline": weight[tokenizer.encode("\n")[0]], "end_of_turn": weight[tokenizer.convert_tokens_to_ids("<|im_end|>")]}
    sources["mean_audio"] = torch.cat([clip for _, audio in batches for clip in audio]).mean(0)
    if backbone_key != "audio_flamingo_3":
        sources["audio_end"] = weight[tokenizer.convert_tokens_to_ids("<|audio_eos|>")]
    copied = [i for i, index in enumerate(block.trainable_token_ids) if placement == "after_audio" or index != block.end_id]
    for name, source in sources.items():
        rows = found[name]
        torch.testing.assert_close(rows[copied].norm(dim=1), source.norm().expand(len(copied)))
        # The noise has a norm of about row_noise (0.02) times that of the embedding.
        distance = (rows[copied] - source).norm(dim=1) / source.norm()
        assert ((distance > 0.01) & (distance < 0.03)).all()
        assert len({tuple(row.tolist()) for row in rows}) == len(rows)
        if placement == "before_answer":
            assert torch.equal(rows[block.trainable_token_ids.index(block.end_id)], sources["newline"]), "the end of the assistant's header"
    assert torch.equal(found["mean_text"], initial_embeddings(backbone, block, 3))
    exact = candidates(backbone, replace(block, row_noise=0.0), batches, 3)
    torch.testing.assert_close(exact["newline"][copied], sources["newline"].expand(len(copied), -1))
    assert not torch.equal(candidates(backbone, block, batches, 4)["newline"], found["newline"])


def test_only_a_token_that_closes_the_audio_is_its_end(make_backbone: Any, make_model: Make, backbone_key: str) -> None:
    model = make_model(backbone_key, "block")
    assert model.block is not None
    expected = None if backbone_key == "audio_flamingo_3" else model.backbone.tokenizer.convert_tokens_to_ids("<|audio_eos|>")
    assert audio_end_id(model.backbone, model.block) == expected


def test_the_lowest_answer_loss_is_chosen(make_model: Make, make_backbone: Any, backbone_key: str, queries: list[Query]) -> None:
    """Without the block, the loss is that of the base's own prompt; with it, that of the model with those embeddings."""
    model = make_model(backbone_key, "block").train()
    assert model.block is not None
    batches = batches_of(model.backbone, queries)
    modes = [module.training for module in model.modules()]
    start = measure_starts(model, batches, "auto", seed=3)
    assert start.without_block == pytest.approx(stock_loss(make_backbone(backbone_key), queries), abs=1e-5)
    assert tuple(start.losses) == names_of(backbone_key)
    assert start.name == min(start.losses, key=lambda name: start.losses[name])
    assert start.items == 2
    assert start.cost == start.losses[start.name] - start.without_block
    found = candidates(model.backbone, model.block, batches, 3)
    assert torch.equal(model.trainable_tokens, found[start.name])
    assert modes == [module.training for module in model.modules()]
    for name, embeddings in found.items():
        with torch.no_grad():
            model.trainable_tokens.copy_(embeddings)
            tokens = sum(int(batch.answer_mask.sum()) for batch, _ in batches)
            losses = [model(batch, audio, {}, StageWeights(1.0, 0.0), Totals(tokens)).answer_sum for batch, audio in batches]
        assert start.losses[name] == pytest.approx(float(sum(losses)) / tokens, abs=1e-6)


def test_equal_for_arms_and_repeated_calls(make_model: Make, queries: list[Query]) -> None:
    def chosen(arm: str, requested: str, seed: int = 0) -> tuple[Start, Tensor]:
        model = make_model("qwen2_audio", arm)
        start = measure_starts(model, batches_of(model.backbone, queries), requested, seed=seed)
        return start, model.trainable_tokens.detach()

    (first, tokens), (second, again) = chosen("block", "auto"), chosen("coat", "auto")
    assert first == second
    assert torch.equal(tokens, again)
    worst = max(first.losses, key=lambda name: first.losses[name])
    requested, others = chosen("block", worst)
    assert requested == replace(first, name=worst)
    assert requested.cost > first.cost
    assert not torch.equal(others, tokens)
    assert not torch.equal(chosen("block", "auto", seed=1)[1], tokens)


def test_mistakes_are_named(make_model: Make, queries: list[Query]) -> None:
    model = make_model("audio_flamingo_3", "block")
    batches = batches_of(model.backbone, queries)
    with pytest.raises(
        TrainingError, match=r"thinking\.start; value: 'audio_end'; allowed: auto, newline, end_of_turn, mean_audio, mean_text"
    ):
        measure_starts(model, batches, "audio_end", seed=0)
    unlabelled = [(model.backbone.encode([query], generation=True), audio) for query, (_, audio) in zip(queries, batches, strict=True)]
    with pytest.raises(TrainingError, match="labelled examples"):
        measure_starts(model, unlabelled, "auto", seed=0)
    broken = [(batch, [clip * float("nan") for clip in audio]) for batch, audio in batches]
    with pytest.raises(NonFiniteError, match="no block"):
        measure_starts(model, broken, "auto", seed=0)


START = Start("newline", {"newline": 1.25, "mean_text": 1.5}, without_block=1.0, items=64)


def test_a_high_cost_is_a_warning_with_advice() -> None:
    assert START.cost == 0.25
    text = START.summary()
    assert "newline, answer loss 1.250 on 64 examples, +0.250 against no block (mean_text 1.500)" in text
    assert "warning: the thinking block raises the answer loss by 0.250" in text
    assert "try fewer thinking.tokens" in text
    assert "try thinking.start: auto" in replace(START, name="mean_text").summary()
    assert "warning" not in replace(START, without_block=1.2).summary()
    warm = WarmStart(steps=32, learning_rate=1e-3, before=0.4, after=0.1, answer_loss=1.0625)
    text = replace(START, warm_start=warm).summary()
    assert "warm start of 32 steps: divergence from the base 0.400 to 0.100, answer loss 1.062, +0.062 against no block" in text
    assert "warning" not in text
    assert "warning" in replace(START, warm_start=replace(warm, answer_loss=None)).summary()


def test_a_release_records_the_start() -> None:
    start = replace(START, warm_start=WarmStart(2, 1e-3, 0.4, 0.1, 1.0))
    info = ReleaseInfo("qwen2_audio", "block", 0, BaseInfo("bases/x"), "f", start=start.to_json())
    record = info.to_json()["start"]
    assert (record["name"], record["cost"], record["losses"]["mean_text"], record["warm_start"]["after"]) == ("newline", 0.25, 1.5, 0.1)
    sha256_json(info.to_json())  # JSON values only
    again = ReleaseInfo.from_json(info.to_json())
    assert again == info
    assert again.start is not None
    assert Start.from_json(again.start) == start
    assert Start.from_json(START.to_json()) == START
    old = {key: value for key, value in info.to_json().items() if key != "start"}
    assert ReleaseInfo.from_json(old).start is None


def test_the_old_start_is_worse_on_the_shipped_bases(backbone_key: str, tmp_path: Path) -> None:
    """The mean text embedding at the mean norm is far from every embedding that the base knows."""
    from torch import nn

    from coat_core.settings import LoraSettings, LossSettings, ThinkingSettings
    from coat_core.thinking.block import ThinkingBlock

    generate_corpus(
        CorpusSettings(seed=5, clips_per_family={"train": 1}, questions_per_clip=1), tmp_path / "corpus", taught=True, workers=1
    )
    rows = read_manifest(tmp_path / "corpus/manifest.jsonl")
    backbone = load_backbone(backbone_key, str(BASES / backbone_key))
    block = ThinkingBlock.install(backbone, ThinkingSettings(tokens=4))
    model = ThinkingModel(backbone, block, nn.ModuleDict(), LoraSettings(rank=1), LossSettings(), 0)
    queries = [Query(row.sha256, decode(tmp_path / "corpus" / row.audio), row.prompt, row.answer, row.id) for row in rows]
    start = measure_starts(model, batches_of(backbone, queries), "auto", seed=0)
    assert start.name != "mean_text"
    assert start.losses["mean_text"] - start.losses[start.name] > 0.1
    assert start.cost < 0.2
