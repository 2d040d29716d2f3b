"""Whether a device that params name is there: asked before anything is loaded, for torch itself would fail late or compute elsewhere."""

from __future__ import annotations

from coat_core.errors import DeviceError


def check_device(device: str, field: str) -> None:
    """Refuse a device that torch cannot use here.

    Args:
        device: `cpu`, `cuda`, `cuda:1` …
        field: the parameter or option that named it, for the message.

    Raises:
        DeviceError: torch has no such device here.
    """
    import torch

    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise DeviceError(
            f"no such device here: {str(error).splitlines()[0]}", field=field, value=device,
            allowed="cpu, or cuda on a host with a GPU and a CUDA build of torch",
            next_step="write cpu, or install the CUDA build (README, With published checkpoints); coat doctor says what is there",
        ) from error  # fmt: skip
