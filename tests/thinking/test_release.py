"""A release: its files, loading, merging, and the folders that are rejected."""

from __future__ import annotations

import gc
import json
import shutil
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Qwen2AudioForConditionalGeneration

from coat_core.backbones.base import Query
from coat_core.errors import CheckpointError, DeviceError, HubUnreachableError, OutOfMemoryError, ReleaseError
from coat_core.storage import sha256_tree, write_json
from coat_core.thinking.info import ReleaseInfo
from coat_core.thinking.model import ThinkingModel, think_states
from coat_core.thinking.release import load_release, read_info, write_release
from tests.testing.releases import info_of

Make = Callable[..., ThinkingModel]
COAT_FILES = {
    "adapter_config.json", "adapter_model.safetensors", "chat_template.jinja", "coat.json", "generation_config.json", "heads.safetensors",
    "preprocessor_config.json", "tokenizer.json", "tokenizer_config.json",
}  # fmt: skip


@pytest.fixture
def release(make_model: Make, tiny_bases: dict[str, Path], tmp_path: Path) -> Path:
    """Return a release of arm coat on Qwen2-Audio."""
    model = make_model("qwen2_audio", trained=True)
    write_release(tmp_path / "release", info_of(model, "coat", tiny_bases["qwen2_audio"]), model.backbone, model)
    return tmp_path / "release"


def _logits(backbone: Any, queries: list[Query]) -> torch.Tensor:
    with torch.no_grad():
        logits: torch.Tensor = backbone.model(**backbone.generation_inputs(backbone.encode(queries, generation=True))).logits
    return logits


@pytest.mark.parametrize(("arm", "missing"), [("coat", set()), ("block", {"heads.safetensors"}), ("sft", {"heads.safetensors"})])
def test_the_files_of_a_release(
    make_model: Make, tiny_bases: dict[str, Path], tmp_path: Path, backbone_key: str, arm: str, missing: set[str]
) -> None:
    model = make_model(backbone_key, arm)
    write_release(tmp_path / "r", info_of(model, arm, tiny_bases[backbone_key]), model.backbone, model)
    assert {path.name for path in (tmp_path / "r").iterdir()} == COAT_FILES - missing
    config = json.loads((tmp_path / "r/adapter_config.json").read_text())
    token_ids = list(model.block.trainable_token_ids) if model.block else None
    assert (config["trainable_token_indices"], config["base_model_name_or_path"]) == (token_ids, str(tiny_bases[backbone_key]))
    generation = json.loads((tmp_path / "r/generation_config.json").read_text())
    assert generation.get("suppress_tokens") == token_ids
    assert generation["do_sample"] is False
    assert model.backbone.tokenizer.convert_tokens_to_ids(model.backbone.end_of_turn) in generation["eos_token_id"]
    assert (tmp_path / "r/chat_template.jinja").read_text() == model.backbone.tokenizer.chat_template
    assert "chat_template" not in json.loads((tmp_path / "r/tokenizer_config.json").read_text())
    names = set(load_file(tmp_path / "r/adapter_model.safetensors"))
    assert len(names) == 84 + (arm != "sft")
    assert ("base_model.model.model.language_model.embed_tokens.token_adapter.trainable_tokens_delta" in names) == (arm != "sft")


def test_the_adapter_equals_what_stock_peft_saves(make_model: Make, tiny_bases: dict[str, Path], tmp_path: Path, backbone_key: str) -> None:
    """The same names, shapes and config as a PEFT model with these targets and trainable tokens."""
    from peft import LoraConfig, get_peft_model

    model = make_model(backbone_key, "block", trained=True)
    write_release(tmp_path / "ours", info_of(model, "block", tiny_bases[backbone_key]), model.backbone, model)
    assert model.block is not None
    targets, token_ids = model.peft.peft_config["default"].target_modules, list(model.block.trainable_token_ids)
    model.merge()
    lora = LoraConfig(r=2, lora_alpha=4, target_modules=targets, trainable_token_indices=token_ids)
    with pytest.warns(FutureWarning, match="is_gradient_checkpointing"):
        stock = get_peft_model(model.backbone.model, lora)
    stock.peft_config["default"].base_model_name_or_path = str(tiny_bases[backbone_key])
    stock.save_pretrained(tmp_path / "stock", save_embedding_layers=False)
    ours, theirs = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("ours", "stock"))
    assert {name: value.shape for name, value in ours.items()} == {name: value.shape for name, value in theirs.items()}
    name = next(name for name in theirs if "trainable_tokens_delta" in name)
    assert torch.equal(ours[name], theirs[name]), "PEFT initialises its tokens from the merged matrix, so this compares their order"
    configs = [json.loads((tmp_path / name / "adapter_config.json").read_text()) for name in ("ours", "stock")]
    assert configs[0] == configs[1]


