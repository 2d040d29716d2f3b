"""Full-size models without weights: built on torch's meta device, where a tensor has a shape and no memory."""

from __future__ import annotations

import inspect
from collections import Counter
from pathlib import Path
from typing import Any

from coat_core.backbones.catalogue import check_transformers, load_architecture, suppress_config_warnings
from coat_core.backbones.lalm import Lalm
from coat_core.backbones.mel import HOP
from coat_core.errors import BackboneError
from coat_core.sizing.published import Published
from coat_core.sizing.workload import ModelShape

PARTS: tuple[tuple[str, str], ...] = (
    ("model.audio_tower.proj.", "projector"),
    ("model.audio_tower.", "audio tower"),
    ("model.multi_modal_projector.", "projector"),
    ("model.visual.", "vision tower"),
    ("model.language_model.embed_tokens.", "embeddings"),
    ("model.language_model.layers.", "language model layers"),
    ("model.language_model.norm.", "final norm"),
    ("lm_head.", "language model head"),
)
"""What a parameter belongs to, by what its name begins with; the first that fits counts."""


def read_config(checkpoint: Published, folder: Path | None = None) -> Any:
    """Return the configuration of the stock class: the one written down here, or that of a folder.

    Raises:
        BackboneError: the folder holds no configuration, or another LALM's.
    """
    from transformers import AutoConfig

    check_transformers()
    architecture = load_architecture(checkpoint.key)
    with suppress_config_warnings():
        if folder is None:
            return architecture.model_config(AutoConfig.for_model(**checkpoint.config))
        try:
            found = AutoConfig.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError, KeyError) as error:
            raise BackboneError(f"cannot read a configuration: {error}", field="--base", value=str(folder)) from error
    config = architecture.model_config(found)
    if config is None:
        raise BackboneError(
            "the checkpoint is of another model", field="--base", value=f"{folder} ({found.model_type})", allowed=checkpoint.key
        )
    return config


def meta_lalm(key: str, config: Any, tokenizer: Any = None) -> Lalm:
    """Build a LALM on the meta device, in bfloat16; nothing can be computed with it."""
    import torch

    architecture = load_architecture(key)
    with torch.device("meta"):
        model = architecture.model_class()._from_config(config, dtype=torch.bfloat16)
    return Lalm(architecture, model.requires_grad_(False).eval(), tokenizer, None)


def parameters_by_part(model: Any) -> dict[str, int]:
    """Return the parameters of each part, in the order of `PARTS`; "other" for names that no part knows."""
    count: Counter[str] = Counter()
    for name, parameter in model.named_parameters():
        count[next((part for prefix, part in PARTS if name.startswith(prefix)), "other")] += parameter.numel()
    order = [*dict.fromkeys(part for _, part in PARTS), "other"]
    return {part: count[part] for part in order if count[part]}


def shape_of(backbone: Lalm) -> ModelShape:
    """Return the sizes that decide a model's memory."""
    config, text, audio = backbone.model.config, backbone.model.config.text_config, backbone.model.config.audio_config
    window = backbone.architecture.window_samples(config, None)
    return ModelShape(
        parameters=sum(parameter.numel() for parameter in backbone.model.parameters()),
        hidden=int(text.hidden_size),
        layers=backbone.layer_count,
        heads=int(text.num_attention_heads),
        kv_heads=int(text.num_key_value_heads),
        head_dim=int(getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads),
        intermediate=int(text.intermediate_size),
        vocabulary=backbone.embedding.num_embeddings,
        tower_width=int(audio.d_model),
        tower_ffn=int(audio.encoder_ffn_dim),
        window_s=None if window is None else window / (HOP * 100),
        logits_everywhere="logits_to_keep" not in inspect.signature(backbone.model.forward).parameters,
    )
