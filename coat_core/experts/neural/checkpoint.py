"""Published checkpoints: architecture, weights and front end of a folder, and their errors."""

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
from coat_core.experts.neural.licences import KnownCheckpoint, SelectedCheckpoint, choose
from coat_core.hub import checkpoint_folder
from coat_core.settings import ExpertSettings

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint on this disk, and the settings it runs with."""

    implementation: str
    choice: SelectedCheckpoint
    folder: Path
    config: dict[str, Any]
    """Content of `config.json`."""
    settings: ExpertSettings

    @property
    def model_type(self) -> str:
        """The model type of transformers."""
        return str(self.config["model_type"])

    @property
    def dtype(self) -> torch.dtype:
        """Data type of weights and computation."""
        return _DTYPES[self.settings.dtype]

    def refuse(self, message: str, found: object, allowed: str | Sequence[object]) -> ExpertError:
        """Return the error for a checkpoint that the implementation cannot use."""
        return ExpertError(
            f"{self.implementation} cannot use this checkpoint: {' '.join(message.split())}", field="experts.*.checkpoint",
            value=f"{self.choice.checkpoint}: {found}", allowed=allowed, next_step="set another checkpoint, or another implementation",
        )  # fmt: skip

    def load(self, model_class: Any, *, may_miss: Sequence[str] = ()) -> Any:
        """Load a stock class with all its weights, in evaluation mode, on the device.

        Raises:
            ExpertError: weights are missing (except `may_miss`) or of another shape, or the folder has none.
        """
        try:
            with torch.random.fork_rng(devices=[]):
                model, info = model_class.from_pretrained(self.folder, local_files_only=True, dtype=self.dtype, output_loading_info=True)
        except (OSError, RuntimeError, ValueError) as error:
            raise self.refuse(f"{model_class.__name__} cannot be loaded: {error}", "weights", "a complete checkpoint") from error
        missing = sorted(name for name in info["missing_keys"] if name not in may_miss)
        if missing:
            raise self.refuse(f"{len(missing)} weights of {model_class.__name__} are missing", missing[:3], "a complete checkpoint")
        return self.placed(model)

    def load_part(self, model: nn.Module, pattern: str) -> Any:
        """Load the tensors whose names match `pattern` into a module; the rest of the name is the name in the module.

        Raises:
            ExpertError: tensors are missing, unexpected or of another shape.
        """
        found = self.tensors(pattern)
        try:
            model.load_state_dict({name: tensor.to(self.dtype) for name, tensor in found.items()}, strict=True)
        except RuntimeError as error:
            raise self.refuse(f"{type(model).__name__} cannot be loaded: {error}", "weights", "a complete checkpoint") from error
        return self.placed(model)

    def tensors(self, pattern: str) -> dict[str, Tensor]:
        """Return the tensors whose names match `pattern`, by the rest of the name; no other tensor is read from disk."""
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
        """Return a model in evaluation mode, without gradients, on the device and in the data type of params.

        Raises:
            OutOfMemoryError: the device is too small for the weights.
        """
        try:
            return model.eval().requires_grad_(False).to(device=self.settings.device, dtype=self.dtype)
        except torch.OutOfMemoryError as error:
            raise OutOfMemoryError(
                f"the weights of {self.implementation} do not fit on the device: {error}", field="experts.*.device",
                value=self.settings.device, next_step="stop other processes on the device, set dtype: bfloat16, or set device: cpu",
            ) from error  # fmt: skip

    def front_end(self, extractor_class: Any) -> Any:
        """Return the checkpoint's feature extractor.

        Raises:
            ExpertError: the folder has no `preprocessor_config.json`.
        """
        try:
            return extractor_class.from_pretrained(self.folder, local_files_only=True)
        except (OSError, ValueError) as error:
            raise self.refuse(f"it has no front end: {error}", "no front end", "a folder with preprocessor_config.json") from error

    def layers(self, count: int, default: int) -> tuple[int, ...]:
        """Return the hidden layers that params name, sorted, or the default.

        Raises:
            ExpertError: the model has fewer layers.
        """
        layers = self.settings.layers or (default,)
        if max(layers) > count:
            raise ExpertError("the model has fewer hidden layers", field="experts.*.layers", value=list(layers), allowed=f"1 to {count}",
                              next_step="fix params.yaml")  # fmt: skip
        return tuple(sorted(set(layers)))

    def spec(
        self, kind: Kind, target: Target, *, rate_hz: float, sample_rate_hz: int, dim_names: tuple[str, ...],
        version: str = "1", layers: tuple[int, ...] = (),
    ) -> ExpertSpec:  # fmt: skip
        """Return the expert's spec; the fields of the checkpoint are set here."""
        return ExpertSpec(
            implementation=self.implementation, kind=kind, target=target, dim=len(dim_names), native_rate_hz=rate_hz,
            sample_rate_hz=sample_rate_hz, version=version, licence=self.choice.licence, commercial_use=self.choice.commercial_use,
            source=self.choice.source, dim_names=dim_names, checkpoint=self.choice.checkpoint, revision=self.choice.revision,
            layers=layers, fitted_on=self.choice.fitted_on, precision=self.settings.dtype, window_s=self.settings.window_s,
            pool_frames=self.settings.pool_frames,
        )  # fmt: skip


