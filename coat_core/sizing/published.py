"""The three published checkpoints: hub id, commit, licence and configuration.

Only the values of each `config.json` that determine sizes and ids are stored here; the others are the stock classes' defaults. A
test verifies the configurations: the stock class built from each has exactly as many parameters as the repository's files contain
(`parameters_known`).

Sources of the values; the repositories themselves were not available:
- sizes and audio ids: the defaults and docstrings of transformers' configuration classes of these checkpoints, transformers'
  conversion script of Audio Flamingo 3 (text_config), and public copies of the published `config.json` of the Qwen models;
- commits: public code and model catalogues that pin them, at least two independent ones for each;
- parameter counts: public catalogues (MTEB's model metadata for Omni and Audio Flamingo 3, a list of Qwen releases for Qwen2-Audio);
- dtypes of the files: bfloat16 for the Qwen models by their `config.json`; float32 for Audio Flamingo 3 and for Omni's
  token-to-wave part by the sizes in MTEB's metadata (31,537 MiB and 21,327 MiB). Not confirmed by the files.
- tokenizers' lengths: Omni's equals that of Qwen2.5's tokenizer (151,643 merges and 22 special tokens), whose unused special tokens
  it renames; Audio Flamingo 3's embedding has exactly the tokenizer's length (last id 151,671, the padding). Qwen2-Audio's is not
  confirmed: the highest known id is 151,648 (`<|audio_eos|>`), which gives an upper bound of its spare rows.
`coat doctor --published KEY --base FOLDER` reads the real files instead.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from coat_core.errors import BackboneError


@dataclass(frozen=True)
class PublishedBase:
    """One published checkpoint.

    Attributes:
        key: key of the backbone.
        id: hub id.
        commit: 40 hexadecimal digits.
        licence: the licence's name in the model card.
        commercial_use: whether the licence allows commercial use.
        config: the values of `config.json` that determine sizes and ids, with `model_type`.
        parameters_known: parameters of the part that is used (Omni: without talker and token-to-wave).
        file_bytes: bytes of all weights in the repository, other parts included.
        least_tokens: a lower bound of the tokenizer's length.
        tokenizer_length: the tokenizer's length with added tokens; None if it is not confirmed.
    """

    key: str
    id: str
    commit: str
    licence: str
    commercial_use: bool
    config: dict[str, Any]
    parameters_known: int
    file_bytes: int
    least_tokens: int
    tokenizer_length: int | None


def _text(**sizes: Any) -> dict[str, Any]:
    return {"model_type": "qwen2", "tie_word_embeddings": False, "bos_token_id": 151643, "eos_token_id": 151645, **sizes}


_WHISPER_LARGE_V3 = {
    "num_mel_bins": 128, "encoder_layers": 32, "encoder_attention_heads": 20, "encoder_ffn_dim": 5120, "d_model": 1280,
    "max_source_positions": 1500,
}  # fmt: skip
"""All three audio towers have the sizes of Whisper large v3's encoder."""

