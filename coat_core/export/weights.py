"""The weight files of a checkpoint folder: their tensors, and the parameter of the stock class for each tensor."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from coat_core.errors import ReleaseError
from coat_core.hub import INDEX, WHOLE

SAFETENSORS_DTYPES: Mapping[str, tuple[str | None, int]] = {
    "F64": (None, 8), "F32": ("float32", 4), "F16": ("float16", 2), "BF16": ("bfloat16", 2), "I64": (None, 8), "I32": (None, 4),
    "I16": (None, 2), "I8": (None, 1), "U8": (None, 1), "BOOL": (None, 1),
}  # fmt: skip
"""Dtypes by their names in safetensors: the name in torch (None: never cast), and bytes per number."""


@dataclass(frozen=True)
class StoredTensor:
    """One tensor of a checkpoint.

    Attributes:
        file: name of the file that contains the tensor.
        dtype: dtype, by its name in safetensors (`BF16`).
        shape: shape of the stored tensor.
    """

    file: str
    dtype: str
    shape: tuple[int, ...]

    def size(self, dtype: str | None = None) -> int:
        """Return its size in bytes, in its dtype or in another one."""
        return math.prod(self.shape) * SAFETENSORS_DTYPES[dtype or self.dtype][1]


class WeightFiles:
    """The safetensors files of a folder, one file or several with an index. Tensors are read on demand.

    Raises:
        ReleaseError: a file is missing or cannot be read, or a dtype is unknown.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        files = [WHOLE]
        if (folder / INDEX).is_file():
            files = sorted(set(json.loads((folder / INDEX).read_text())["weight_map"].values()))
        self.tensors: dict[str, StoredTensor] = {}
        for file in files:
            if not (folder / file).is_file():
                raise ReleaseError(
                    "a weight file of the base is missing", field=file, value=str(folder), allowed="safetensors",
                    next_step="download the complete checkpoint; save a checkpoint in an older format as safetensors first",
                )  # fmt: skip
            try:
                with safe_open(folder / file, "pt") as stored:
                    for name in stored.keys():  # noqa: SIM118 - not a mapping
                        part = stored.get_slice(name)
                        self.tensors[name] = StoredTensor(file, part.get_dtype(), tuple(part.get_shape()))
            except SafetensorError as error:
                raise ReleaseError(f"a weight file cannot be read: {error}", field=file, value=str(folder)) from error
        unknown = {tensor.dtype for tensor in self.tensors.values()} - {*SAFETENSORS_DTYPES}
        if unknown:
            raise ReleaseError(
                "an adapter cannot be merged into the base's dtype", field="base", value=sorted(unknown),
                allowed=sorted(SAFETENSORS_DTYPES), next_step="use a base that is not quantised",
            )  # fmt: skip

    @property
    def files(self) -> dict[str, list[str]]:
        """The names of the tensors by file."""
        files: dict[str, list[str]] = {}
        for name, tensor in self.tensors.items():
            files.setdefault(tensor.file, []).append(name)
        return files

    def read(self, name: str) -> Tensor:
        """Return one tensor, on the CPU."""
        with safe_open(self.folder / self.tensors[name].file, "pt") as stored:
            tensor: Tensor = stored.get_tensor(name)
        return tensor


@dataclass(frozen=True)
class Parameters:
    """The parameters of the stock class and their stored tensors.

    Attributes:
        stored: name of the parameter in the model → name of the tensor in the files.
        embedding: name of the language model's input embedding, in the model.
    """

    stored: Mapping[str, str]
    embedding: str


def match_parameters(model_class: Any, config: Any, names: Iterable[str]) -> Parameters:
    """Match the tensors of a checkpoint with the parameters of a stock class, by the renaming rules of transformers.

    Published names differ from those of the current classes (`language_model.model.…`, `thinker.model.…`). The model is built on the
    meta device, without weights. Tensors of other parts (a talker) match no parameter and are omitted.

    Raises:
        ReleaseError: a parameter has no tensor or several, or a tensor is converted when it is loaded.
    """
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

    with torch.device("meta"):
        model = model_class(config)
    parameters = model.state_dict()
    transforms = get_model_conversion_mapping(model)
    renamings = [transform for transform in transforms if isinstance(transform, WeightRenaming)]
    converters = [transform for transform in transforms if isinstance(transform, WeightConverter)]
    stored: dict[str, str] = {}
    for name in names:
        parameter, converted = rename_source_key(name, renamings, converters, model.base_model_prefix, parameters)
        if converted is not None or parameter in stored:
            raise ReleaseError("a tensor of the base does not match one parameter", field="base", value=name)
        if parameter in parameters:
            stored[parameter] = name
    tied = set(getattr(model, "all_tied_weights_keys", None) or ())
    missing = sorted({*parameters} - {*stored} - tied)
    if missing:
        raise ReleaseError(f"the base lacks {len(missing)} of the model's weights, first {missing[0]}", field="base")
    weight = model.get_input_embeddings().weight
    return Parameters(stored, next(name for name, parameter in model.named_parameters() if parameter is weight))