def test_equal_weights_give_equal_bytes(make_model: Make, tiny_bases: dict[str, Path], tmp_path: Path, release: Path) -> None:
    model = make_model("qwen2_audio", trained=True)
    write_release(tmp_path / "again", info_of(model, "coat", tiny_bases["qwen2_audio"]), model.backbone, model)
    assert sha256_tree(tmp_path / "again") == sha256_tree(release)
    write_release(tmp_path / "again", info_of(model, "coat", tiny_bases["qwen2_audio"]), model.backbone, model)
    assert sha256_tree(tmp_path / "again") == sha256_tree(release)


@pytest.mark.parametrize(("arm", "rows"), [("sft", "shared"), ("block", "distinct"), ("coat", "shared")])
def test_merged_equals_unmerged(
    make_model: Make, tiny_bases: dict[str, Path], tmp_path: Path, backbone_key: str, arm: str, rows: str, queries: list[Query]
) -> None:
    model = make_model(backbone_key, arm, trained=True, rows=rows)
    expected = _logits(model.backbone, queries)
    write_release(tmp_path / "r", info_of(model, arm, tiny_bases[backbone_key]), model.backbone, model)
    merged, unmerged = load_release(tmp_path / "r", merge=True), load_release(tmp_path / "r", merge=False)
    assert torch.equal(_logits(unmerged.backbone, queries), expected)
    torch.testing.assert_close(_logits(merged.backbone, queries), expected, atol=1e-4, rtol=1e-4)
    assert (merged.model, type(unmerged.model)) == (None, ThinkingModel)
    assert not [name for name, _ in merged.backbone.model.named_modules() if "lora" in name]
    stock = type(merged.backbone.model)(merged.backbone.model.config)  # type: ignore[call-arg]
    assert {name for name, _ in stock.named_parameters()} == {name for name, _ in merged.backbone.model.named_parameters()}
    if model.block is not None:
        torch.testing.assert_close(merged.backbone.embedding.weight[list(model.block.trainable_token_ids)], model.trainable_tokens.detach())
    assert merged.info == read_info(tmp_path / "r")


def test_the_heads_of_a_release_predict_the_same(
    make_model: Make, tiny_bases: dict[str, Path], tmp_path: Path, backbone_key: str, queries: list[Query]
) -> None:
    model = make_model(backbone_key, trained=True)
    backbone, block = model.backbone, model.block
    assert block is not None
    batch, audio = backbone.encode(queries), backbone.embed_audio(backbone.mel([query.waveform for query in queries]))
    with torch.no_grad():
        inner, _ = backbone.hidden_states(backbone.embed(batch, audio), batch.attention_mask, block.read_layer)
    states, durations_s = think_states(inner, block, batch), [len(clip) / backbone.audio_token_rate_hz for clip in audio]
    expected = {key: head.predict(states, durations_s) for key, head in model.heads.items()}  # type: ignore[operator]
    frames = [backbone.audio_token_count(samples) for samples in (12_000, 20_000)]
    assert {key: [tuple(clip.shape) for clip in clips] for key, clips in expected.items()} == {
        "reconstruction": [(count, 3) for count in frames],
        "pitch": [(count, 4) for count in frames],
    }
    write_release(tmp_path / "r", info_of(model, "coat", tiny_bases[backbone_key]), model.backbone, model)
    for merge in (True, False):
        predicted = load_release(tmp_path / "r", merge=merge).predict(queries)
        assert sorted(predicted) == ["pitch", "reconstruction"]
        for key, clips in predicted.items():
            for clip, other in zip(clips, expected[key], strict=True):
                torch.testing.assert_close(clip, other, atol=1e-4, rtol=1e-4)


def test_the_base_arm_is_the_untouched_base(
    make_backbone: Any, tiny_bases: dict[str, Path], tmp_path: Path, backbone_key: str, queries: list[Query]
) -> None:
    backbone = make_backbone(backbone_key)
    write_release(tmp_path / "r", info_of(backbone, "base", tiny_bases[backbone_key]), backbone)
    assert {path.name for path in (tmp_path / "r").iterdir()} == COAT_FILES - {
        "adapter_config.json",
        "adapter_model.safetensors",
        "heads.safetensors",
    }
    loaded = load_release(tmp_path / "r")
    assert torch.equal(_logits(loaded.backbone, queries), _logits(backbone, queries))
    with pytest.raises(ReleaseError, match="no heads"):
        loaded.predict(queries)


def test_info_through_json(release: Path) -> None:
    info = read_info(release)
    assert ReleaseInfo.from_json(json.loads(json.dumps(info.to_json()))) == info
    assert (info.arm, info.seed, info.fingerprint, info.block is not None, sorted(info.experts)) == (
        "coat",
        0,
        "f" * 8,
        True,
        ["pitch", "reconstruction"],
    )
    assert info.to_json()["read_layer"] == 4
    assert info.to_json()["target_rate_hz"] == 25.0


