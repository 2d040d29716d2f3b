"""The catalogue of LALMs, and `load_backbone`, which makes a `Backbone` from a checkpoint."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from coat_core.backbones.base import Architecture, Backbone
from coat_core.device import check_device, release_memory
from coat_core.errors import BackboneError, OutOfMemoryError
from coat_core.hub import checkpoint_folder

MINIMUM_TRANSFORMERS = "5.14"
"""Older versions mix audio between the samples of an Audio Flamingo 3 batch, or compute wrong labels for it."""


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
    """Return the architecture of one LALM.

    Raises:
        BackboneError: the key is unknown.
    """
    if key not in _ARCHITECTURES:
        raise BackboneError("no such backbone", field="backbone", value=key, allowed=BACKBONES)
    return _ARCHITECTURES[key]()


def load_backbone(
    key: str,
    id_or_path: str,
    *,
    revision: str | None = None,
    allow_moving_revision: bool = False,
    dtype: str = "float32",
    device: str = "cpu",
    attention: str = "sdpa",
    long_audio: str = "refuse",
) -> Backbone:
    """Load a published or tiny checkpoint, from a folder or the hub.

    Args:
        key: one of `BACKBONES`.
        id_or_path: a folder in the published layout, or a hub id.
        revision: commit of the hub repository; required for a hub id.
        allow_moving_revision: whether the revision may be a branch or tag.
        dtype: `float32`, `bfloat16` or `float16`.
        device: device of the weights.
        attention: the attention implementation: `sdpa`, `eager` or `flash_attention_2`.
        long_audio: for clips longer than the tower's one window (Qwen2-Audio): `refuse` them, or process them in `windows`.

    Raises:
        BackboneError: transformers is too old, the key is unknown, or the checkpoint is incomplete or of another LALM.
        CheckpointError: the checkpoint is not on this disk and cannot be downloaded.
        DeviceError: torch cannot use the device.
        OutOfMemoryError: the device is too small for the weights.
    """
    import torch
    from transformers import AutoConfig, AutoTokenizer, WhisperFeatureExtractor

    from coat_core.backbones.lalm import Lalm
    from coat_core.backbones.template import published_template

    check_transformers()
    check_device(device, "device")
    architecture = load_architecture(key)
    field = f"backbones.{key}.base"
    folder = checkpoint_folder(id_or_path, revision, field=field, allow_moving=allow_moving_revision)
    try:
        with suppress_config_warnings():
            stored = AutoConfig.from_pretrained(folder, local_files_only=True)
        config = architecture.model_config(stored)
        if config is None:
            raise BackboneError("the checkpoint is of another model", field=field, value=f"{id_or_path} ({stored.model_type})", allowed=key)
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        extractor = WhisperFeatureExtractor.from_pretrained(folder, local_files_only=True)
        model, report = architecture.model_class().from_pretrained(
            folder,
            config=config,
            dtype=getattr(torch, dtype),
            attn_implementation=attention,
            output_loading_info=True,
            local_files_only=True,
        )
    except BackboneError:
        raise
    except (OSError, KeyError, ValueError, ImportError) as error:
        raise BackboneError(
            f"cannot load the base of {key}: {str(error).strip().splitlines()[0]}",
            field=field,
            value=id_or_path,
            next_step="set it to a folder in the published layout (`coat bases` makes tiny ones) or to a hub id with its commit",
        ) from error
    missing = sorted(map(str, [*report["missing_keys"], *report["mismatched_keys"]]))
    if missing:
        message = f"the checkpoint lacks {len(missing)} of the model's weights, first {missing[0]}"
        raise BackboneError(message, field=field, value=id_or_path)
    tokenizer.chat_template = published_template(folder, tokenizer, architecture.audio_token, architecture.template)
    if tokenizer.convert_tokens_to_ids(architecture.audio_token) != config.audio_token_id:
        raise BackboneError(
            "tokenizer and configuration disagree on the audio placeholder",
            field="audio_token_id",
            value=config.audio_token_id,
            allowed=f"the id of {architecture.audio_token}",
        )
    if device != "cpu":
        # A model contains reference cycles, so an unused one occupies memory until the next garbage collection.
        release_memory()
    return Lalm(architecture, _move_to_device(model, device, field).eval(), tokenizer, extractor, long_audio=long_audio)


def _move_to_device(model: Any, device: str, field: str) -> Any:
    """Move a model to its device.

    Raises:
        OutOfMemoryError: the device is too small for the weights.
    """
    import torch

    try:
        return model.to(device)
    except torch.OutOfMemoryError as error:
        size = sum(weight.numel() * weight.element_size() for weight in (*model.parameters(), *model.buffers()))
        raise OutOfMemoryError(
            f"the weights alone need {size / 1e9:.1f} GB and do not fit on the device: {error}",
            field=field.replace(".base", ".dtype"),
            value=str(model.dtype).removeprefix("torch."),
            allowed="bfloat16 needs half the memory of float32",
            next_step="set dtype: bfloat16, stop other processes on the device, or use a larger one",
        ) from error


@contextmanager
def suppress_config_warnings() -> Iterator[None]:
    """Suppress the warnings that transformers logs for the default talker of Qwen2.5-Omni at every load."""
    logger = logging.getLogger("transformers.configuration_utils")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def check_transformers(version: str | None = None) -> None:
    """Refuse a transformers version that is known to compute wrong results.

    Raises:
        BackboneError: the version is older than `MINIMUM_TRANSFORMERS`.
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
            next_step="install the versions in the lock file",
        )
