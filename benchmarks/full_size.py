"""Full-size models with random weights, for benchmarks: time and memory depend on shapes, not on the values of the weights.

The configuration is the published one. The tokenizer is a small one made here (no published file is needed), so text ids are low and
the block uses spare rows; the embedding has its published number of rows. Weights are initialised on the device, in the requested
dtype, without a copy in host memory.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from coat_core.backbones.lalm import Lalm

QUESTION = "Which sound is in this clip, and what happens first? Choices: a high tone, a low tone, rain, a voice, nothing of it."
ANSWER = "First a low tone is audible, then rain."
TEXTS = [QUESTION, ANSWER]


def build_lalm(key: str, size: str, device: str, dtype: torch.dtype, layers: int | None = None) -> Lalm:
    """Return a LALM with random weights.

    Args:
        key: key of the backbone.
        size: `full` (as published), or `tiny` (the sizes of the bases in the repository).
        device: device of the weights.
        dtype: dtype of the weights.
        layers: number of layers of decoder and towers, if the full depth does not fit; width and vocabulary do not change.
    """
    from transformers import WhisperFeatureExtractor

    from coat_core.backbones.catalogue import load_architecture
    from coat_core.sizing.meta import read_config
    from coat_core.sizing.published import published_base
    from coat_core.tiny_bases.config import TINY, new_base
    from coat_core.tiny_bases.tokenizer import make_tokenizer

    architecture = load_architecture(key)
    if size == "tiny":
        model, tokenizer, extractor = new_base(key, TEXTS * 20, seed=0)
        model = model.to(device, dtype)
    else:
        config = read_config(published_base(key))
        tokenizer = make_tokenizer(TEXTS * 20, TINY[key].special_tokens, TINY[key].named_tokens)
        tokenizer.chat_template = architecture.template
        config.audio_token_id = tokenizer.convert_tokens_to_ids(architecture.audio_token)
        if layers is not None:
            _set_depth(config, layers)
        torch.manual_seed(0)
        with torch.device(device):
            model = architecture.model_class()._from_config(config, dtype=dtype, attn_implementation="sdpa")
        extractor = WhisperFeatureExtractor(feature_size=128, chunk_length=300 if key == "qwen2_5_omni" else 30)
    end, pad = tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"])
    model.generation_config.update(eos_token_id=[end], pad_token_id=pad, do_sample=False)
    return Lalm(architecture, model.requires_grad_(False).eval(), tokenizer, extractor)


def _set_depth(config: Any, layers: int) -> None:
    """Set the number of layers of every part of a configuration."""
    config.text_config.num_hidden_layers = config.audio_config.encoder_layers = layers
    if getattr(config.text_config, "layer_types", None):
        config.text_config.layer_types = config.text_config.layer_types[:layers]
    if hasattr(config, "vision_config"):
        config.vision_config.depth = layers


def twin(backbone: Lalm) -> Lalm:
    """Return a second LALM that shares the weight tensors, with its own modules and tokenizer."""
    shared = {id(parameter): parameter for parameter in backbone.model.parameters()}
    model = copy.deepcopy(backbone.model, shared)
    return Lalm(backbone.architecture, model, copy.deepcopy(backbone.tokenizer), backbone.extractor)


def noise(seconds: float, seed: int) -> NDArray[np.float32]:
    return (0.1 * np.random.default_rng(seed).standard_normal(round(seconds * 16_000))).astype(np.float32)


def longest_s(backbone: Lalm) -> float:
    """Return the longest clip in seconds."""
    return float(backbone.architecture.limit_samples(backbone.model.config, backbone.extractor)) / 16_000


def synchronize(device: str) -> None:
    """Wait for the device, so that a time measurement includes its work."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def bytes_of(tensors: Any) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