def test_with_a_wrong_info_nothing_is_written(make_model: Make, tiny_bases: dict[str, Path], tmp_path: Path) -> None:
    model = make_model("qwen2_audio", "block")
    for info, other in ((info_of(model, "base", Path("b")), model), (info_of(model, "block", Path("b")), None)):
        with pytest.raises(ReleaseError, match="does not match the model"):
            write_release(tmp_path / "r", info, model.backbone, other)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", sorted(COAT_FILES))
def test_a_missing_file_is_named(release: Path, name: str) -> None:
    (release / name).unlink()
    with pytest.raises(ReleaseError, match=name):
        load_release(release)


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "chat_template.jinja", "heads.safetensors"])
def test_a_changed_file_is_named(release: Path, name: str) -> None:
    with (release / name).open("ab") as stream:
        stream.write(b" ")
    with pytest.raises(ReleaseError, match=f"was changed after it was written.*{name}"):
        load_release(release)


def test_another_fingerprint_is_rejected(release: Path) -> None:
    load_release(release, fingerprint="f" * 8)
    with pytest.raises(ReleaseError, match="another stage key"):
        load_release(release, fingerprint="e" * 8)


@pytest.mark.parametrize("other", ["audio_flamingo_3", "qwen2_5_omni"])
def test_another_base_is_rejected(release: Path, tiny_bases: dict[str, Path], other: str) -> None:
    with pytest.raises(ReleaseError, match="does not load on its base"):
        load_release(release, base=str(tiny_bases[other]))


def test_a_missing_base_is_rejected(release: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no such folder.*qwen2_audio\.base.*nowhere"):
        load_release(release, base=str(tmp_path / "nowhere"))


def test_errors_with_a_next_step_are_not_wrapped(release: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Any, *arguments: Any, **options: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(Qwen2AudioForConditionalGeneration, "to", full)
        with pytest.raises(OutOfMemoryError, match="set dtype: bfloat16"):
            load_release(release)
    with monkeypatch.context() as patch:
        patch.setattr(ThinkingModel, "merge", full)
        with pytest.raises(OutOfMemoryError, match=r"too small for the release.*cpu, float32.*bfloat16"):
            load_release(release)
    with pytest.raises(DeviceError, match="no such device here"):
        load_release(release, device="cuda:99")
    base = json.loads((release / "coat.json").read_text())["base"]
    _rewrite(release, base={**base, "id": "owner/name", "revision": "0" * 40})
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(HubUnreachableError) as caught:
        load_release(release)
    assert caught.value.retryable


def test_a_merged_release_is_freed_with_its_last_reference(release: Path) -> None:
    gc.disable()
    try:
        loaded = load_release(release, merge=True)
        weight = weakref.ref(loaded.backbone.embedding.weight)
        del loaded
        assert weight() is None
    finally:
        gc.enable()


def _rewrite(release: Path, **fields: Any) -> None:
    """Change coat.json, including its hashes."""
    from coat_core.storage import read_json, sha256_file

    value = {**read_json(release / "coat.json"), **fields}
    value["files"] = {name: sha256_file(release / name) for name in value["files"]}
    write_json(release / "coat.json", value)


def test_an_adapter_of_another_shape_is_rejected(release: Path) -> None:
    weights = load_file(release / "adapter_model.safetensors")
    name = next(iter(weights))
    save_file({**weights, name: torch.zeros(1, 3)}, release / "adapter_model.safetensors")
    _rewrite(release)
    with pytest.raises(ReleaseError, match="does not load"):
        load_release(release)
    del weights[name]
    save_file(weights, release / "adapter_model.safetensors")
    _rewrite(release)
    with pytest.raises(ReleaseError, match="do not match this base"):
        load_release(release)


def test_block_ids_that_differ_from_the_tokenizers_are_rejected(release: Path) -> None:
    block = read_info(release).to_json()["block"]
    _rewrite(release, block={**block, "start_id": block["start_id"] - 1})
    with pytest.raises(ReleaseError, match="invalid for this base"):
        load_release(release)


@pytest.mark.parametrize("content", ["{", "[]", '{"arm": "coat"}'])
def test_an_invalid_info_is_rejected(release: Path, content: str) -> None:
    (release / "coat.json").write_text(content)
    with pytest.raises(ReleaseError, match=r"coat\.json"):
        load_release(release)


def test_pickles_and_second_templates_are_rejected(release: Path) -> None:
    for name in ("pytorch_model.bin", "chat_template.json"):
        shutil.copy(release / "chat_template.jinja", release / name)
        with pytest.raises(ReleaseError, match="must not have"):
            load_release(release)
        (release / name).unlink()
    load_release(release)
