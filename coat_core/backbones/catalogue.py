"""The LALMs by key, and how a checkpoint becomes a `Backbone`."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from coat_core.backbones.architecture import Architecture
from coat_core.backbones.base import Backbone
from coat_core.device import check_device
from coat_core.errors import BackboneError, OutOfMemoryError
from coat_core.hub import checkpoint_folder

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
    """Load a checkpoint, published or tiny, from a folder or the hub.

    Args:
        key: one of `BACKBONES`.
        id_or_path: a folder in the published layout, or a hub id.
        revision: commit of the hub repository; a hub id needs one.
        allow_moving_revision: whether the revision may be a branch or tag.
        dtype: `float32`, `bfloat16` or `float16`.
        device: where the weights go.
        attention: which attention the model computes with: `sdpa`, `eager` or `flash_attention_2`.
        long_audio: `refuse` clips beyond the tower's one window, or hear them in `windows` (Qwen2-Audio).

    Raises:
        BackboneError: transformers is too old, the key unknown, the checkpoint incomplete or of another LALM.
        CheckpointError: the checkpoint is not there and cannot be fetched.
        DeviceError: this host has no such device.
        OutOfMemoryError: the device is too small for the weights.
    """
    import torch
    from transformers import AutoConfig, AutoTokenizer, WhisperFeatureExtractor

    from coat_core.backbones.lalm import Lalm
    from coat_core.backbones.template import published_template
    from coat_core.device import release_memory

    check_transformers()
    check_device(device, "device")
    architecture = load_architecture(key)
    field = f"backbones.{key}.base"
    folder = checkpoint_folder(id_or_path, revision, field=field, allow_moving=allow_moving_revision)
    try:
        with suppress_config_warnings():
            found = AutoConfig.from_pretrained(folder, local_files_only=True)
        config = architecture.model_config(found)
        if config is None:
            raise BackboneError("the checkpoint is of another model", field=field, value=f"{id_or_path} ({found.model_type})", allowed=key)
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
            next_step="name a folder in the published layout (`coat bases` makes tiny ones) or a hub id with its commit",
        ) from error
    broken = sorted(map(str, [*report["missing_keys"], *report["mismatched_keys"]]))
    if broken:
        raise BackboneError(f"the checkpoint lacks {len(broken)} of the model's weights, first {broken[0]}", field=field, value=id_or_path)
    tokenizer.chat_template = published_template(folder, tokenizer, architecture.audio_token, architecture.template)
    if tokenizer.convert_tokens_to_ids(architecture.audio_token) != config.audio_token_id:
        raise BackboneError(
            "tokenizer and configuration disagree on the audio placeholder",
            field="audio_token_id",
            value=config.audio_token_id,
            allowed=f"the id of {architecture.audio_token}",
        )
    if device != "cpu":
        # Models refer to themselves in circles: one that nobody holds any more makes room now, not at Python's next collection.
        release_memory()
    return Lalm(architecture, _placed(model, device, field).eval(), tokenizer, extractor, long_audio=long_audio)


def _placed(model: Any, device: str, field: str) -> Any:
    """Move a model to its device.

    Raises:
        OutOfMemoryError: the device is too small for the weights.
    """
    import torch

    try:
        return model.to(device)
    except torch.OutOfMemoryError as error:
        needed = sum(weight.numel() * weight.element_size() for weight in (*model.parameters(), *model.buffers()))
        raise OutOfMemoryError(
            f"the weights alone need {needed / 1e9:.1f} GB and do not fit on the device: {error}",
            field=field.replace(".base", ".dtype"),
            value=str(model.dtype).removeprefix("torch."),
            allowed="bfloat16 halves what float32 takes",
            next_step="set dtype: bfloat16, stop what else runs on the device, or take a larger one",
        ) from error


@contextmanager
def suppress_config_warnings() -> Iterator[None]:
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
