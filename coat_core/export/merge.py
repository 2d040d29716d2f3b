"""The weights of a plain checkpoint: the base's own files with LoRA added and the block's rows written in, shard by shard.

Nothing is loaded as a model. Every tensor keeps the name, shape and (unless another is asked for) number format that it has in
the base, and tensors of other parts (the talker of Qwen2.5-Omni) pass through byte for byte. LoRA is added in float32 and the
sum cast once. At most one shard is in memory.
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
from coat_core.export.weights import FORMATS, Parameters, WeightFiles
from coat_core.hub import INDEX, WHOLE
from coat_core.storage import read_json, write_json
from coat_core.thinking.release import ADAPTER, ADAPTER_CONFIG

_PREFIX, _ROWS = "base_model.model.", ".token_adapter.trainable_tokens_delta"
_UNKNOWN = (
    "use_dora",
    "use_rslora",
    "lora_bias",
    "fan_in_fan_out",
    "rank_pattern",
    "alpha_pattern",
    "modules_to_save",
    "layer_replication",
)
"""What PEFT can do and a release never does; a merge that passed over it would be wrong."""


@dataclass(frozen=True)
class Change:
    """What an adapter does to one parameter: `scale · b @ a` is added, or rows are replaced.

    Attributes:
        a: LoRA's A `[r, in]`.
        b: LoRA's B `[out, r]`.
        scale: alpha / r.
        rows: id → row `[D]`.
    """

    a: Tensor | None = None
    b: Tensor | None = None
    scale: float = 1.0
    rows: Mapping[int, Tensor] | None = None

    def apply(self, weight: Tensor) -> Tensor:
        """Return the changed weight, in float32 for LoRA."""
        if self.rows is not None:
            changed = weight.clone()
            for index, row in self.rows.items():
                changed[index] = row.to(weight.dtype)
            return changed
        if self.a is None or self.b is None:
            raise AssertionError("a change that changes nothing")
        return weight.float() + self.scale * (self.b.float() @ self.a.float())


def read_changes(release: Path) -> dict[str, Change]:
    """Return what a release's adapter changes, by the parameter's name in the stock model; empty for arm `base`.

    Raises:
        ReleaseError: the adapter does what a merge here does not know.
    """
    if not (release / ADAPTER_CONFIG).is_file():
        return {}
    config = read_json(release / ADAPTER_CONFIG)
    strange = [name for name in _UNKNOWN if config.get(name)]
    if strange or config.get("bias", "none") != "none":
        raise ReleaseError("the adapter is of a kind that cannot be merged here", field=ADAPTER_CONFIG, value=strange or "bias")
    tensors = load_file(release / ADAPTER)
    changes: dict[str, Change] = {}
    for name in [name for name in tensors if name.endswith(".lora_A.weight")]:
        module = name.removesuffix(".lora_A.weight")
        changes[f"{module.removeprefix(_PREFIX)}.weight"] = Change(
            a=tensors.pop(name), b=tensors.pop(f"{module}.lora_B.weight"), scale=config["lora_alpha"] / config["r"]
        )
    for name in [name for name in tensors if name.endswith(_ROWS)]:
        rows = dict(zip(config["trainable_token_indices"], tensors.pop(name), strict=True))
        changes[f"{name.removeprefix(_PREFIX).removesuffix(_ROWS)}.weight"] = Change(rows=rows)
    if tensors:
        raise ReleaseError("the adapter holds weights that cannot be merged", field=ADAPTER, value=sorted(tensors)[:4])
    return changes


class MergedWeights:
    """The plan of a plain checkpoint's weights: which tensors change, in which format and in which files they will be written.

    Args:
        base: the base's weight files.
        parameters: which parameter each tensor is.
        changes: of the adapter; see `read_changes`.
        dtype: `float32`, `bfloat16` or `float16` for the model's own tensors; None keeps the base's.
        max_shard_bytes: the base's own files are kept where none would be larger, else the tensors are dealt anew.

    Raises:
        ReleaseError: the adapter is not of this base.
    """

    def __init__(
        self, base: WeightFiles, parameters: Parameters, changes: Mapping[str, Change], *, dtype: str | None, max_shard_bytes: int
    ) -> None:
        self.base = base
        self._changes = {parameters.stored.get(name, ""): change for name, change in changes.items()}
        strange = [name for name in changes if name not in parameters.stored] or [
            name for name, change in changes.items() if not _fits(base.tensors[parameters.stored[name]].shape, change)
        ]
        if strange:
            raise ReleaseError(
                "the adapter's weights are not this base's", field=ADAPTER, value=strange[:4], next_step="give the base it was trained on"
            )
        own = set(parameters.stored.values())
        self._forms = {name: _form(tensor.form, dtype if name in own else None) for name, tensor in base.tensors.items()}
        self.files = self._deal(max_shard_bytes)
        self.total_bytes = sum(tensor.size(self._forms[name]) for name, tensor in base.tensors.items())

    def write(self, folder: Path, say: Callable[[str], None]) -> None:
        """Write the files, and the index where there are several.

        Args:
            folder: gets them.
            say: is told of each file.
        """
        for number, (file, names) in enumerate(self.files.items(), 1):
            say(f"  {file} ({number} of {len(self.files)}): {len(names)} tensors, {len([n for n in names if n in self._changes])} merged")
            if self._untouched(file, names):
                shutil.copyfile(self.base.folder / file, folder / file)
            else:
                save_file({name: self._tensor(name) for name in names}, folder / file, metadata={"format": "pt"})
        if len(self.files) > 1:
            index = {name: file for file, names in self.files.items() for name in names}
            write_json(folder / INDEX, {"metadata": {"total_size": self.total_bytes}, "weight_map": index})

    def _tensor(self, name: str) -> Tensor:
        tensor, change = self.base.read(name), self._changes.get(name)
        form = FORMATS[self._forms[name]][0]
        if change is not None:
            # Rows go into the format that is asked for, not through the base's.
            tensor = change.apply(tensor.to(getattr(torch, form)) if change.rows is not None and form else tensor)
        return (tensor if form is None else tensor.to(getattr(torch, form))).contiguous()

    def _untouched(self, file: str, names: list[str]) -> bool:
        same = all(self._forms[name] == self.base.tensors[name].form and name not in self._changes for name in names)
        return same and self.base.files.get(file) == names

    def _deal(self, max_shard_bytes: int) -> dict[str, list[str]]:
        sizes = {name: tensor.size(self._forms[name]) for name, tensor in self.base.tensors.items()}
        if all(sum(sizes[name] for name in names) <= max_shard_bytes for names in self.base.files.values()):
            return self.base.files
        from huggingface_hub.serialization._base import split_state_dict_into_shards_factory

        split = split_state_dict_into_shards_factory(
            sizes, get_storage_size=lambda size: size, filename_pattern="model{suffix}.safetensors", max_shard_size=max_shard_bytes
        )
        return {file: list(names) for file, names in split.filename_to_tensors.items()} or {WHOLE: list(sizes)}


def _fits(shape: tuple[int, ...], change: Change) -> bool:
    if change.rows is not None:
        return len(shape) == 2 and all(0 <= index < shape[0] and tuple(row.shape) == shape[1:] for index, row in change.rows.items())
    return change.a is not None and change.b is not None and shape == (change.b.shape[0], change.a.shape[1])


def _form(form: str, dtype: str | None) -> str:
    if dtype is None or FORMATS[form][0] is None:
        return form
    return next(name for name, (called, _) in FORMATS.items() if called == dtype)


def stored_dtype(base: WeightFiles, parameters: Parameters) -> str:
    """Return the number format of a base on disk, as its embedding has it.

    Raises:
        ReleaseError: the embedding is not stored as a float that a model can be loaded in.
    """
    form: Any = base.tensors[parameters.stored[parameters.embedding]].form
    if FORMATS[form][0] is None:
        raise ReleaseError("the base's number format is none to load a model in", field="base", value=form, next_step="give --dtype")
    return str(FORMATS[form][0])
