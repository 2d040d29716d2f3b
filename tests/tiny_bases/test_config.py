from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import AutoProcessor

from coat_core.backbones.catalogue import load_architecture, load_backbone
from coat_core.errors import BackboneError
from coat_core.storage import sha256_tree
from coat_core.tiny_bases.config import TINY, new_base, save_base, save_random_base

TEXTS = ["Which instrument is it? Choices: flute, violin."]


def test_a_tiny_base_has_the_published_class(backbone_key: str, tiny_bases: dict[str, Path]) -> None:
    backbone, folder = load_backbone(backbone_key, str(tiny_bases[backbone_key])), tiny_bases[backbone_key]
    assert type(backbone.model) is load_architecture(backbone_key).model_class()
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 4_000_000
    assert backbone.embedding.weight.data_ptr() != backbone.model.get_output_embeddings().weight.data_ptr()
    assert backbone.layer_count >= 4


def test_spare_rows_and_special_tokens_are_as_published(backbone_key: str, tiny_bases: dict[str, Path]) -> None:
    backbone = load_backbone(backbone_key, str(tiny_bases[backbone_key]))
    tokenizer, tiny = backbone.tokenizer, TINY[backbone_key]
    assert backbone.embedding.num_embeddings - len(tokenizer) == tiny.spare_rows == {"audio_flamingo_3": 2}.get(backbone_key, 32)
    ids = tokenizer.convert_tokens_to_ids(list(tiny.special_tokens))
    assert ids == list(range(len(tokenizer) - len(ids), len(tokenizer)))
    assert all(tokenizer(token, add_special_tokens=False)["input_ids"] == [i] for token, i in zip(tiny.special_tokens, ids, strict=True))


def test_the_tokenizer_decodes_any_text_to_itself(backbone_key: str, tiny_bases: dict[str, Path]) -> None:
    tokenizer = load_backbone(backbone_key, str(tiny_bases[backbone_key])).tokenizer
    text = "Zürich: 42 café ☕ — what's that?\n"
    assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text
    assert len(tokenizer(" flute", add_special_tokens=False)["input_ids"]) <= 2


def test_the_same_seed_gives_the_same_bytes(backbone_key: str, tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        save_random_base(backbone_key, tmp_path / name, texts=TEXTS, seed=seed)
    assert sha256_tree(tmp_path / "a") == sha256_tree(tmp_path / "b")
    assert (tmp_path / "a/model.safetensors").read_bytes() != (tmp_path / "c/model.safetensors").read_bytes()


def test_the_folder_has_the_published_layout(backbone_key: str, tiny_bases: dict[str, Path]) -> None:
    folder = tiny_bases[backbone_key]
    assert {path.name for path in folder.iterdir()} == {
        "chat_template.jinja", "config.json", "generation_config.json", "model.safetensors", "preprocessor_config.json", "tokenizer.json",
        "tokenizer_config.json",
    }  # fmt: skip
    assert "chat_template" not in json.loads((folder / "tokenizer_config.json").read_text())
    expected = {"qwen2_audio": "qwen2_audio", "qwen2_5_omni": "qwen2_5_omni", "audio_flamingo_3": "audioflamingo3"}
    assert json.loads((folder / "config.json").read_text())["model_type"] == expected[backbone_key]


@pytest.mark.parametrize("key", ["qwen2_audio", "audio_flamingo_3"])
def test_the_stock_processor_loads_the_folder(key: str, tiny_bases: dict[str, Path]) -> None:
    processor = AutoProcessor.from_pretrained(tiny_bases[key])
    assert type(processor).__name__ == TINY[key].processor
    assert processor.chat_template == (tiny_bases[key] / "chat_template.jinja").read_text()


def test_omni_has_the_token_attributes_of_its_stock_processor(tiny_bases: dict[str, Path]) -> None:
    tokenizer = load_backbone("qwen2_5_omni", str(tiny_bases["qwen2_5_omni"])).tokenizer
    assert tokenizer.audio_token == "<|AUDIO|>"
    assert tokenizer.video_token_id == tokenizer.convert_tokens_to_ids("<|VIDEO|>")


def test_a_base_that_is_not_finite_is_not_written(tmp_path: Path) -> None:
    model, tokenizer, extractor = new_base("audio_flamingo_3", TEXTS, 0)
    model.get_input_embeddings().weight.data[0, 0] = float("nan")
    with pytest.raises(BackboneError, match="not finite"):
        save_base("audio_flamingo_3", model, tokenizer, extractor, tmp_path / "base")
    assert not list(tmp_path.iterdir())
