"""Reading published checkpoints: which model a folder holds, its weights, its front end, and the errors a user can meet."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from coat_core.device import check_device
from coat_core.errors import ExpertError, OutOfMemoryError
from coat_core.experts.base import ExpertSpec, Kind, Target
from coat_core.experts.neural.licences import Choice, Known, choose
from coat_core.hub import checkpoint_folder
from coat_core.settings import ExpertSettings

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Published:
    """A checkpoint on this disk, and how it is to be run."""

    implementation: str
    choice: Choice
    folder: Path
    config: dict[str, Any]
    """`config.json` as it stands."""
    settings: ExpertSettings

    @property
    def model_type(self) -> str:
        """The model's type, as transformers names it."""
        return str(self.config["model_type"])

    @property
    def dtype(self) -> torch.dtype:
        """Precision of weights and computation."""
        return _DTYPES[self.settings.dtype]

    def refuse(self, message: str, found: object, allowed: str | Sequence[object]) -> ExpertError:
        """Return the error that says why this checkpoint cannot serve."""
        return ExpertError(
            f"{self.implementation} cannot use this checkpoint: {' '.join(message.split())}", field="experts.*.checkpoint",
            value=f"{self.choice.checkpoint}: {found}", allowed=allowed, next_step="name another checkpoint, or another implementation",
        )  # fmt: skip

    def load(self, model_class: Any, *, may_miss: Sequence[str] = ()) -> Any:
        """Load a stock class with all its weights, in evaluation mode, on the device.

        Raises:
            ExpertError: weights are missing (but for `may_miss`) or of another shape, or the folder has none.
        """
        try:
            with torch.random.fork_rng(devices=[]):
                model, info = model_class.from_pretrained(self.folder, local_files_only=True, dtype=self.dtype, output_loading_info=True)
        except (OSError, RuntimeError, ValueError) as error:
            raise self.refuse(f"{model_class.__name__} does not load: {error}", "weights", "a whole checkpoint") from error
        missing = sorted(name for name in info["missing_keys"] if name not in may_miss)
        if missing:
            raise self.refuse(f"{len(missing)} weights of {model_class.__name__} are missing", missing[:3], "a whole checkpoint")
        return self.placed(model)

    def load_part(self, model: nn.Module, pattern: str) -> Any:
        """Fill a module with the tensors whose names match `pattern` (what follows the match is the name inside), and nothing else.

        Raises:
            ExpertError: tensors are missing, left over or of another shape.
        """
        found = self.tensors(pattern)
        try:
            model.load_state_dict({name: tensor.to(self.dtype) for name, tensor in found.items()}, strict=True)
        except RuntimeError as error:
            raise self.refuse(f"{type(model).__name__} does not load: {error}", "weights", "a whole checkpoint") from error
        return self.placed(model)

    def tensors(self, pattern: str) -> dict[str, Tensor]:
        """Return the tensors whose names match `pattern`, by what follows the match; no other is read from disk."""
        start, found = re.compile(pattern), {}
        for path in sorted(self.folder.glob("*.safetensors")):
            from safetensors import safe_open

            with safe_open(path, framework="pt") as file:
                found.update({start.sub("", name, count=1): file.get_tensor(name) for name in file.keys() if start.match(name)})  # noqa: SIM118
        if not found:
            for path in sorted(self.folder.glob("pytorch_model*.bin")):
                shard = torch.load(path, map_location="cpu", weights_only=True)
                found.update({start.sub("", name, count=1): tensor for name, tensor in shard.items() if start.match(name)})
        return found

    def placed(self, model: nn.Module) -> Any:
        """Return a model ready to run: evaluation mode, no gradients, the device and precision of params.

        Raises:
            OutOfMemoryError: the device is too small for the weights.
        """
        try:
            return model.eval().requires_grad_(False).to(device=self.settings.device, dtype=self.dtype)
        except torch.OutOfMemoryError as error:
            raise OutOfMemoryError(
                f"the weights of {self.implementation} do not fit on the device: {error}", field="experts.*.device",
                value=self.settings.device, next_step="stop what else runs on the device, give dtype: bfloat16, or device: cpu",
            ) from error  # fmt: skip

    def front_end(self, extractor_class: Any) -> Any:
        """Return the checkpoint's own feature extractor.

        Raises:
            ExpertError: the folder has no `preprocessor_config.json`.
        """
        try:
            return extractor_class.from_pretrained(self.folder, local_files_only=True)
        except (OSError, ValueError) as error:
            raise self.refuse(f"no front end: {error}", "no front end", "a folder with preprocessor_config.json") from error

    def layers(self, count: int, default: int) -> tuple[int, ...]:
        """Return the hidden layers that params ask for.

        Raises:
            ExpertError: the model has fewer.
        """
        wanted = self.settings.layers or (default,)
        if max(wanted) > count:
            raise ExpertError("the model has fewer hidden layers", field="experts.*.layers", value=list(wanted), allowed=f"1 to {count}",
                              next_step="mend params.yaml")  # fmt: skip
        return tuple(sorted(set(wanted)))

    def spec(
        self, kind: Kind, target: Target, *, rate_hz: float, sample_rate_hz: int, dim_names: tuple[str, ...],
        version: str = "1", layers: tuple[int, ...] = (),
    ) -> ExpertSpec:  # fmt: skip
        """Return the expert's spec; what the checkpoint says of itself is filled in."""
        return ExpertSpec(
            implementation=self.implementation, kind=kind, target=target, dim=len(dim_names), native_rate_hz=rate_hz,
            sample_rate_hz=sample_rate_hz, version=version, licence=self.choice.licence, commercial_use=self.choice.commercial_use,
            source=self.choice.source, dim_names=dim_names, checkpoint=self.choice.checkpoint, revision=self.choice.revision,
            layers=layers, fitted_on=self.choice.fitted_on, precision=self.settings.dtype,
        )  # fmt: skip


