"""The compute device: whether it exists, how much memory it offers, and errors for when that memory runs out."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from coat_core.errors import DeviceError, OutOfMemoryError

if TYPE_CHECKING:
    import torch


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


@contextmanager
def memory_watch(device: torch.device, explain: Callable[[int], OutOfMemoryError]) -> Iterator[None]:
    """Translate torch's out-of-memory error into one that names the parameter to change.

    Args:
        device: where the block computes.
        explain: takes the bytes that this process may use there, and returns the error to raise.

    Raises:
        OutOfMemoryError: memory ran out in the block.
    """
    import torch

    try:
        yield
    except torch.OutOfMemoryError as error:
        raise explain(budget_bytes(device)) from error


def release_memory() -> None:
    """Free the memory of models that are no longer referenced."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def budget_bytes(device: torch.device) -> int:
    """Return the bytes of the device that this process holds or that are free; of the host's memory for a CPU."""
    if device.type == "cuda":
        import torch

        free, _ = torch.cuda.mem_get_info(device)
        return int(free + torch.cuda.memory_reserved(device))
    import psutil

    return int(psutil.virtual_memory().total)
