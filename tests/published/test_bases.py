"""Checkpoints in the published layout are loaded as backbones; errors name the field, the value and the next step."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoProcessor, AutoTokenizer

from coat_core.backbones.base import Query
from coat_core.backbones.catalogue import load_backbone
from coat_core.errors import BackboneError, CheckpointError, OutOfMemoryError
from coat_core.settings import ThinkingSettings
from coat_core.thinking.block import ThinkingBlock
from coat_core.thinking.info import BaseInfo, ReleaseInfo
from coat_core.thinking.release import load_release, write_release
from tests.testing.published_layout import AF3_TEMPLATE, OMNI_TEMPLATE, PUBLISHED, put_in_cache

pytestmark = pytest.mark.published
KEYS = tuple(PUBLISHED)
IDS = {"qwen2_audio": ("<|AUDIO|>", 151646), "qwen2_5_omni": ("<|AUDIO|>", 151646), "audio_flamingo_3": ("<sound>", 151669)}


@pytest.fixture
def query() -> Query:
    return Query("q", (0.1 * np.random.default_rng(1).standard_normal(40_000)).astype(np.float32), "What do you hear?", name="clip")


@pytest.fixture(params=KEYS)
def key(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_ids_shards_and_spare_rows_are_as_published(key: str, published_folders: dict[str, Path]) -> None:
    folder, published = published_folders[key], PUBLISHED[key]
    assert len(list(folder.glob("model-*-of-*.safetensors"))) >= 3
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.convert_tokens_to_ids(["<|endoftext|>", "<|im_start|>", "<|im_end|>"]) == [151643, 151644, 151645]
    assert tokenizer.convert_tokens_to_ids(IDS[key][0]) == IDS[key][1]
    backbone = load_backbone(key, str(folder))
    assert backbone.embedding.num_embeddings == published.vocabulary
    assert len(backbone.tokenizer) == published.tokens
    assert backbone.model.generation_config.do_sample, "the published default is not greedy"


def test_the_prompt_is_the_stock_processors(key: str, published_folders: dict[str, Path], query: Query) -> None:
    backbone = load_backbone(key, str(published_folders[key]))
    ours = backbone.encode([query], generation=True)
    messages = backbone.messages(query.text)
    if key == "qwen2_5_omni":  # its processor requires torchvision; the file contains its template
        assert backbone.tokenizer.chat_template == OMNI_TEMPLATE
        return
    processor = AutoProcessor.from_pretrained(published_folders[key])
    if key == "audio_flamingo_3":
        assert processor.chat_template == AF3_TEMPLATE
    text = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    stock = processor(text=text, audio=query.waveform, sampling_rate=16_000, return_tensors="pt")
    assert ours.input_ids.tolist() == stock["input_ids"].tolist()
    with torch.no_grad():
        mine = backbone.model(**backbone.generation_inputs(ours)).logits
        theirs = backbone.model(**stock).logits
    torch.testing.assert_close(mine, theirs, rtol=0, atol=2e-5)


@pytest.mark.parametrize("placement", ["before_answer", "after_audio"])
def test_the_block_uses_spare_rows_or_reserved_tokens(key: str, published_folders: dict[str, Path], placement: Any, query: Query) -> None:
    backbone, published = load_backbone(key, str(published_folders[key])), PUBLISHED[key]
    block = ThinkingBlock.install(backbone, ThinkingSettings(tokens=6, rows="shared", placement=placement))
    expected = (151646, 151647, 151648) if key == "audio_flamingo_3" else tuple(published.tokens + i for i in range(3))
    assert block.trainable_token_ids == expected
    assert backbone.embedding.num_embeddings == published.vocabulary, "the matrix never grows"
    batch = backbone.encode([query], generation=True)
    assert block.positions(batch.input_ids).shape == (1, 6)


def test_too_many_distinct_trainable_tokens_are_refused(published_folders: dict[str, Path]) -> None:
    backbone = load_backbone("audio_flamingo_3", str(published_folders["audio_flamingo_3"]))
    with pytest.raises(BackboneError, match=r"needs 27 ids; there are 0 spare embedding rows and 6 reserved.*thinking\.rows: auto"):
        ThinkingBlock.install(backbone, ThinkingSettings(tokens=25, rows="distinct"))


def test_a_release_decodes_greedily_whatever_the_defaults_of_its_base(key: str, published_folders: dict[str, Path], tmp_path: Path) -> None:
    backbone = load_backbone(key, str(published_folders[key]))
    info = ReleaseInfo(key, "base", 0, BaseInfo(str(published_folders[key]), dtype="bfloat16"), "f")
    write_release(tmp_path / "release", info, backbone)
    loaded = load_release(tmp_path / "release")
    assert loaded.backbone.model.dtype == torch.bfloat16, "the dtype of training is the default"
    config = loaded.backbone.model.generation_config
    assert (config.do_sample, config.repetition_penalty, config.temperature) == (False, 1.0, 1.0)


def test_a_checkpoint_from_the_cache_needs_no_hub(
    key: str, published_folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    published = PUBLISHED[key]
    snapshot = put_in_cache(published.repository, published.commit, published_folders[key], tmp_path / "hub")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert load_backbone(key, published.repository, revision=published.commit).embedding.num_embeddings == published.vocabulary
    next(snapshot.glob("model-00001-of-*")).unlink()
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
    with pytest.raises(CheckpointError, match="not complete"):
        load_backbone(key, published.repository, revision=published.commit)


def test_a_folder_of_another_architecture_is_refused(key: str, published_folders: dict[str, Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(published_folders[key], tmp_path / "base"))
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "architectures": ["LlamaForCausalLM"]}))
    with pytest.raises(BackboneError, match=rf"of another model; field: backbones\.{key}\.base; value: .*\(llama\).*allowed: {key}"):
        load_backbone(key, str(folder))
    (folder / "config.json").write_text(json.dumps({"model_type": "qwen9_hyper"}))
    with pytest.raises(BackboneError, match=r"cannot load the base of.*qwen9_hyper.*next step"):
        load_backbone(key, str(folder))


def test_a_folder_that_lacks_a_shard_is_refused(key: str, published_folders: dict[str, Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(published_folders[key], tmp_path / "base"))
    next(folder.glob("model-00001-of-*")).unlink()
    with pytest.raises(BackboneError, match="cannot load the base"):
        load_backbone(key, str(folder))


def test_weights_that_do_not_fit_on_the_device(key: str, published_folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Any, *arguments: Any, **options: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.37 GiB")

    weights = load_backbone(key, str(published_folders[key])).model
    needed = sum(tensor.numel() * 4 for tensor in (*weights.parameters(), *weights.buffers())) / 1e9
    from coat_core.backbones.catalogue import load_architecture

    monkeypatch.setattr(load_architecture(key).model_class(), "to", full)
    with pytest.raises(OutOfMemoryError, match=rf"need {needed:.1f} GB.*backbones\.{key}\.dtype.*set dtype: bfloat16"):
        load_backbone(key, str(published_folders[key]))
