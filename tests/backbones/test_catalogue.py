from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from coat_core.backbones.base import Backbone, Query
from coat_core.backbones.catalogue import BACKBONES, check_transformers, load_backbone
from coat_core.errors import BackboneError, CheckpointError, HubUnreachableError


def logits(folder: Path, key: str, query: Query) -> torch.Tensor:
    return logits_of(load_backbone(key, str(folder)), query)


def test_an_unknown_key_lists_the_known_ones() -> None:
    with pytest.raises(BackboneError, match="qwen2_audio, qwen2_5_omni, audio_flamingo_3"):
        load_backbone("qwen3", "nowhere")


@pytest.mark.parametrize("other", BACKBONES)
def test_a_checkpoint_of_another_lalm_is_refused(backbone_key: str, other: str, tiny_bases: dict[str, Path]) -> None:
    if other == backbone_key:
        assert load_backbone(backbone_key, str(tiny_bases[other])).key == backbone_key
        return
    with pytest.raises(BackboneError, match=f"another model.*allowed: {backbone_key}"):
        load_backbone(backbone_key, str(tiny_bases[other]))


def test_the_error_of_an_unreachable_base_has_a_next_step(backbone_key: str) -> None:
    with pytest.raises(HubUnreachableError, match=r"cannot be reached.*next step: run hf download no-such-owner/no-such-model"):
        load_backbone(backbone_key, "no-such-owner/no-such-model", revision="0" * 40)
    with pytest.raises(CheckpointError, match=rf"a hub id needs a commit; field: backbones\.{backbone_key}\.revision"):
        load_backbone(backbone_key, "no-such-owner/no-such-model")


def test_a_checkpoint_without_all_weights_is_refused(backbone_key: str, tiny_bases: dict[str, Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_bases[backbone_key], tmp_path / "base"))
    weights = load_file(folder / "model.safetensors")
    removed = next(name for name in weights if name.endswith("layers.3.mlp.up_proj.weight"))
    save_file(
        {name: tensor for name, tensor in weights.items() if name != removed}, folder / "model.safetensors", metadata={"format": "pt"}
    )
    with pytest.raises(BackboneError, match=r"lacks 1 .*layers\.3\.mlp\.up_proj"):
        load_backbone(backbone_key, str(folder))


def test_a_tokenizer_with_another_placeholder_id_is_refused(tiny_bases: dict[str, Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_bases["qwen2_audio"], tmp_path / "base"))
    config = json.loads((folder / "config.json").read_text())
    config["audio_token_index"] -= 1
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(BackboneError, match="placeholder"):
        load_backbone("qwen2_audio", str(folder))


@pytest.mark.parametrize("version", ["5.13.4", "4.57.0"])
def test_an_old_transformers_is_refused(version: str) -> None:
    with pytest.raises(BackboneError, match=r">= 5\.14"):
        check_transformers(version)
    check_transformers("5.14.0")


def test_omni_loads_from_a_complete_checkpoint_and_from_a_thinker(
    tiny_bases: dict[str, Path], tmp_path: Path, queries: list[Query]
) -> None:
    complete = tiny_bases["qwen2_5_omni"]
    assert all(name.startswith("thinker.") for name in load_file(complete / "model.safetensors"))
    weights = load_file(complete / "model.safetensors")
    with_talker = Path(shutil.copytree(complete, tmp_path / "talker"))
    save_file({**weights, "talker.model.norm.weight": torch.ones(8)}, with_talker / "model.safetensors", metadata={"format": "pt"})
    thinker = tmp_path / "thinker"
    load_backbone("qwen2_5_omni", str(complete)).save(str(thinker))
    assert json.loads((thinker / "config.json").read_text())["model_type"] == "qwen2_5_omni_thinker"
    expected = logits(complete, "qwen2_5_omni", queries[0])
    assert torch.equal(logits(with_talker, "qwen2_5_omni", queries[0]), expected)
    assert torch.equal(logits(thinker, "qwen2_5_omni", queries[0]), expected)


def test_a_saved_and_loaded_backbone_has_the_same_logits(
    backbone: Backbone, backbone_key: str, tmp_path: Path, queries: list[Query]
) -> None:
    backbone.tokenizer.chat_template = backbone.tokenizer.chat_template.replace("helpful", "thoughtful")
    backbone.save(str(tmp_path / "copy"))
    assert torch.equal(logits(tmp_path / "copy", backbone_key, queries[0]), logits_of(backbone, queries[0]))
    backbone.save(str(tmp_path / "files"), weights=False)
    names = {path.name for path in (tmp_path / "files").iterdir()}
    assert names == {"chat_template.jinja", "generation_config.json", "preprocessor_config.json", "tokenizer.json", "tokenizer_config.json"}
    assert "chat_template" not in json.loads((tmp_path / "files" / "tokenizer_config.json").read_text())


def logits_of(backbone: Backbone, query: Query) -> torch.Tensor:
    with torch.no_grad():
        result: torch.Tensor = backbone.model(**backbone.generation_inputs(backbone.encode([query], generation=True))).logits
    return result


def test_the_processors_template_takes_precedence_over_a_text_only_one(tiny_bases: dict[str, Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_bases["audio_flamingo_3"], tmp_path / "base"))
    template = (folder / "chat_template.jinja").read_text()
    (folder / "chat_template.jinja").unlink()
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": template.replace("helpful", "older")}))
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**config, "chat_template": "text only"}))
    assert "older" in load_backbone("audio_flamingo_3", str(folder)).tokenizer.chat_template
    (folder / "chat_template.json").unlink()
    assert load_backbone("audio_flamingo_3", str(folder)).tokenizer.chat_template == template, "the built-in published template"


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_is_finite(backbone_key: str, tiny_bases: dict[str, Path], queries: list[Query], dtype: str) -> None:
    backbone = load_backbone(backbone_key, str(tiny_bases[backbone_key]), dtype=dtype)
    batch = backbone.encode(queries)
    with torch.no_grad():
        audio = backbone.embed_audio(backbone.mel([query.waveform for query in queries]))
        read, final = backbone.hidden_states(backbone.embed(batch, audio), batch.attention_mask, 2)
    assert read.dtype == final.dtype == getattr(torch, dtype)
    assert torch.isfinite(final[batch.attention_mask.bool()]).all()
