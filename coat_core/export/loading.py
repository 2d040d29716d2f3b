"""Loading of an export behind the interface of the backbones, for the commands that ask many questions."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from coat_core.backbones.base import Backbone
from coat_core.errors import ReleaseError
from coat_core.export.card import RECORD
from coat_core.storage import read_json


def is_export(folder: Path) -> bool:
    """Return whether a folder is an export."""
    return (folder / RECORD).is_file()


def load_export(
    folder: Path, *, device: str = "cpu", dtype: str | None = None, base: str | None = None
) -> tuple[Backbone, Mapping[str, Any]]:
    """Load an export, merged or as an adapter on its base, which is then merged in memory.

    Args:
        folder: the export.
        device: device of the weights.
        dtype: dtype of the weights; None: that of the export's parity gate.
        base: folder or hub id of the base of an adapter; None: as in its config.

    Returns:
        The backbone, and the content of `export.json`.

    Raises:
        ReleaseError: the folder is not an export, or the adapter does not load on its base.
        CheckpointError: the base is not on this disk and cannot be downloaded.
        DeviceError: this host has no such device.
        OutOfMemoryError: the device is too small.
    """
    from coat_core.backbones.catalogue import load_backbone
    from coat_core.thinking.front_end import load_front_end

    if not is_export(folder):
        raise ReleaseError("this folder is not an export", field=RECORD, value=str(folder), next_step="write one: coat export")
    record = read_json(folder / RECORD)
    dtype = dtype or record["parity"]["dtype"]
    if record["kind"] == "merged":
        backbone = load_backbone(record["backbone"], str(folder), dtype=dtype, device=device)
    else:
        config = read_json(folder / "adapter_config.json")
        revision = None if base else config.get("revision")
        backbone = load_backbone(
            record["backbone"], base or config["base_model_name_or_path"], revision=revision, dtype=dtype, device=device
        )
        backbone.model = _merged(backbone.model, folder, device)
    load_front_end(folder, backbone, None)
    return backbone, record


def _merged(model: Any, folder: Path, device: str) -> Any:
    from peft import PeftModel

    try:
        with warnings.catch_warnings():
            # PEFT 0.21 uses a deprecated name of transformers 5.
            warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*", category=FutureWarning)
            return PeftModel.from_pretrained(model, str(folder), torch_device=device).merge_and_unload().eval()
    except (ValueError, RuntimeError, KeyError, OSError) as error:
        raise ReleaseError(
            f"the adapter does not load on its base: {error}", field="base", value=str(folder), next_step="give the base: --base FOLDER"
        ) from error
