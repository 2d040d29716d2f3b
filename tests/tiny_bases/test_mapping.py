from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from coat_core.backbones.base import Query
from coat_core.backbones.catalogue import load_backbone
from coat_core.errors import BackboneError
from coat_core.settings import ThinkingSettings
from coat_core.thinking.block import ThinkingBlock
from coat_core.tiny_bases.config import save_base
from coat_core.tiny_bases.mapping import SPARE_ROWS, assemble, projector_of
from coat_core.tiny_bases.parts import load_encoder, load_language_model
from tests.testing.published_parts import ENCODER, LANGUAGE_MODEL, needs_encoder, needs_language_model

TEXT = "<|im_start|>user\nWhat sound is this? Choices: dog bark, rain.<|im_end|>\n<|im_start|>assistant\nrain"


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory, encoder_folder: Path, language_model_folder: Path) -> dict[str, Path]:
    """Bases assembled from the random parts, saved in float32 with a window of 10 s."""
    return assembled(tmp_path_factory.mktemp("assembled"), encoder_folder, language_model_folder)


def assembled(root: Path, encoder: Path, language_model: Path) -> dict[str, Path]:
    parts = load_encoder(str(encoder)), load_language_model(str(language_model))
    for key in ("qwen2_audio", "qwen2_5_omni", "audio_flamingo_3"):
        save_base(key, *assemble(key, *parts, window_s=10, seed=3), root / key, "float32")
    return {path.name: path for path in root.iterdir()}


def stock_states(folder: Path, mel: Tensor) -> tuple[Tensor, Any]:
    """Return the output of the last layer of the stock Whisper encoder, with as many positions as the features need, and its norm."""
    from safetensors.torch import load_file
    from transformers import WhisperConfig
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    config = WhisperConfig.from_pretrained(folder)
    config.max_source_positions = mel.shape[-1] // 2
    encoder = WhisperEncoder(config).eval()
    weights = {name.removeprefix("model.encoder."): tensor.float() for name, tensor in load_file(folder / "model.safetensors").items()}
    weights["embed_positions.weight"] = weights["embed_positions.weight"][: config.max_source_positions]
    encoder.load_state_dict(weights)
    found: list[Tensor] = []
    encoder.layers[-1].register_forward_hook(lambda module, args, output: found.append(output[0] if isinstance(output, tuple) else output))
    with torch.no_grad():
        encoder(mel)
    return found[0], encoder.layer_norm


def relative_error(found: Tensor, expected: Tensor) -> float:
    """Return the norm of the difference over the norm of the expected tensor."""
    return float((found - expected).norm() / expected.norm())


def check_encoder(folder: Path, base: Path, key: str, samples: int, limit: float = 1e-4) -> None:
    """Check states before and after pooling, norm and projector against the stock encoder's."""
    backbone = load_backbone(key, str(base))
    model: Any = backbone.model
    clip = (0.1 * np.random.default_rng(0).standard_normal(samples)).astype(np.float32)
    mel = backbone.mel([clip])
    states: list[Tensor] = []
    tower = model.model.audio_tower
    hook = tower.layers[-1].register_forward_hook(lambda module, args, out: states.append(out[0] if isinstance(out, tuple) else out))
    with torch.no_grad():
        audio = backbone.embed_audio(mel)[0]
        hook.remove()
        expected, norm = stock_states(folder, mel.features)
        found = states[0].reshape(expected.shape)
        assert float(expected.std()) > 0.1
        assert relative_error(found, expected) < limit
        parent, name = projector_of(model)
        pooled = norm(torch.nn.functional.avg_pool1d(expected.transpose(1, 2), 2).transpose(1, 2))
        assert relative_error(audio, getattr(parent, name)(pooled)[0]) < limit


