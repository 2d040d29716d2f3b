"""Small random checkpoints in the formats of the published parts: a Whisper encoder, a Llama with a tokenizer like SmolLM2's."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

MODELS = Path(os.environ.get("COAT_MODELS", Path(__file__).parents[3] / "shared" / "models"))
ENCODER = MODELS / "whisper-base-encoder"
LANGUAGE_MODEL = Path(os.environ.get("COAT_LANGUAGE_MODEL", ""))
needs_encoder = pytest.mark.skipif(not (ENCODER / "config.json").is_file(), reason=f"no encoder in {ENCODER}; set COAT_MODELS")
needs_language_model = pytest.mark.skipif(
    not os.environ.get("COAT_LANGUAGE_MODEL") or not (LANGUAGE_MODEL / "config.json").is_file(),
    reason="set COAT_LANGUAGE_MODEL to a folder with SmolLM2-135M-Instruct",
)
CHAT = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
TEXTS = ("What sound is this? Choices: dog bark, siren, rain.", "How high is it? low high", "What does the voice say? one two three")


def write_encoder(folder: Path) -> Path:
    """Write a Whisper encoder of 30 s, without its decoder."""
    from transformers import WhisperConfig, WhisperFeatureExtractor
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    config = WhisperConfig(
        num_mel_bins=80, d_model=32, encoder_layers=2, encoder_attention_heads=2, encoder_ffn_dim=48, decoder_layers=1,
        decoder_attention_heads=2, decoder_ffn_dim=48, vocab_size=600, pad_token_id=0, bos_token_id=0, eos_token_id=0,
        decoder_start_token_id=0,
    )  # fmt: skip
    torch.manual_seed(5)
    encoder = WhisperEncoder(config)
    _scale(encoder, 4.0)
    folder.mkdir(parents=True)
    weights = {f"model.encoder.{name}": tensor.contiguous() for name, tensor in encoder.state_dict().items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    config.save_pretrained(folder)
    WhisperFeatureExtractor(feature_size=80).save_pretrained(folder)
    return folder


def write_language_model(folder: Path, tokens: tuple[str, ...] = CHAT, **changes: Any) -> Path:
    """Write a Llama with tied embeddings, as many rows as tokens, and a byte-level tokenizer with the special tokens first."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    special = [*tokens, "<repo_name>"]
    trainer = trainers.BpeTrainer(vocab_size=340, initial_alphabet=alphabet, special_tokens=special, show_progress=False)
    inner.train_from_iterator(TEXTS, trainer=trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, bos_token=tokens[1], eos_token=tokens[-1])
    options: dict[str, Any] = {
        "vocab_size": len(tokenizer), "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4,
        "num_key_value_heads": 2, "max_position_embeddings": 2048, "tie_word_embeddings": True, "bos_token_id": 1, "eos_token_id": 2,
        "pad_token_id": 2, "rms_norm_eps": 1e-5, "rope_parameters": {"rope_type": "default", "rope_theta": 100_000.0},
    }  # fmt: skip
    torch.manual_seed(6)
    model: Any = LlamaForCausalLM(LlamaConfig(**(options | changes)))
    _scale(model, 4.0)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _scale(module: torch.nn.Module, factor: float) -> None:
    """Enlarge the weights of linear layers, so that every layer changes the output visibly."""
    with torch.no_grad():
        for child in module.modules():
            if isinstance(child, torch.nn.Linear):
                child.weight.mul_(factor)
                if child.bias is not None:
                    child.bias.normal_(std=0.05)
