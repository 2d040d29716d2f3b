"""Answers from stored outputs of the audio tower equal those from mel features."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from coat_core.audio_store.extraction import extract_audio
from coat_core.audio_store.store import AudioStore
from coat_core.backbones.base import Backbone, Batch, Query
from coat_core.backbones.catalogue import load_backbone
from coat_core.corpus.examples import Example
from coat_core.errors import AudioStoreError
from coat_core.evaluation import generate as module
from coat_core.evaluation.generate import answer_release, clips_of, generate_answers, generate_responses, query_of
from coat_core.evaluation.selection import select
from coat_core.thinking.release import load_release
from tests.testing.evaluations import EVALUATION

Corpus = tuple[Path, list[Example]]


def _merged(release: Path) -> Backbone:
    """Return the merged model of a release after LoRA has been changed, so that merging changes the weights."""
    loaded = load_release(release, merge=False)
    if loaded.model is not None:
        generator = torch.Generator().manual_seed(4)
        with torch.no_grad():
            for name, parameter in loaded.model.named_parameters():
                if ".lora_B." in name:
                    parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
        loaded.model.eval().merge()
    return loaded.backbone


def _generate(backbone: Backbone, batch: Batch, audio: list[torch.Tensor] | None) -> tuple[torch.Tensor, torch.Tensor]:
    """Generated ids `[B, N]` and logits `[N, B, V]`. The penalty makes the result depend on the ids of the prompt."""
    model: Any = backbone.model
    with torch.inference_mode():
        out = model.generate(
            **backbone.generation_inputs(batch, audio), max_new_tokens=12, min_new_tokens=12, do_sample=False, repetition_penalty=1.3,
            return_dict_in_generate=True, output_logits=True,
        )  # fmt: skip
    return out.sequences[:, batch.input_ids.shape[1] :], torch.stack(out.logits)


@pytest.mark.parametrize("arm", ["base", "coat"])
def test_generation_from_stored_audio_equals_generation_from_features(
    arm: str, backbone_key: str, make_release: Callable[..., Path], tiny_bases: dict[str, Path], corpus: Corpus, tmp_path: Path
) -> None:
    folder, examples = corpus
    backbone = _merged(make_release(backbone_key, arm))
    # The store is computed from the base, before LoRA and block.
    extract_audio(load_backbone(backbone_key, str(tiny_bases[backbone_key])), examples, folder, tmp_path / "audio", progress=False)
    store = AudioStore.open(tmp_path / "audio", backbone)
    played = clips_of(folder)
    queries = [query_of(example, played) for example in select(examples, EVALUATION)]
    for chosen in (queries, queries[3:4]):
        batch = backbone.encode(chosen, generation=True)
        assert len(chosen) == 1 or not bool(batch.attention_mask.all()), "rows are padded on the left"
        ids, logits = _generate(backbone, batch, None)
        stored_ids, stored_logits = _generate(backbone, batch, [store.get(query.key) for query in chosen])
        assert ids.shape == (len(chosen), 12)
        assert torch.equal(stored_ids, ids)
        torch.testing.assert_close(stored_logits, logits, rtol=1e-4, atol=1e-4)
    # The audio matters: that of another clip gives other logits.
    other = _generate(backbone, batch, [-store.get(queries[3].key)])[1]
    assert not torch.allclose(other, logits, atol=1e-3)


def test_responses_from_a_store_need_neither_clips_nor_the_tower(
    backbone_key: str, make_release: Callable[..., Path], corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, examples = corpus
    backbone = _merged(make_release(backbone_key, "coat"))
    extract_audio(backbone, examples, folder, tmp_path / "audio", progress=False)
    test = select(examples, EVALUATION)
    expected = generate_responses(backbone, test, folder, EVALUATION, progress=False)
    store = AudioStore.open(tmp_path / "audio", backbone)

    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("a clip was decoded or encoded")

    monkeypatch.setattr(module, "decode", refuse)
    monkeypatch.setattr(backbone, "mel", refuse)
    assert generate_responses(backbone, test, folder, EVALUATION, progress=False, store=store) == expected
    assert {response.audio for response in expected} == {"own", "other"}


def test_a_release_is_answered_from_its_store_and_refuses_another(
    make_release: Callable[..., Path], tiny_bases: dict[str, Path], corpus: Corpus, tmp_path: Path
) -> None:
    folder, examples = corpus
    release = make_release("qwen2_5_omni", "coat")
    for key in ("qwen2_5_omni", "qwen2_audio"):
        extract_audio(load_backbone(key, str(tiny_bases[key])), examples, folder, tmp_path / "audio" / key, progress=False)
    targets = [tmp_path / "live.jsonl", tmp_path / "stored.jsonl"]
    answer_release(release, examples, folder, EVALUATION, targets[0])
    answer_release(release, examples, folder, EVALUATION, targets[1], audio=tmp_path / "audio/qwen2_5_omni")
    assert targets[0].read_bytes() == targets[1].read_bytes()
    with pytest.raises(AudioStoreError, match="field: backbone"):
        answer_release(release, examples, folder, EVALUATION, targets[0], audio=tmp_path / "audio/qwen2_audio")


def test_stock_inputs_are_those_of_the_processor(backbone: Backbone, corpus: Corpus) -> None:
    """Without stored audio, `generate` gets mel features and no embeddings, as a served model does."""
    query = query_of(corpus[1][0], clips_of(corpus[0]))
    stock = backbone.generation_inputs(backbone.encode([query], generation=True))
    assert "input_features" in stock
    assert not {"inputs_embeds", "position_ids"} & set(stock)
    assert generate_answers(backbone, [Query(query.key, query.waveform, query.text)], 4) == generate_answers(
        backbone, [query], 4, backbone.embed_audio(backbone.mel([query.waveform]))
    )
