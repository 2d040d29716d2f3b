"""A release: a folder that stock transformers and PEFT load, with its metadata in `coat.json`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from coat_core.backbones.base import Backbone, Query
from coat_core.backbones.catalogue import load_backbone
from coat_core.errors import CheckpointError, DeviceError, OutOfMemoryError, ReleaseError
from coat_core.storage import new_folder, read_json, sha256_file, write_json
from coat_core.thinking.adapter import adapter_names, standard_config
from coat_core.thinking.block import ThinkingBlock
from coat_core.thinking.front_end import FILES as FRONT_END
from coat_core.thinking.front_end import load_front_end, write_front_end
from coat_core.thinking.heads import ExpertHead, empty_heads
from coat_core.thinking.info import ReleaseInfo
from coat_core.thinking.model import ThinkingModel, read_states

INFO, ADAPTER, ADAPTER_CONFIG, HEADS = "coat.json", "adapter_model.safetensors", "adapter_config.json", "heads.safetensors"
_WEIGHTS = (ADAPTER, ADAPTER_CONFIG)
_PICKLES = {".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib"}


@dataclass(frozen=True)
class Release:
    """A loaded release.

    Attributes:
        info: the content of `coat.json`.
        backbone: the base with the release's tokenizer, template and generation config; LoRA and trainable tokens are merged
            into its model or applied by `model`.
        block: the thinking block, or None.
        heads: the heads by expert key, or None.
        model: the unmerged wrapper; None after a merge and for an arm without an adapter.
    """

    info: ReleaseInfo
    backbone: Backbone
    block: ThinkingBlock | None
    heads: nn.ModuleDict | None
    model: ThinkingModel | None

    @torch.no_grad()
    def predict(self, queries: Sequence[Query]) -> dict[str, list[Tensor]]:
        """Return the features that the heads predict: expert key → for each query `[T, d]` at the target rate, in the expert's units.

        Raises:
            ReleaseError: this release has no heads.
        """
        if self.heads is None:
            raise ReleaseError("this release has no heads", field="arm", value=self.info.arm, allowed="coat, coat_shuffled, align")
        batch = self.backbone.encode(queries, generation=True)
        audio = self.backbone.embed_audio(self.backbone.mel([query.waveform for query in queries]))
        embeddings = self.backbone.embed(batch, audio)
        layer = self.block.read_layer if self.block is not None else self.info.audio_read_layer
        assert layer is not None
        inner, _ = self.backbone.hidden_states(embeddings, batch.attention_mask, layer)
        states, mask = read_states(inner, self.block, batch, self.backbone.audio_token_id)
        durations = [clip.shape[0] / self.backbone.audio_token_rate_hz for clip in audio]
        return {key: cast(ExpertHead, head).predict(states, durations, mask) for key, head in self.heads.items()}


def write_release(target: Path, info: ReleaseInfo, backbone: Backbone, model: ThinkingModel | None = None) -> None:
    """Write a release folder atomically; equal weights give equal bytes.

    Args:
        target: the folder, replaced if it exists.
        info: the content of `coat.json`; the hashes of the files are added.
        backbone: backbone whose tokenizer, front end and template are saved.
        model: the trained wrapper; None for arm `base`.

    Raises:
        ReleaseError: info, backbone and model do not match.
    """
    block = model.block if model is not None else None
    if (model is None) == info.trained or info.block != block or info.backbone != backbone.key:
        raise ReleaseError(
            "the release's info does not match the model",
            field=INFO,
            value=(info.backbone, info.arm),
            next_step="make the info from the model",
        )
    with new_folder(target) as folder:
        write_front_end(folder, backbone, block)
        if model is not None:
            _save_adapter(folder, info, model)
            if len(model.heads):
                state = {name: value.detach().cpu().contiguous() for name, value in sorted(model.heads.state_dict().items())}
                save_file(state, folder / HEADS, metadata={"format": "pt"})
        files = {path.relative_to(folder).as_posix(): sha256_file(path) for path in sorted(folder.rglob("*")) if path.is_file()}
        write_json(folder / INFO, info.with_files(files).to_json())


def load_release(
    folder: Path,
    *,
    merge: bool = True,
    device: str = "cpu",
    dtype: str | None = None,
    attention: str = "sdpa",
    base: str | None = None,
    fingerprint: str | None = None,
) -> Release:
    """Load a release on its base.

    Args:
        folder: the release.
        merge: merge LoRA and trainable tokens into the stock model (as served and timed); False keeps the wrapper.
        device: device of the weights.
        dtype: dtype of the base's weights; None: as in training.
        attention: attention implementation of the model.
        base: path or hub id of the base; None: as in `coat.json`, a path relative to the working folder.
        fingerprint: the required stage key of the release; None accepts every key.

    Raises:
        ReleaseError: a file is missing or was changed, the fingerprint differs, or the base is not the one that the release
            was trained on.
        CheckpointError: the base is not on this disk and cannot be downloaded.
        DeviceError: this host has no such device.
        OutOfMemoryError: the device is too small.
    """
    info = read_info(folder)
    _check_files(folder, info)
    if fingerprint is not None and info.fingerprint != fingerprint:
        raise ReleaseError(
            "the release has another stage key",
            field="fingerprint",
            value=info.fingerprint,
            allowed=fingerprint,
            next_step="train again",
        )
    try:
        backbone = load_backbone(
            info.backbone, base or info.base.id, revision=None if base else info.base.revision,
            allow_moving_revision=info.base.allow_moving_revision, dtype=dtype or info.base.dtype, device=device, attention=attention,
            long_audio=info.base.long_audio,
        )  # fmt: skip
        load_front_end(folder, backbone, info.block)
        model = _load_model(folder, info, backbone) if info.trained else None
        heads = model.heads.eval() if model is not None and len(model.heads) else None
        if model is not None and merge:
            model.eval().merge()
    except (ReleaseError, CheckpointError, DeviceError, OutOfMemoryError):
        raise
    except torch.OutOfMemoryError as error:
        raise OutOfMemoryError(
            f"the device is too small for the release: {error}", field="device", value=f"{device}, {dtype or info.base.dtype}",
            next_step="load it in bfloat16, stop other processes on the device, or use a larger one",
        ) from error  # fmt: skip
    except (ValueError, OSError, RuntimeError, KeyError) as error:
        raise ReleaseError(
            f"the release does not load on its base: {error}",
            field="base",
            value=base or info.base.id,
            next_step="pass the base that the release was trained on",
        ) from error
    if model is None:
        return Release(info, backbone, None, None, None)
    return Release(info, backbone, info.block, heads, None if merge else model.eval())


def read_info(folder: Path) -> ReleaseInfo:
    """Read `coat.json`.

    Raises:
        ReleaseError: the file is missing or invalid.
    """
    if not (folder / INFO).is_file():
        raise ReleaseError("this folder is not a release", field=INFO, value=str(folder), next_step="run its train stage")
    try:
        return ReleaseInfo.from_json(read_json(folder / INFO))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ReleaseError(
            f"coat.json cannot be read: {error!r}", field=INFO, value=str(folder), next_step="run the train stage again"
        ) from error


def _check_files(folder: Path, info: ReleaseInfo) -> None:
    needed = [*FRONT_END, *(_WEIGHTS if info.trained else ()), *((HEADS,) if info.experts else ())]
    for name in sorted({*needed, *info.files}):
        if not (folder / name).is_file():
            raise ReleaseError("a file of the release is missing", field=name, value=str(folder), next_step="run the train stage again")
        if info.files.get(name) != sha256_file(folder / name):
            raise ReleaseError(
                "a file of the release was changed after it was written",
                field=name,
                value=str(folder),
                next_step="run the train stage again",
            )
    pickles = sorted(path.name for path in folder.rglob("*") if path.suffix in _PICKLES)
    if pickles or (folder / "chat_template.json").exists():
        raise ReleaseError(
            "the folder contains files that a release must not have",
            field="release",
            value=pickles or "chat_template.json",
            next_step="remove them",
        )


def _load_model(folder: Path, info: ReleaseInfo, backbone: Backbone) -> ThinkingModel:
    if info.lora is None or info.losses is None:
        raise ReleaseError("coat.json has no LoRA settings", field="lora", next_step="run the train stage again")
    heads = empty_heads(info.experts, backbone.hidden_size, info.heads) if info.heads is not None else nn.ModuleDict()
    model = ThinkingModel(backbone, info.block, heads, info.lora, info.losses, info.seed, info.audio_read_layer)
    adapter = load_file(folder / ADAPTER)
    model_names = {name: key for key, name in adapter_names(backbone, model.trainable_names()).items()}
    wrong = sorted({*model_names} ^ {*adapter})
    if wrong:
        raise ReleaseError(
            "the adapter's weights do not match this base", field=ADAPTER, value=wrong[:4], next_step="pass the base that it was trained on"
        )
    state = {model_names[name]: value for name, value in adapter.items()}
    initial_heads = {name: value for name, value in model.trainable_state().items() if name.startswith("heads.")}
    model.load_trainable_state({**initial_heads, **state})
    if len(heads):
        model.heads.load_state_dict(load_file(folder / HEADS))
    return model


def _save_adapter(folder: Path, info: ReleaseInfo, model: ThinkingModel) -> None:
    """Write LoRA and trainable tokens as a standard PEFT adapter, without embedding matrix and model card."""
    state = model.trainable_state()
    names = adapter_names(model.backbone, state)
    save_file({names[name]: state[name] for name in sorted(names, key=names.__getitem__)}, folder / ADAPTER, metadata={"format": "pt"})
    token_ids = model.block.trainable_token_ids if model.block is not None else ()
    standard_config(model.peft, info.base.id, info.base.revision, token_ids).save_pretrained(folder)
