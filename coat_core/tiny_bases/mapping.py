"""Exact mapping of a Whisper encoder and a language model into a published LALM class.

The classes' audio towers have Whisper's layers and their language models have Qwen2's layers. Llama's layers are Qwen2's with zero
biases of query, key and value. Text logits and encoder states of the result equal those of the parts; only the projector is new.

Differences by design: a tower has the positions of a shorter window, does not attend to padding, and averages pairs of states before
its last layer norm, as the published towers do. The chunk of a tower that splits its input is set to one window.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from coat_core.errors import BackboneError
from coat_core.tiny_bases.config import TINY, new_extractor, new_model
from coat_core.tiny_bases.parts import EncoderPart, LanguageModelPart

SPARE_ROWS = 32
"""Embedding rows beyond the tokenizer's length, for the thinking block; equal for all classes."""
_POSITIONS_PER_S = 50
_TEXT, _TOWER = "model.language_model.", "model.audio_tower."


def assemble(key: str, encoder: EncoderPart, language_model: LanguageModelPart, *, window_s: int, seed: int) -> tuple[Any, Any, Any]:
    """Return a stock model made of the parts, with a random projector, its tokenizer and its feature extractor.

    The tokens of the class that the tokenizer lacks (audio placeholders) and `SPARE_ROWS` rows are appended to the embeddings; ids and
    rows of the language model do not change.

    Args:
        key: key of the backbone.
        encoder: the Whisper encoder.
        language_model: the language model.
        window_s: the tower's window in seconds; at most that of the encoder.
        seed: seed of the projector's weights.

    Raises:
        BackboneError: the key is unknown, the window does not fit the encoder, or a weight has no place in the class.
    """
    available = len(encoder.weights["embed_positions.weight"]) // _POSITIONS_PER_S
    if not 1 <= window_s <= available:
        raise BackboneError("the window does not fit the encoder", field="window", value=window_s, allowed=f"1 to {available} s")
    tokenizer = with_audio_tokens(key, language_model.tokenizer)
    rows = max(len(language_model.weights["model.embed_tokens.weight"]), len(tokenizer)) + SPARE_ROWS
    positions = window_s * _POSITIONS_PER_S
    text = {**language_model.sizes, "vocab_size": rows, "tie_word_embeddings": False}
    model = new_model(key, tokenizer, text, {**encoder.sizes, "max_source_positions": positions, "n_window": positions}, seed)
    _load(model, _tower_weights(model, encoder, positions) | _text_weights(model, language_model))
    return model, tokenizer, new_extractor(key, int(encoder.sizes["num_mel_bins"]), window_s)


def with_audio_tokens(key: str, tokenizer: Any) -> Any:
    """Return a copy of a tokenizer with the special tokens and the chat template of a class.

    The ids of its other tokens do not change. Tokens of the chat format must be there already.
    """
    from transformers import AddedToken, PreTrainedTokenizerFast

    from coat_core.backbones.catalogue import load_architecture

    tiny, known = TINY[key], tokenizer.get_vocab()
    copied = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer.backend_tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        extra_special_tokens=dict(tiny.named_tokens),
    )
    new = [token for token in tiny.special_tokens if token not in known]
    copied.add_tokens([AddedToken(token, special=True, normalized=False) for token in new], special_tokens=True)
    copied.chat_template = load_architecture(key).template
    return copied


def projector_of(model: Any) -> tuple[nn.Module, str]:
    """Return the parent module and the name of a model's projector: that of the class, or the last layer of its tower."""
    parent = model.model if hasattr(model.model, "multi_modal_projector") else model.model.audio_tower
    return parent, "multi_modal_projector" if parent is model.model else "proj"


def _tower_weights(model: Any, encoder: EncoderPart, positions: int) -> dict[str, Tensor]:
    """Return the encoder's weights by their names in the class."""
    own = {name for name, _ in model.model.audio_tower.named_children()}
    weights = dict(encoder.weights)
    table = weights.pop("embed_positions.weight")
    if "embed_positions" in own:
        weights["embed_positions.weight"] = table[:positions]
    else:
        computed = model.model.audio_tower.positional_embedding.positional_embedding
        if not torch.allclose(table[:positions], computed[:positions], atol=2e-3):
            raise BackboneError(
                "this class computes Whisper's sinusoids; the encoder has other positions", field="encoder", value="positions"
            )
    if "ln_post" in own:
        for leaf in ("weight", "bias"):
            weights[f"ln_post.{leaf}"] = weights.pop(f"layer_norm.{leaf}")
    return {f"{_TOWER}{name}": tensor for name, tensor in weights.items()}


def _text_weights(model: Any, language_model: LanguageModelPart) -> dict[str, Tensor]:
    """Return the language model's weights by their names in the class, with appended rows and zero biases."""
    state = model.state_dict()
    weights = {name.replace("model.", _TEXT, 1): tensor for name, tensor in language_model.weights.items()}
    filler = {
        f"{_TEXT}embed_tokens.weight": _newline_row(language_model),
        "lm_head.weight": language_model.weights["lm_head.weight"].mean(0),
    }
    for name, row in filler.items():
        weights[name] = torch.cat([weights[name], row.expand(len(state[name]) - len(weights[name]), -1)])
    biases = [f"{name}.bias" for name in ("q_proj", "k_proj", "v_proj")]
    for name, tensor in state.items():
        if name.startswith(_TEXT) and name not in weights and any(name.endswith(bias) for bias in biases):
            weights[name] = torch.zeros_like(tensor)
    return weights


def _newline_row(language_model: LanguageModelPart) -> Tensor:
    """Return the embedding of a newline, which stands in every prompt: a neutral start for appended tokens."""
    ids = language_model.tokenizer("\n", add_special_tokens=False)["input_ids"]
    return language_model.weights["model.embed_tokens.weight"][ids].mean(0)


def _load(model: Any, weights: Mapping[str, Tensor]) -> None:
    """Copy the weights of the parts into the model. All weights of tower and language model must be among them, except the projector.

    Raises:
        BackboneError: a weight is missing, has no place or has another shape.
    """
    state = model.state_dict()
    name = projector_of(model)[1]
    new = {f"{_TOWER}{name}.weight", f"{_TOWER}{name}.bias", f"{_TOWER}audio_bos_eos_token.weight"}
    expected = {key for key in state if key.startswith((_TEXT, _TOWER, "lm_head.")) and key not in new}
    wrong = sorted(expected ^ weights.keys()) or sorted(key for key in expected if state[key].shape != weights[key].shape)
    if wrong:
        raise BackboneError("weights of the parts do not fit the class", field=type(model).__name__, value=wrong[:3])
    with torch.no_grad():
        for key, tensor in weights.items():
            state[key].copy_(tensor)
