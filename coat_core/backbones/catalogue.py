"""The LALMs by key, and how a checkpoint becomes a `Backbone`."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from coat_core.backbones.architecture import Architecture
from coat_core.backbones.base import Backbone
from coat_core.errors import BackboneError

MINIMUM_TRANSFORMERS = "5.14"
"""Older ones leak audio between the samples of an Audio Flamingo 3 batch, or give it wrong labels."""


def _qwen2_audio() -> Architecture:
    from coat_core.backbones.qwen2_audio import Qwen2Audio

    return Qwen2Audio()


def _qwen2_5_omni() -> Architecture:
    from coat_core.backbones.qwen2_5_omni import Qwen25Omni

    return Qwen25Omni()


def _audio_flamingo_3() -> Architecture:
    from coat_core.backbones.audio_flamingo_3 import AudioFlamingo3

    return AudioFlamingo3()


_ARCHITECTURES: dict[str, Callable[[], Architecture]] = {
    "qwen2_audio": _qwen2_audio,
    "qwen2_5_omni": _qwen2_5_omni,
    "audio_flamingo_3": _audio_flamingo_3,
}
BACKBONES: tuple[str, ...] = tuple(_ARCHITECTURES)
"""The known keys."""


def load_architecture(key: str) -> Architecture:
    """Return what sets one LALM apart.

    Raises:
        BackboneError: the key is unknown.
    """
    if key not in _ARCHITECTURES:
        raise BackboneError("no such backbone", field="backbone", value=key, allowed=BACKBONES)
    return _ARCHITECTURES[key]()


def load_backbone(key: str, id_or_path: str, *, revision: str | None = None, dtype: str = "float32", device: str = "cpu") -> Backbone:
    """Load a checkpoint, published or tiny, from a folder or the hub.

    Args:
        key: one of `BACKBONES`.
        id_or_path: a folder in the published layout, or a hub id.
        revision: of the hub repository.
        dtype: `float32`, `bfloat16` or `float16`.
        device: where the weights go.

    Raises:
        BackboneError: transformers is too old, the key unknown, the checkpoint missing, incomplete or of another LALM.
    """
    import torch
    from transformers import AutoConfig, AutoTokenizer, WhisperFeatureExtractor

    from coat_core.backbones.lalm import Lalm
    from coat_core.backbones.template import published_template

    check_transformers()
    architecture = load_architecture(key)
    where: dict[str, Any] = {"revision": revision or "main", "local_files_only": Path(id_or_path).is_dir()}
    try:
        with _quiet_config():
            found = AutoConfig.from_pretrained(id_or_path, **where)
        config = architecture.model_config(found)
        if config is None:
            raise BackboneError(
                "the checkpoint is of another model", field=f"backbones.{key}.base", value=f"{id_or_path} ({found.model_type})", allowed=key
            )
        tokenizer = AutoTokenizer.from_pretrained(id_or_path, **where)
        extractor = WhisperFeatureExtractor.from_pretrained(id_or_path, **where)
        model, report = architecture.model_class().from_pretrained(
            id_or_path, config=config, dtype=getattr(torch, dtype), output_loading_info=True, **where
        )
    except (OSError, KeyError) as error:
        raise BackboneError(
            f"cannot load the base of {key}: {error}",
            field=f"backbones.{key}.base",
            value=id_or_path,
            next_step="name a folder in the published layout (`coat bases` makes tiny ones) or a hub id that can be reached",
        ) from error
    broken = sorted(map(str, [*report["missing_keys"], *report["mismatched_keys"]]))
    if broken:
        raise BackboneError(
            f"the checkpoint lacks {len(broken)} of the model's weights, first {broken[0]}", field=f"backbones.{key}.base", value=id_or_path
        )
    tokenizer.chat_template = published_template(id_or_path, tokenizer, architecture.audio_token, architecture.template, **where)
    if tokenizer.convert_tokens_to_ids(architecture.audio_token) != config.audio_token_id:
        raise BackboneError(
            "tokenizer and configuration disagree on the audio placeholder",
            field="audio_token_id",
            value=config.audio_token_id,
            allowed=f"the id of {architecture.audio_token}",
        )
    return Lalm(architecture, model.to(device).eval(), tokenizer, extractor)


@contextmanager
def _quiet_config() -> Iterator[None]:
    """Keep back the remarks that Qwen2.5-Omni's *default* talker makes on being compared with ours, at every load."""
    logger = logging.getLogger("transformers.configuration_utils")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def check_transformers(version: str | None = None) -> None:
    """Refuse a transformers that is known to compute wrongly.

    Raises:
        BackboneError: it is older than `MINIMUM_TRANSFORMERS`.
    """
    import transformers
    from packaging.version import Version

    found = version or transformers.__version__
    if Version(found) < Version(MINIMUM_TRANSFORMERS):
        raise BackboneError(
            "transformers is too old",
            field="transformers",
            value=found,
            allowed=f">= {MINIMUM_TRANSFORMERS}",
            next_step="install the versions of the lock file",
        )
