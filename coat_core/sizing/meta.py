"""Full-size models without weights: their configuration, and the model on torch's meta device, whose tensors have no memory."""

from __future__ import annotations

import inspect
from collections import Counter
from pathlib import Path
from typing import Any

from coat_core.backbones.base import SAMPLE_RATE_HZ
from coat_core.backbones.catalogue import check_transformers, load_architecture, suppress_config_warnings
from coat_core.backbones.lalm import Lalm
from coat_core.errors import BackboneError, CheckpointError
from coat_core.sizing.published import PublishedBase
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
"""The part of a parameter by the prefix of its name; the first match counts."""


def find_base(checkpoint: PublishedBase, base: str | None) -> tuple[Path | None, str]:
    """Return the folder of the configuration (None: the built-in configuration), and a description of its source.

    Without `base`, the published commit is used if it is in the hub's cache. Nothing is downloaded.

    Args:
        checkpoint: the published checkpoint.
        base: a folder, or a hub id in the cache.

    Raises:
        CheckpointError: `base` is neither a folder nor a cached hub id.
    """
    if base is None:
        cached = _cached(checkpoint.id, checkpoint.commit)
        return cached, f"{'the cached' if cached else 'the built-in'} configuration of {checkpoint.id} at {checkpoint.commit}"
    folder = Path(base)
    if folder.is_dir():
        return folder, f"the configuration in {folder}"
    cached = _cached(base, checkpoint.commit if base == checkpoint.id else "main")
    if cached is None:
        raise CheckpointError(
            "neither a folder nor in the hub's cache",
            field="--base",
            value=base,
            next_step="use a folder with a config.json, or omit --base to use the built-in configuration",
        )
    return cached, f"the cached configuration of {base}"


def find_tokenizer(folder: Path | None) -> Any | None:
    """Return the tokenizer of a folder; None if it contains none."""
    if folder is None or not (folder / "tokenizer_config.json").is_file():
        return None
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder, local_files_only=True)


def read_config(checkpoint: PublishedBase, folder: Path | None = None) -> Any:
    """Return the configuration of the stock class: the built-in one, or that of a folder.

    Raises:
        BackboneError: the folder contains no configuration, or that of another LALM.
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
    """Build a LALM on the meta device, in bfloat16; it cannot compute."""
    import torch

    architecture = load_architecture(key)
    with torch.device("meta"):
        model = architecture.model_class()._from_config(config, dtype=torch.bfloat16)
    return Lalm(architecture, model.requires_grad_(False).eval(), tokenizer, None)


def parameters_by_part(model: Any) -> dict[str, int]:
    """Return the number of parameters of each part, in the order of `PARTS`, then "other" for unmatched names."""
    count: Counter[str] = Counter()
    for name, parameter in model.named_parameters():
        count[next((part for prefix, part in PARTS if name.startswith(prefix)), "other")] += parameter.numel()
    order = [*dict.fromkeys(part for _, part in PARTS), "other"]
    return {part: count[part] for part in order if count[part]}


def shape_of(backbone: Lalm) -> ModelShape:
    """Return the sizes that determine a model's memory."""
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
        window_s=None if window is None else window / SAMPLE_RATE_HZ,
        logits_everywhere="logits_to_keep" not in inspect.signature(backbone.model.forward).parameters,
    )


def _cached(source: str, revision: str) -> Path | None:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(source, revision=revision, local_files_only=True, allow_patterns=["config.json"]))
    except (LocalEntryNotFoundError, HFValidationError, OSError):
        return None
    return folder if (folder / "config.json").is_file() else None
