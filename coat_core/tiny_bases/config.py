"""Configurations of the bases that are made here: the published model classes in small sizes, saved in the published layout."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coat_core.backbones.catalogue import load_architecture
from coat_core.errors import BackboneError
from coat_core.storage import new_folder, read_json, write_json
from coat_core.tiny_bases.tokenizer import make_tokenizer

WINDOW_S = 10
"""The tiny towers' window; the published towers' window is 30 s."""
_POSITIONS = WINDOW_S * 50
_MEL_BINS = 128
_WIDTH = 128
_LAYERS = 6
_DTYPE = "bfloat16"

_QWEN_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_QWEN25_RESERVED = (
    "<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>", "<|box_end|>", "<|quad_start|>", "<|quad_end|>",
    "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>",
)  # fmt: skip
_OMNI_TOKENS = (
    "<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>", "<|box_end|>", "<|quad_start|>", "<|quad_end|>",
    "<|vision_bos|>", "<|vision_eos|>", "<|vision_pad|>", "<|IMAGE|>", "<|VIDEO|>",
)  # fmt: skip


@dataclass(frozen=True)
class TinyBase:
    """The parts of a tiny base that differ between LALMs.

    Attributes:
        special_tokens: special tokens in the order of their ids, as published.
        spare_rows: embedding rows beyond the tokenizer's length; Audio Flamingo 3 publishes fewer than a thinking block needs.
        named_tokens: extra attributes of the tokenizer, which the stock processor reads.
        processor: name of the stock processor's class.
        kv_heads: key-value heads of the tiny language model.
        rope_theta: base of its rotary positions.
    """

    special_tokens: tuple[str, ...]
    spare_rows: int
    named_tokens: dict[str, str]
    processor: str
    kv_heads: int
    rope_theta: float


TINY: dict[str, TinyBase] = {
    "qwen2_audio": TinyBase((*_QWEN_TOKENS, "<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>"), 32, {}, "Qwen2AudioProcessor", 4, 10000.0),
    "qwen2_5_omni": TinyBase(
        (*_QWEN_TOKENS, *_OMNI_TOKENS),
        32,
        {
            "audio_token": "<|AUDIO|>", "audio_bos_token": "<|audio_bos|>", "audio_eos_token": "<|audio_eos|>", "image_token": "<|IMAGE|>",
            "video_token": "<|VIDEO|>", "vision_bos_token": "<|vision_bos|>", "vision_eos_token": "<|vision_eos|>",
        },
        "Qwen2_5OmniProcessor", 2, 1000000.0,
    ),
    "audio_flamingo_3": TinyBase((*_QWEN_TOKENS, *_QWEN25_RESERVED, "<sound>"), 2, {}, "AudioFlamingo3Processor", 2, 1000000.0),
}  # fmt: skip


def new_base(key: str, texts: Sequence[str], seed: int) -> tuple[Any, Any, Any]:
    """Return a stock model with random weights, its tokenizer and its feature extractor.

    Args:
        key: key of the backbone.
        texts: training texts of the tokenizer.
        seed: seed of the weights.

    Raises:
        BackboneError: the key is unknown.
    """
    architecture = load_architecture(key)
    tiny = TINY[key]
    tokenizer = make_tokenizer(texts, tiny.special_tokens, tiny.named_tokens)
    tokenizer.chat_template = architecture.template
    model = new_model(key, tokenizer, _text_sizes(key, len(tokenizer) + tiny.spare_rows, tokenizer), _AUDIO_SIZES, seed)
    _set_whisper_positions(model)
    return model, tokenizer, new_extractor(key, _MEL_BINS, WINDOW_S)


def new_model(key: str, tokenizer: Any, text: Mapping[str, Any], audio: Mapping[str, Any], seed: int) -> Any:
    """Return a stock model of these sizes, with random weights.

    Args:
        key: key of the backbone.
        tokenizer: a tokenizer with the special tokens of `TINY[key]` that the model's configuration names.
        text: sizes of the language model, by the names of `Qwen2Config`.
        audio: sizes of the audio tower, by the names of `WhisperConfig`; `n_window` for a tower that splits its input into chunks.
        seed: seed of the weights.

    Raises:
        BackboneError: the key is unknown.
    """
    import torch
    from transformers import GenerationConfig

    architecture = load_architecture(key)
    config = _CONFIGS[key](tokenizer, dict(text), dict(audio))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = architecture.model_class()._from_config(config, dtype=torch.float32)
    end, pad = tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"])
    model.generation_config = GenerationConfig(bos_token_id=pad, eos_token_id=[end, pad], pad_token_id=pad, do_sample=False)
    return model.eval()


def new_extractor(key: str, mel_bins: int, window_s: int) -> Any:
    """Return a `WhisperFeatureExtractor` for a window of `window_s` seconds."""
    from transformers import WhisperFeatureExtractor

    return WhisperFeatureExtractor(
        feature_size=mel_bins, chunk_length=window_s, return_attention_mask=True, processor_class=TINY[key].processor
    )


def _set_whisper_positions(model: Any) -> None:
    """Set a frozen position table to Whisper's sinusoids, as published; training does not change it."""
    import torch

    table = dict(model.model.audio_tower.named_children()).get("embed_positions")
    if table is not None:
        half = table.embedding_dim // 2
        angles = torch.arange(table.num_embeddings)[:, None] * torch.exp(-torch.arange(half) * (math.log(10_000.0) / (half - 1)))
        table.weight.data.copy_(torch.cat([angles.sin(), angles.cos()], dim=1))