PUBLISHED: dict[str, PublishedBase] = {
    "qwen2_audio": PublishedBase(
        key="qwen2_audio",
        id="Qwen/Qwen2-Audio-7B-Instruct",
        commit="0a095220c30b7b31434169c3086508ef3ea5bf0a",
        licence="Apache-2.0",
        commercial_use=True,
        config={
            "model_type": "qwen2_audio",
            "tie_word_embeddings": False,
            "audio_token_index": 151646,
            "text_config": _text(
                vocab_size=156032, hidden_size=4096, intermediate_size=11008, num_hidden_layers=32, num_attention_heads=32,
                num_key_value_heads=32, max_position_embeddings=8192, rms_norm_eps=1e-5,
                rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
            ),
            "audio_config": {"model_type": "qwen2_audio_encoder", **_WHISPER_LARGE_V3},
        },
        parameters_known=8_397_094_912,
        file_bytes=8_397_094_912 * 2,
        least_tokens=151_649,
        tokenizer_length=None,
    ),
    "qwen2_5_omni": PublishedBase(
        key="qwen2_5_omni",
        id="Qwen/Qwen2.5-Omni-7B",
        commit="ae9e1690543ffd5c0221dc27f79834d0294cba00",
        licence="Apache-2.0",
        commercial_use=True,
        config={
            "model_type": "qwen2_5_omni_thinker",
            "tie_word_embeddings": False,
            "pad_token_id": 151643, "bos_token_id": 151644, "eos_token_id": 151645,
            "audio_token_index": 151646, "audio_start_token_id": 151647, "audio_end_token_id": 151648,
            "vision_start_token_id": 151652, "vision_end_token_id": 151653,
            "image_token_index": 151655, "video_token_index": 151656, "user_token_id": 872,
            "text_config": {
                "model_type": "qwen2_5_omni_text", "tie_word_embeddings": False, "vocab_size": 152064, "hidden_size": 3584,
                "intermediate_size": 18944, "num_hidden_layers": 28, "num_attention_heads": 28, "num_key_value_heads": 4,
                "max_position_embeddings": 32768, "rms_norm_eps": 1e-6,
                "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0, "mrope_section": [16, 24, 24]},
            },
            "audio_config": {
                "model_type": "qwen2_5_omni_audio_encoder", **_WHISPER_LARGE_V3, "n_window": 100, "output_dim": 3584,
            },
            "vision_config": {
                "model_type": "qwen2_5_omni_vision_encoder", "depth": 32, "hidden_size": 1280, "intermediate_size": 3420,
                "num_heads": 16, "out_hidden_size": 3584, "patch_size": 14, "temporal_patch_size": 2, "spatial_merge_size": 2,
                "window_size": 112, "fullatt_block_indexes": [7, 15, 23, 31],
            },
        },
        parameters_known=8_931_813_888,
        file_bytes=21_327 * 2**20,
        least_tokens=151_665,
        tokenizer_length=151_665,
    ),
    "audio_flamingo_3": PublishedBase(
        key="audio_flamingo_3",
        id="nvidia/audio-flamingo-3-hf",
        commit="7d4bae64ee29878af6504ae6f6bb3e40492838ad",
        licence="NVIDIA OneWay Noncommercial License",
        commercial_use=False,
        config={
            "model_type": "audioflamingo3",
            "tie_word_embeddings": False,
            "audio_token_id": 151669,
            "projector_hidden_act": "gelu",
            "projector_bias": True,
            "text_config": _text(
                vocab_size=151672, hidden_size=3584, intermediate_size=18944, num_hidden_layers=28, num_attention_heads=28,
                num_key_value_heads=4, max_position_embeddings=32768, rms_norm_eps=1e-6,
                rope_parameters={"rope_type": "default", "rope_theta": 1000000.0},
            ),
            "audio_config": {
                "model_type": "audioflamingo3_encoder", "num_mel_bins": 128, "num_hidden_layers": 32, "num_attention_heads": 20,
                "intermediate_size": 5120, "hidden_size": 1280, "max_source_positions": 1500,
            },
        },
        parameters_known=8_267_215_360,
        file_bytes=8_267_215_360 * 4,
        least_tokens=151_672,
        tokenizer_length=151_672,
    ),
}  # fmt: skip


def published_base(key: str) -> PublishedBase:
    """Return the published checkpoint of a backbone.

    Raises:
        BackboneError: no such backbone.
    """
    if key not in PUBLISHED:
        raise BackboneError("no published checkpoint has this key", field="--published", value=key, allowed=[*PUBLISHED, "all"])
    return PUBLISHED[key]


def published_keys(key: str) -> tuple[str, ...]:
    """Return the keys that an argument selects: all for `all`, else the key itself.

    Raises:
        BackboneError: no such backbone.
    """
    return tuple(PUBLISHED) if key == "all" else (published_base(key).key,)
