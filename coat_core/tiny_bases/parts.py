"""The published parts of a small base: a Whisper encoder and a language model with Llama's or Qwen2's layers.

Sources: Radford et al., "Robust Speech Recognition via Large-Scale Weak Supervision" (Whisper), arXiv:2212.04356; Allal et al.,
"SmolLM2: When Smol Goes Big", arXiv:2502.02737.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from coat_core.errors import BackboneError
from coat_core.hub import checkpoint_folder, weight_files
from coat_core.storage import sha256_json

_ENCODER_PREFIXES = ("model.encoder.", "encoder.")
_CHAT_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_LAYERS = {"llama": "Llama", "qwen2": "Qwen2"}


@dataclass(frozen=True)
class EncoderPart:
    """A Whisper encoder.

    Attributes:
        sizes: sizes by the names of `WhisperConfig`.
        weights: float32 tensors by their names in `WhisperEncoder`.
    """

    sizes: Mapping[str, Any]
    weights: Mapping[str, Tensor]


@dataclass(frozen=True)
class LanguageModelPart:
    """A decoder-only language model with its tokenizer.

    Attributes:
        sizes: sizes by the names of `Qwen2Config`.
        weights: float32 tensors by their names in `LlamaForCausalLM`, including `lm_head.weight`.
        tokenizer: its tokenizer; it has the tokens of the ChatML format.
    """

    sizes: Mapping[str, Any]
    weights: Mapping[str, Tensor]
    tokenizer: Any


def load_encoder(source: str) -> EncoderPart:
    """Load the encoder of a Whisper checkpoint.

    Args:
        source: a folder, or a hub id with its commit (`owner/name@commit`). A checkpoint without the decoder is sufficient.

    Raises:
        BackboneError: the checkpoint is not Whisper's, or lacks weights of the encoder.
        CheckpointError: it is not on this disk and cannot be downloaded.
    """
    from safetensors import safe_open

    folder = _folder(source, "encoder")
    config = _config(folder, source, "encoder", {"whisper": "Whisper"})
    weights: dict[str, Tensor] = {}
    for file in weight_files(folder):
        if file.endswith(".bin"):
            raise BackboneError("the weights of an encoder must be safetensors", field="encoder", value=file)
        with safe_open(folder / file, "pt") as stream:
            for name in stream.keys():  # noqa: SIM118 - not a mapping
                prefix = next((prefix for prefix in _ENCODER_PREFIXES if name.startswith(prefix)), None)
                if prefix is not None:
                    weights[name.removeprefix(prefix)] = stream.get_tensor(name).float()
    if "layer_norm.weight" not in weights:
        raise BackboneError("the checkpoint has no weights of a Whisper encoder", field="encoder", value=source, allowed="model.encoder.…")
    if config.get("scale_embedding"):
        raise BackboneError("an encoder with scaled embeddings is not supported", field="encoder.scale_embedding", value=True)
    names = ("num_mel_bins", "d_model", "encoder_layers", "encoder_attention_heads", "encoder_ffn_dim", "activation_function")
    return EncoderPart({name: config[name] for name in names if name in config}, weights)


def load_language_model(source: str) -> LanguageModelPart:
    """Load a language model with Llama's or Qwen2's layers, and its tokenizer.

    Args:
        source: a folder in the layout of transformers, or with one GGUF file (needs the package `gguf`); or a hub id with its commit.

    Raises:
        BackboneError: the model has other layers, its tokenizer lacks the tokens of the chat format, or `gguf` is not installed.
        CheckpointError: it is not on this disk and cannot be downloaded.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = _folder(source, "language_model")
    options = {} if (folder / "config.json").is_file() else {"gguf_file": _gguf_file(folder)}
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, **options)
        model: Any = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True, dtype=torch.float32, **options)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise BackboneError(
            f"cannot load the language model: {str(error).strip().splitlines()[0]}",
            field="language_model",
            value=source,
            next_step="name a folder in the layout of transformers, or a hub id with its commit",
        ) from error
    return language_model_part(model, tokenizer, source)