def save_base(key: str, model: Any, tokenizer: Any, extractor: Any, folder: Path, dtype: str = _DTYPE) -> None:
    """Write a base atomically, in the published layout and `dtype`.

    Raises:
        BackboneError: a weight is not finite.
    """
    import torch

    if not all(bool(torch.isfinite(parameter).all()) for parameter in model.parameters()):
        raise BackboneError("a weight of the base is not finite; the base was not written", field="base", value=key)
    with new_folder(folder) as temporary:
        model.to(getattr(torch, dtype)).save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
        extractor.save_pretrained(temporary)
        if key == "qwen2_5_omni":
            _as_complete_checkpoint(temporary)


def save_random_base(key: str, folder: Path, *, texts: Sequence[str] = (), seed: int = 0) -> None:
    """Write a tiny base with random weights, for tests.

    Raises:
        BackboneError: the key is unknown.
    """
    save_base(key, *new_base(key, texts, seed), folder)


def _as_complete_checkpoint(folder: Path) -> None:
    """Prefix the thinker's weights and wrap its configuration as in the published checkpoint, without its talker."""
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    save_file({_prefixed(name): tensor for name, tensor in weights.items()}, folder / "model.safetensors", metadata={"format": "pt"})
    thinker = read_json(folder / "config.json")
    outer = {name: thinker.pop(name) for name in ("dtype", "transformers_version") if name in thinker}
    write_json(
        folder / "config.json",
        {
            "architectures": ["Qwen2_5OmniModel"],
            "enable_audio_output": False,
            "model_type": "qwen2_5_omni",
            "thinker_config": thinker,
            **outer,
        },
    )


def _prefixed(name: str) -> str:
    return name if name.startswith("thinker.") else f"thinker.{name}"


def _text_sizes(key: str, vocabulary: int, tokenizer: Any) -> dict[str, Any]:
    pad, end = tokenizer.convert_tokens_to_ids(["<|endoftext|>", "<|im_end|>"])
    return {
        "vocab_size": vocabulary, "hidden_size": _WIDTH, "intermediate_size": 320, "num_hidden_layers": _LAYERS, "num_attention_heads": 4,
        "num_key_value_heads": TINY[key].kv_heads, "max_position_embeddings": 2048, "rms_norm_eps": 1e-6, "tie_word_embeddings": False,
        "bos_token_id": pad, "eos_token_id": end, "rope_parameters": {"rope_type": "default", "rope_theta": TINY[key].rope_theta},
    }  # fmt: skip


_AUDIO_SIZES = {
    "num_mel_bins": _MEL_BINS, "d_model": 128, "encoder_layers": 2, "encoder_attention_heads": 4, "encoder_ffn_dim": 320,
    "max_source_positions": _POSITIONS,
}  # fmt: skip


def _qwen2_audio(tokenizer: Any, text: dict[str, Any], audio: dict[str, Any]) -> Any:
    from transformers import Qwen2AudioConfig

    audio.pop("n_window", None)
    return Qwen2AudioConfig(
        text_config={**text, "model_type": "qwen2"},
        audio_config={**audio, "model_type": "qwen2_audio_encoder"},
        audio_token_index=tokenizer.convert_tokens_to_ids("<|AUDIO|>"),
        tie_word_embeddings=False,
    )


def _qwen2_5_omni(tokenizer: Any, text: dict[str, Any], audio: dict[str, Any]) -> Any:
    from transformers import Qwen2_5OmniThinkerConfig

    token = tokenizer.convert_tokens_to_ids
    # The rotary half of a head's width is divided between three axes in the published proportion 16 : 24 : 24.
    half = text["hidden_size"] // text["num_attention_heads"] // 2
    sections = [half // 4, 3 * half // 8, half - half // 4 - 3 * half // 8]
    width = text["hidden_size"]
    return Qwen2_5OmniThinkerConfig(
        text_config={**text, "rope_parameters": {**text["rope_parameters"], "mrope_section": sections}},
        audio_config={"n_window": 100, **audio, "output_dim": width},
        vision_config={
            "depth": 1, "hidden_size": 32, "intermediate_size": 32, "num_heads": 2, "out_hidden_size": width, "fullatt_block_indexes": [0],
        },
        audio_token_index=token("<|AUDIO|>"), image_token_index=token("<|IMAGE|>"), video_token_index=token("<|VIDEO|>"),
        audio_start_token_id=token("<|audio_bos|>"), audio_end_token_id=token("<|audio_eos|>"),
        vision_start_token_id=token("<|vision_bos|>"), vision_end_token_id=token("<|vision_eos|>"), user_token_id=token("u"),
        tie_word_embeddings=False,
    )  # fmt: skip


def _audio_flamingo_3(tokenizer: Any, text: dict[str, Any], audio: dict[str, Any]) -> Any:
    from transformers import AudioFlamingo3Config

    names = {
        "d_model": "hidden_size", "encoder_layers": "num_hidden_layers", "encoder_attention_heads": "num_attention_heads",
        "encoder_ffn_dim": "intermediate_size",
    }  # fmt: skip
    audio.pop("n_window", None)
    return AudioFlamingo3Config(
        text_config={**text, "model_type": "qwen2"},
        audio_config={**{names.get(name, name): value for name, value in audio.items()}, "model_type": "audioflamingo3_encoder"},
        audio_token_id=tokenizer.convert_tokens_to_ids("<sound>"),
        tie_word_embeddings=False,
    )


_CONFIGS = {"qwen2_audio": _qwen2_audio, "qwen2_5_omni": _qwen2_5_omni, "audio_flamingo_3": _audio_flamingo_3}
