"""The weights of a merged checkpoint: the base's files with LoRA added and the trainable tokens written, shard by shard.

No model is loaded. Every tensor keeps its name, its shape and (by default) its dtype. Tensors of other parts (the talker of
Qwen2.5-Omni) are copied byte for byte. LoRA is added in float32, and the sum is cast once. At most one shard is in memory.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from coat_core.errors import ReleaseError
from coat_core.export.weights import SAFETENSORS_DTYPES, Parameters, WeightFiles
from coat_core.hub import INDEX, WHOLE
from coat_core.storage import read_json, write_json
from coat_core.thinking.release import ADAPTER, ADAPTER_CONFIG

_PREFIX, _TOKENS = "base_model.model.", ".token_adapter.trainable_tokens_delta"
_UNSUPPORTED = (
    "use_dora",
    "use_rslora",
    "lora_bias",
    "fan_in_fan_out",
    "rank_pattern",
    "alpha_pattern",
    "modules_to_save",
    "layer_replication",
)
"""Options of PEFT that a release never uses. A merge that ignored them would be wrong."""


@dataclass(frozen=True)
class Change:
    """The change of one parameter by an adapter: `scale · b @ a` is added, or the embeddings of tokens are replaced.

    Attributes:
        a: LoRA's A `[r, in]`.
        b: LoRA's B `[out, r]`.
        scale: alpha / r.
        tokens: id → embedding `[D]`.
    """

    a: Tensor | None = None
    b: Tensor | None = None
    scale: float = 1.0
    tokens: Mapping[int, Tensor] | None = None

    def apply(self, weight: Tensor) -> Tensor:
        """Return the changed weight, in float32 for LoRA."""
        if self.tokens is not None:
            changed = weight.clone()
            for index, embedding in self.tokens.items():
                changed[index] = embedding.to(weight.dtype)
            return changed
        if self.a is None or self.b is None:
            raise AssertionError("a change has LoRA or tokens")
        return weight.float() + self.scale * (self.b.float() @ self.a.float())


def read_changes(release: Path) -> dict[str, Change]:
    """Return the changes of a release's adapter, by the parameter's name in the stock model; empty for arm `base`.

    Raises:
        ReleaseError: the adapter uses options that cannot be merged.
    """
    if not (release / ADAPTER_CONFIG).is_file():
        return {}
    config = read_json(release / ADAPTER_CONFIG)
    unsupported = [name for name in _UNSUPPORTED if config.get(name)]
    if unsupported or config.get("bias", "none") != "none":
        raise ReleaseError("the adapter uses options that cannot be merged", field=ADAPTER_CONFIG, value=unsupported or "bias")
    tensors = load_file(release / ADAPTER)
    changes: dict[str, Change] = {}
    for name in [name for name in tensors if name.endswith(".lora_A.weight")]:
        module = name.removesuffix(".lora_A.weight")
        changes[f"{module.removeprefix(_PREFIX)}.weight"] = Change(
            a=tensors.pop(name), b=tensors.pop(f"{module}.lora_B.weight"), scale=config["lora_alpha"] / config["r"]
        )
    for name in [name for name in tensors if name.endswith(_TOKENS)]:
        tokens = dict(zip(config["trainable_token_indices"], tensors.pop(name), strict=True))
        changes[f"{name.removeprefix(_PREFIX).removesuffix(_TOKENS)}.weight"] = Change(tokens=tokens)
    if tensors:
        raise ReleaseError("the adapter contains weights that cannot be merged", field=ADAPTER, value=sorted(tensors)[:4])
    return changes


class MergedWeights:
    """The plan of a merged checkpoint's weights: which tensors change, and the dtype and file of each one.

    Args:
        base: the base's weight files.
        parameters: the parameter of each tensor.
        changes: changes by the adapter, from `read_changes`.
        dtype: `float32`, `bfloat16` or `float16` for the model's own tensors; None: as in the base.
        max_shard_bytes: the base's division into files is kept if no file would be larger; otherwise the tensors are split again.

    Raises:
        ReleaseError: the adapter does not belong to this base.
    """

    def __init__(
        self, base: WeightFiles, parameters: Parameters, changes: Mapping[str, Change], *, dtype: str | None, max_shard_bytes: int
    ) -> None:
        self.base = base
        self._changes = {parameters.stored.get(name, ""): change for name, change in changes.items()}
        mismatched = [name for name in changes if name not in parameters.stored] or [
            name for name, change in changes.items() if not _fits(base.tensors[parameters.stored[name]].shape, change)
        ]
        if mismatched:
            raise ReleaseError(
                "the adapter's weights do not fit this base",
                field=ADAPTER,
                value=mismatched[:4],
                next_step="use the base that it was trained on",
            )
        own = set(parameters.stored.values())
        self._dtypes = {name: _target_dtype(tensor.dtype, dtype if name in own else None) for name, tensor in base.tensors.items()}
        self.files = self._split(max_shard_bytes)
        self.total_bytes = sum(tensor.size(self._dtypes[name]) for name, tensor in base.tensors.items())

    def write(self, folder: Path, progress: Callable[[str], None]) -> None:
        """Write the files, and the index if there are several.

        Args:
            folder: target of the files.
            progress: called with one line for each file.
        """
        for number, (file, names) in enumerate(self.files.items(), 1):
            merged = sum(name in self._changes for name in names)
            progress(f"  {file} ({number} of {len(self.files)}): {len(names)} tensors, {merged} merged")
            if self._unchanged(file, names):
                shutil.copyfile(self.base.folder / file, folder / file)
            else:
                save_file({name: self._tensor(name) for name in names}, folder / file, metadata={"format": "pt"})
        if len(self.files) > 1:
            index = {name: file for file, names in self.files.items() for name in names}
            write_json(folder / INDEX, {"metadata": {"total_size": self.total_bytes}, "weight_map": index})

    def _tensor(self, name: str) -> Tensor:
        tensor, change = self.base.read(name), self._changes.get(name)
        torch_dtype = SAFETENSORS_DTYPES[self._dtypes[name]][0]
        if change is not None:
            # Embeddings are cast to the target dtype directly, not to that of the base first.
            tensor = change.apply(tensor.to(getattr(torch, torch_dtype)) if change.tokens is not None and torch_dtype else tensor)
        return (tensor if torch_dtype is None else tensor.to(getattr(torch, torch_dtype))).contiguous()

    def _unchanged(self, file: str, names: list[str]) -> bool:
        same = all(self._dtypes[name] == self.base.tensors[name].dtype and name not in self._changes for name in names)
        return same and self.base.files.get(file) == names

    def _split(self, max_shard_bytes: int) -> dict[str, list[str]]:
        sizes = {name: tensor.size(self._dtypes[name]) for name, tensor in self.base.tensors.items()}
        if all(sum(sizes[name] for name in names) <= max_shard_bytes for names in self.base.files.values()):
            return self.base.files
        from huggingface_hub.serialization._base import split_state_dict_into_shards_factory

        split = split_state_dict_into_shards_factory(
            sizes, get_storage_size=lambda size: size, filename_pattern="model{suffix}.safetensors", max_shard_size=max_shard_bytes
        )
        return {file: list(names) for file, names in split.filename_to_tensors.items()} or {WHOLE: list(sizes)}


def _fits(shape: tuple[int, ...], change: Change) -> bool:
    if change.tokens is not None:
        return len(shape) == 2 and all(0 <= index < shape[0] and tuple(row.shape) == shape[1:] for index, row in change.tokens.items())
    return change.a is not None and change.b is not None and shape == (change.b.shape[0], change.a.shape[1])


def _target_dtype(stored: str, requested: str | None) -> str:
    """Return the dtype, by its name in safetensors, in which a tensor is written."""
    if requested is None or SAFETENSORS_DTYPES[stored][0] is None:
        return stored
    return next(name for name, (torch_name, _) in SAFETENSORS_DTYPES.items() if torch_name == requested)


def stored_dtype(base: WeightFiles, parameters: Parameters) -> str:
    """Return the dtype of a base on disk: that of its embedding.

    Raises:
        ReleaseError: the embedding is stored in a dtype in which a model cannot be loaded.
    """
    stored: Any = base.tensors[parameters.stored[parameters.embedding]].dtype
    if SAFETENSORS_DTYPES[stored][0] is None:
        raise ReleaseError("a model cannot be loaded in the base's dtype", field="base", value=stored, next_step="set --dtype")
    return str(SAFETENSORS_DTYPES[stored][0])