def check_text(folder: Path, base: Path, key: str) -> None:
    """Check that the logits of text equal the stock language model's."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    stock: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    backbone = load_backbone(key, str(base))
    ids = AutoTokenizer.from_pretrained(folder)(TEXT, return_tensors="pt", add_special_tokens=False)["input_ids"]
    assert backbone.tokenizer(TEXT, add_special_tokens=False)["input_ids"] == ids[0].tolist()
    with torch.no_grad():
        expected = stock(input_ids=ids).logits
        logits = backbone.model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
    rows = expected.shape[-1]
    torch.testing.assert_close(logits[..., :rows], expected, atol=1e-5, rtol=1e-5)
    assert float(expected.std()) > 0.05
    # An appended token has the mean logit, so it is never the most likely one.
    torch.testing.assert_close(logits[..., rows:], expected.mean(-1, keepdim=True).expand_as(logits[..., rows:]), atol=1e-3, rtol=1e-3)


def test_text_logits_equal_the_stock_language_models(backbone_key: str, bases: dict[str, Path], language_model_folder: Path) -> None:
    check_text(language_model_folder, bases[backbone_key], backbone_key)


def test_encoder_states_of_a_full_window_equal_the_stock_encoders(backbone_key: str, bases: dict[str, Path], encoder_folder: Path) -> None:
    check_encoder(encoder_folder, bases[backbone_key], backbone_key, 160_000)


def test_a_tower_of_any_length_equals_the_stock_encoder_on_a_short_clip(bases: dict[str, Path], encoder_folder: Path) -> None:
    check_encoder(encoder_folder, bases["qwen2_5_omni"], "qwen2_5_omni", 51_200)


def test_the_tower_and_the_front_end_have_the_short_window(backbone_key: str, bases: dict[str, Path]) -> None:
    backbone: Any = load_backbone(backbone_key, str(bases[backbone_key]))
    config = backbone.model.config.audio_config
    assert config.max_source_positions == 500
    assert getattr(config, "n_window", 500) == 500
    assert (backbone.extractor.n_samples, backbone.extractor.feature_size) == (160_000, 80)


def test_a_block_with_distinct_tokens_fits_the_spare_rows(backbone_key: str, bases: dict[str, Path], language_model_folder: Path) -> None:
    backbone = load_backbone(backbone_key, str(bases[backbone_key]))
    known = load_language_model(str(language_model_folder)).tokenizer.get_vocab()
    assert {token: i for token, i in backbone.tokenizer.get_vocab().items() if token in known} == known
    rows = backbone.embedding.num_embeddings
    assert rows == len(backbone.tokenizer) + SPARE_ROWS
    block = ThinkingBlock.install(backbone, ThinkingSettings(tokens=8, rows="distinct"))
    assert len(set(block.ids)) == 10
    assert min(block.ids) > max(known.values())
    query = Query("a", np.zeros(16_000, np.float32), "How high is it? Choices: low, high.", "low")
    batch = backbone.encode([query])
    assert int((batch.input_ids == backbone.audio_token_id).sum()) == 25
    assert block.positions(batch.input_ids).shape == (1, 8)
    assert backbone.embedding.num_embeddings == rows


def test_a_base_answers(backbone_key: str, bases: dict[str, Path]) -> None:
    backbone = load_backbone(backbone_key, str(bases[backbone_key]))
    batch = backbone.encode([Query("a", np.zeros(16_000, np.float32), "How high is it?")], generation=True)
    model: Any = backbone.model
    ids = model.generate(**backbone.generation_inputs(batch), max_new_tokens=3, do_sample=False)
    assert ids.shape[1] > batch.input_ids.shape[1]


def test_weights_that_do_not_fit_are_refused(encoder_folder: Path, language_model_folder: Path) -> None:
    encoder, language_model = load_encoder(str(encoder_folder)), load_language_model(str(language_model_folder))
    weights: Any = encoder.weights
    del weights["layers.1.fc1.bias"]
    with pytest.raises(BackboneError, match=r"layers\.1\.fc1\.bias"):
        assemble("audio_flamingo_3", encoder, language_model, window_s=10, seed=0)


@pytest.mark.parametrize("window_s", [0, 31])
def test_a_window_beyond_the_encoders_is_refused(window_s: int, encoder_folder: Path, language_model_folder: Path) -> None:
    with pytest.raises(BackboneError, match="1 to 30 s"):
        assemble(
            "qwen2_audio", load_encoder(str(encoder_folder)), load_language_model(str(language_model_folder)), window_s=window_s, seed=0
        )  # fmt: skip


def test_other_positions_are_refused_where_the_class_computes_them(encoder_folder: Path, language_model_folder: Path) -> None:
    encoder, language_model = load_encoder(str(encoder_folder)), load_language_model(str(language_model_folder))
    encoder.weights["embed_positions.weight"].add_(0.1)
    assemble("qwen2_audio", encoder, language_model, window_s=10, seed=0)
    with pytest.raises(BackboneError, match="sinusoids"):
        assemble("qwen2_5_omni", encoder, language_model, window_s=10, seed=0)


@needs_encoder
def test_the_real_encoder_is_mapped_exactly(backbone_key: str, language_model_folder: Path, tmp_path: Path) -> None:
    parts = load_encoder(str(ENCODER)), load_language_model(str(language_model_folder))
    save_base(backbone_key, *assemble(backbone_key, *parts, window_s=10, seed=0), tmp_path / "base", "float32")
    # The published positions are float16; one class computes them in float32.
    check_encoder(ENCODER, tmp_path / "base", backbone_key, 160_000, 1e-2 if backbone_key == "qwen2_5_omni" else 1e-4)


@needs_encoder
@needs_language_model
def test_the_real_language_model_is_mapped_exactly(backbone_key: str, tmp_path: Path) -> None:
    parts = load_encoder(str(ENCODER)), load_language_model(str(LANGUAGE_MODEL))
    save_base(backbone_key, *assemble(backbone_key, *parts, window_s=10, seed=0), tmp_path / "base", "float32")
    check_text(LANGUAGE_MODEL, tmp_path / "base", backbone_key)
    backbone = load_backbone(backbone_key, str(tmp_path / "base"))
    model: Any = backbone.model
    prompt = "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"
    ids = torch.tensor([backbone.tokenizer(prompt)["input_ids"]])
    answer = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=8)[0, ids.shape[1] :]
    assert "Paris" in backbone.tokenizer.decode(answer)
