"""Configurations of the tiny bases: the published model classes in small sizes, saved in the published layout."""

from __future__ import annotations

import math
from collections.abc import Sequence
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
    """

    special_tokens: tuple[str, ...]
    spare_rows: int
    named_tokens: dict[str, str]
    processor: str


TINY: dict[str, TinyBase] = {
    "qwen2_audio": TinyBase((*_QWEN_TOKENS, "<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>"), 32, {}, "Qwen2AudioProcessor"),
    "qwen2_5_omni": TinyBase(
        (*_QWEN_TOKENS, *_OMNI_TOKENS),
        32,
        {
            "audio_token": "<|AUDIO|>", "audio_bos_token": "<|audio_bos|>", "audio_eos_token": "<|audio_eos|>", "image_token": "<|IMAGE|>",
            "video_token": "<|VIDEO|>", "vision_bos_token": "<|vision_bos|>", "vision_eos_token": "<|vision_eos|>",
        },
        "Qwen2_5OmniProcessor",
    ),
    "audio_flamingo_3": TinyBase((*_QWEN_TOKENS, *_QWEN25_RESERVED, "<sound>"), 2, {}, "AudioFlamingo3Processor"),
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
    import torch
    from transformers import GenerationConfig, WhisperFeatureExtractor

    architecture = load_architecture(key)
    tiny = TINY[key]
    tokenizer = make_tokenizer(texts, tiny.special_tokens, tiny.named_tokens)
    tokenizer.chat_template = architecture.template
    config = _CONFIGS[key](tokenizer, len(tokenizer) + tiny.spare_rows)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = architecture.model_class()._from_config(config, dtype=torch.float32)
    _set_whisper_positions(model)
    end, pad = tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"])
    model.generation_config = GenerationConfig(bos_token_id=pad, eos_token_id=[end, pad], pad_token_id=pad, do_sample=False)
    extractor = WhisperFeatureExtractor(
        feature_size=_MEL_BINS, chunk_length=WINDOW_S, return_attention_mask=True, processor_class=tiny.processor
    )
    return model.eval(), tokenizer, extractor


def _set_whisper_positions(model: Any) -> None:
    """Set a frozen position table to Whisper's sinusoids, as published; training does not change it."""
    import torch

    table = dict(model.model.audio_tower.named_children()).get("embed_positions")
    if table is not None:
        half = table.embedding_dim // 2
        angles = torch.arange(table.num_embeddings)[:, None] * torch.exp(-torch.arange(half) * (math.log(10_000.0) / (half - 1)))
        table.weight.data.copy_(torch.cat([angles.sin(), angles.cos()], dim=1))


def save_base(key: str, model: Any, tokenizer: Any, extractor: Any, folder: Path) -> None:
    """Write a base atomically, in the published layout and bfloat16.

    Raises:
        BackboneError: a weight is not finite.
    """
    import torch

    if not all(bool(torch.isfinite(parameter).all()) for parameter in model.parameters()):
        raise BackboneError("a weight of the base is not finite; the base was not written", field="base", value=key)
    with new_folder(folder) as temporary:
        model.to(getattr(torch, _DTYPE)).save_pretrained(temporary)
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


def _text_config(vocabulary: int, tokenizer: Any, kv_heads: int) -> dict[str, Any]:
    pad, end = tokenizer.convert_tokens_to_ids(["<|endoftext|>", "<|im_end|>"])
    return {
        "vocab_size": vocabulary, "hidden_size": _WIDTH, "intermediate_size": 320, "num_hidden_layers": _LAYERS, "num_attention_heads": 4,
        "num_key_value_heads": kv_heads, "max_position_embeddings": 2048, "rms_norm_eps": 1e-6, "tie_word_embeddings": False,
        "bos_token_id": pad, "eos_token_id": end,
    }  # fmt: skip


def _rope(theta: float) -> dict[str, Any]:
    return {"rope_type": "default", "rope_theta": theta}


def _audio_config() -> dict[str, Any]:
    return {
        "num_mel_bins": _MEL_BINS, "d_model": 128, "encoder_layers": 2, "encoder_attention_heads": 4, "encoder_ffn_dim": 320,
        "max_source_positions": _POSITIONS,
    }  # fmt: skip


def _qwen2_audio(tokenizer: Any, vocabulary: int) -> Any:
    from transformers import Qwen2AudioConfig

    return Qwen2AudioConfig(
        text_config={**_text_config(vocabulary, tokenizer, 4), "model_type": "qwen2", "rope_parameters": _rope(10000.0)},
        audio_config={**_audio_config(), "model_type": "qwen2_audio_encoder"},
        audio_token_index=tokenizer.convert_tokens_to_ids("<|AUDIO|>"),
        tie_word_embeddings=False,
    )


def _qwen2_5_omni(tokenizer: Any, vocabulary: int) -> Any:
    from transformers import Qwen2_5OmniThinkerConfig

    token = tokenizer.convert_tokens_to_ids
    text = _text_config(vocabulary, tokenizer, 2)
    # The rotary half of a head's width is divided between three axes in the published proportion 16 : 24 : 24.
    text["rope_parameters"] = {**_rope(1000000.0), "mrope_section": [4, 6, 6]}
    return Qwen2_5OmniThinkerConfig(
        text_config=text,
        audio_config={**_audio_config(), "n_window": 100, "output_dim": _WIDTH},
        vision_config={
            "depth": 1, "hidden_size": 32, "intermediate_size": 32, "num_heads": 2, "out_hidden_size": _WIDTH, "fullatt_block_indexes": [0],
        },
        audio_token_index=token("<|AUDIO|>"), image_token_index=token("<|IMAGE|>"), video_token_index=token("<|VIDEO|>"),
        audio_start_token_id=token("<|audio_bos|>"), audio_end_token_id=token("<|audio_eos|>"),
        vision_start_token_id=token("<|vision_bos|>"), vision_end_token_id=token("<|vision_eos|>"), user_token_id=token("u"),
        tie_word_embeddings=False,
    )  # fmt: skip


def _audio_flamingo_3(tokenizer: Any, vocabulary: int) -> Any:
    from transformers import AudioFlamingo3Config

    audio = {
        "num_mel_bins": _MEL_BINS, "hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 320,
        "max_source_positions": _POSITIONS, "model_type": "audioflamingo3_encoder",
    }  # fmt: skip
    return AudioFlamingo3Config(
        text_config={**_text_config(vocabulary, tokenizer, 2), "model_type": "qwen2", "rope_parameters": _rope(1000000.0)},
        audio_config=audio,
        audio_token_id=tokenizer.convert_tokens_to_ids("<sound>"),
        tie_word_embeddings=False,
    )


_CONFIGS = {"qwen2_audio": _qwen2_audio, "qwen2_5_omni": _qwen2_5_omni, "audio_flamingo_3": _audio_flamingo_3}