def open_published(
    implementation: str,
    settings: ExpertSettings,
    known: tuple[Known, ...],
    model_types: Sequence[str],
    *,
    prefix: str = "",
    layers: bool = False,
) -> Published:
    """Return the checkpoint that params choose, once its licence is accepted and its architecture is one we take.

    Args:
        implementation: of the expert, for messages.
        settings: the expert's section of params.
        known: the implementation's table of checkpoints.
        model_types: those that the implementation takes.
        prefix: only weight files with tensors named so are needed.
        layers: whether the implementation lets params choose hidden layers.

    Raises:
        ExpertError: the licence is not accepted, the folder holds another architecture or none, or layers are not to be chosen.
        DeviceError: this host has no such device.
        CheckpointError: the files are not on this disk and cannot be fetched.
    """
    choice = choose(settings, known)
    check_device(settings.device, "experts.*.device")
    if settings.layers is not None and not layers:
        raise ExpertError(f"{implementation} has one output; hidden layers are not chosen", field="experts.*.layers",
                          value=list(settings.layers), next_step="remove layers, or use speech_encoder")  # fmt: skip
    folder = checkpoint_folder(
        choice.checkpoint, choice.revision, field="experts.*.checkpoint", allow_moving=settings.allow_moving_revision, prefix=prefix
    )
    try:
        config = json.loads((folder / "config.json").read_text())
    except (OSError, ValueError) as error:
        raise ExpertError(f"a checkpoint without a readable config.json: {error}", field="experts.*.checkpoint", value=choice.checkpoint,
                          next_step="name the folder that holds config.json and the weights")  from error  # fmt: skip
    published = Published(implementation, choice, folder, config, settings)
    if config.get("model_type") not in model_types:
        found = f"model_type {config.get('model_type')!r}, architectures {config.get('architectures')}"
        raise published.refuse("it holds another architecture", found, sorted(model_types))
    return published


def numbered(prefix: str, count: int) -> tuple[str, ...]:
    """Return `prefix 0` … for dimensions that have no names of their own."""
    return tuple(f"{prefix} {dim}" for dim in range(count))