def language_model_part(model: Any, tokenizer: Any, source: str = "a language model") -> LanguageModelPart:
    """Return the part of a loaded model, after checking that it fits into Qwen2's layers.

    Raises:
        BackboneError: it does not fit.
    """
    config = model.config
    rope = dict(config.rope_parameters or {})
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    checks = {
        "model_type": (config.model_type, sorted(_LAYERS), config.model_type in _LAYERS),
        "hidden_act": (config.hidden_act, "silu", config.hidden_act == "silu"),
        "rope_parameters": (rope.get("rope_type"), "default", rope.get("rope_type", "default") == "default"),
        "head_dim": (head_dim, "hidden_size ÷ num_attention_heads", head_dim * config.num_attention_heads == config.hidden_size),
        "attention_bias": (True, False, config.model_type == "qwen2" or not config.attention_bias),
        "mlp_bias": (True, False, not getattr(config, "mlp_bias", False)),
        "sliding_window": (True, False, not getattr(config, "use_sliding_window", False)),
    }
    for name, (value, allowed, fits) in checks.items():
        if not fits:
            raise BackboneError(f"the language model does not fit Qwen2's layers: {source}", field=name, value=value, allowed=str(allowed))
    missing = sorted(set(_CHAT_TOKENS) - tokenizer.get_vocab().keys())
    if missing:
        message = "the tokenizer lacks tokens of the chat format"
        raise BackboneError(message, field="language_model", value=missing, allowed=list(_CHAT_TOKENS), next_step="use a ChatML model")
    pad, end = tokenizer.convert_tokens_to_ids(["<|endoftext|>", "<|im_end|>"])
    names = (
        "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "max_position_embeddings",
        "rms_norm_eps", "hidden_act",
    )  # fmt: skip
    sizes = {name: getattr(config, name) for name in names}
    theta = {"rope_type": "default", "rope_theta": float(rope["rope_theta"])}
    weights = {name: tensor.detach() for name, tensor in model.state_dict().items() if "rotary" not in name}
    weights["lm_head.weight"] = model.get_output_embeddings().weight.detach()
    return LanguageModelPart({**sizes, "bos_token_id": pad, "eos_token_id": end, "rope_parameters": theta}, weights, tokenizer)


def source_digest(source: str) -> str:
    """Return a SHA-256 that changes with the part: of the names, sizes and times of a folder's files, or of the hub id."""
    folder = Path(source)
    if not folder.is_dir():
        return sha256_json(source)
    return sha256_json([[path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in sorted(folder.iterdir()) if path.is_file()])


def _folder(source: str, field: str) -> Path:
    name, _, commit = source.partition("@") if not Path(source).is_dir() else (source, "", "")
    return checkpoint_folder(name, commit or None, field=field, patterns=("*.json", "*.txt", "*.jinja", "*.model"))


def _config(folder: Path, source: str, field: str, allowed: Mapping[str, str]) -> dict[str, Any]:
    path = folder / "config.json"
    config: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    if config.get("model_type") not in allowed:
        found = config.get("model_type", "no config.json")
        raise BackboneError("the checkpoint is of another model", field=field, value=f"{source} ({found})", allowed=list(allowed.values()))
    return config


def _gguf_file(folder: Path) -> str:
    """Return the name of the one GGUF file of a folder.

    Raises:
        BackboneError: there is not one such file, or the package that reads it is missing.
    """
    import importlib.util

    files = sorted(path.name for path in folder.glob("*.gguf"))
    if len(files) != 1:
        message = "a folder without config.json must contain one GGUF file"
        raise BackboneError(message, field="language_model", value=files or str(folder), allowed="config.json, or one *.gguf")
    if importlib.util.find_spec("gguf") is None:
        raise BackboneError(
            "reading a GGUF file needs the package gguf", field="language_model", value=files[0],
            next_step="install gguf, or convert the file to a folder of safetensors first",
        )  # fmt: skip
    return files[0]
