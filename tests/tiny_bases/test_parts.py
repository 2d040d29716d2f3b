from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from coat_core.errors import BackboneError, CheckpointError
from coat_core.tiny_bases.parts import load_encoder, load_language_model, source_digest
from tests.testing.published_parts import write_language_model


def test_an_encoder_is_read_without_its_decoder(encoder_folder: Path) -> None:
    part = load_encoder(str(encoder_folder))
    assert part.sizes == {
        "num_mel_bins": 80, "d_model": 32, "encoder_layers": 2, "encoder_attention_heads": 2, "encoder_ffn_dim": 48,
        "activation_function": "gelu",
    }  # fmt: skip
    assert part.weights["embed_positions.weight"].shape == (1500, 32)
    assert {tensor.dtype for tensor in part.weights.values()} == {torch.float32}
    assert "layers.1.self_attn.k_proj.weight" in part.weights


def test_a_language_model_is_read_with_its_output_embedding(language_model_folder: Path) -> None:
    part = load_language_model(str(language_model_folder))
    assert (part.sizes["hidden_size"], part.sizes["num_key_value_heads"]) == (64, 2)
    assert part.sizes["rope_parameters"] == {"rope_type": "default", "rope_theta": 100_000.0}
    assert torch.equal(part.weights["lm_head.weight"], part.weights["model.embed_tokens.weight"])
    assert (part.sizes["eos_token_id"], part.sizes["bos_token_id"]) == (2, 0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mlp_bias": True}, "mlp_bias"),
        ({"attention_bias": True}, "attention_bias"),
        ({"head_dim": 32}, "head_dim"),
        ({"hidden_act": "gelu"}, "hidden_act"),
        ({"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 10_000.0}}, "rope_parameters"),
    ],
)
def test_a_language_model_with_other_layers_is_refused(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(BackboneError, match=message):
        load_language_model(str(write_language_model(tmp_path / "model", **changes)))


def test_a_tokenizer_without_the_chat_format_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BackboneError, match=r"<\|im_start\|>"):
        load_language_model(str(write_language_model(tmp_path / "model", tokens=("<|endoftext|>", "<s>", "<|im_end|>"))))


def test_another_model_is_refused_as_encoder(language_model_folder: Path) -> None:
    with pytest.raises(BackboneError, match="llama"):
        load_encoder(str(language_model_folder))


def test_a_checkpoint_without_encoder_weights_is_refused(encoder_folder: Path, language_model_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes((encoder_folder / "config.json").read_bytes())
    (tmp_path / "model.safetensors").write_bytes((language_model_folder / "model.safetensors").read_bytes())
    with pytest.raises(BackboneError, match="no weights of a Whisper encoder"):
        load_encoder(str(tmp_path))


@pytest.mark.parametrize("source", ["nowhere", "openai/whisper-base"])
def test_a_hub_id_needs_a_commit(source: str) -> None:
    with pytest.raises(CheckpointError):
        load_encoder(source)


def test_gguf_files_need_their_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BackboneError, match="one GGUF file"):
        load_language_model(str(tmp_path))
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "gguf" else find(name, *rest))
    with pytest.raises(BackboneError, match="needs the package gguf"):
        load_language_model(str(tmp_path))


def test_the_digest_changes_with_a_file(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({}))
    before = source_digest(str(tmp_path))
    assert before == source_digest(str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps({"a": 1}))
    assert source_digest(str(tmp_path)) != before
    assert source_digest("owner/name@1") != source_digest("owner/name@2")