def open_checkpoint(
    implementation: str,
    settings: ExpertSettings,
    known: tuple[KnownCheckpoint, ...],
    model_types: Sequence[str],
    *,
    prefix: str = "",
    layers: bool = False,
) -> Checkpoint:
    """Return the checkpoint that params name, after checking its licence and its architecture.

    Args:
        implementation: name of the expert's implementation.
        settings: the expert's section of params.
        known: the implementation's table of checkpoints.
        model_types: model types that the implementation supports.
        prefix: only weight files with tensors of this name prefix are needed.
        layers: whether params may choose hidden layers, and pool their frames.

    Raises:
        ExpertError: the licence is not accepted, the folder contains another architecture or none, or params choose layers, pooling or
            a window of a checkpoint that does not support it.
        DeviceError: this host has no such device.
        CheckpointError: the files are not on this disk and cannot be fetched.
    """
    choice = choose(settings, known)
    check_device(settings.device, "experts.*.device")
    if settings.layers is not None and not layers:
        raise ExpertError(f"{implementation} has one output; its hidden layers cannot be chosen", field="experts.*.layers",
                          value=list(settings.layers), next_step="remove layers, or use speech_encoder")  # fmt: skip
    if settings.pool_frames > 1 and not layers:
        raise ExpertError(f"{implementation} does not average its frames", field="experts.*.pool_frames", value=settings.pool_frames,
                          allowed="1", next_step="remove pool_frames, or use speech_encoder")  # fmt: skip
    folder = checkpoint_folder(
        choice.checkpoint, choice.revision, field="experts.*.checkpoint", allow_moving=settings.allow_moving_revision, prefix=prefix
    )
    try:
        config = json.loads((folder / "config.json").read_text())
    except (OSError, ValueError) as error:
        raise ExpertError(f"the checkpoint has no readable config.json: {error}", field="experts.*.checkpoint", value=choice.checkpoint,
                          next_step="set the folder that contains config.json and the weights") from error  # fmt: skip
    checkpoint = Checkpoint(implementation, choice, folder, config, settings)
    if config.get("model_type") not in model_types:
        found = f"model_type {config.get('model_type')!r}, architectures {config.get('architectures')}"
        raise checkpoint.refuse("it has another architecture", found, sorted(model_types))
    if settings.window_s is not None and not (layers and checkpoint.model_type == "whisper"):
        raise ExpertError("only Whisper's encoder has a window to shorten", field="experts.*.window_s", value=settings.window_s,
                          allowed="null", next_step="remove window_s")  # fmt: skip
    return checkpoint


def numbered(prefix: str, count: int) -> tuple[str, ...]:
    """Return the names `prefix 0`, `prefix 1`, … for dimensions without published names."""
    return tuple(f"{prefix} {dim}" for dim in range(count))
