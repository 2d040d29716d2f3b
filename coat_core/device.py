"""The compute device: availability, memory, and the out-of-memory error."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from coat_core.errors import DeviceError, OutOfMemoryError

if TYPE_CHECKING:
    import torch


def check_device(device: str, field: str) -> None:
    """Check that torch can use a device.

    Args:
        device: `cpu`, `cuda`, `cuda:1` …
        field: the parameter or option with the device, for the message.

    Raises:
        DeviceError: torch cannot use the device.
    """
    import torch

    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise DeviceError(
            f"no such device here: {str(error).splitlines()[0]}", field=field, value=device,
            allowed="cpu, or cuda on a host with a GPU and a CUDA build of torch",
            next_step="use cpu, or install the CUDA build (docs/published.md); coat doctor lists the devices",
        ) from error  # fmt: skip


@contextmanager
def explain_out_of_memory(device: torch.device, explain: Callable[[int], OutOfMemoryError]) -> Iterator[None]:
    """Context manager that replaces torch's out-of-memory error by one that names the parameter to change.

    Args:
        device: device of the computation.
        explain: called with the bytes that this process can use on the device; returns the error to raise.

    Raises:
        OutOfMemoryError: the code in the context ran out of memory.
    """
    import torch

    try:
        yield
    except torch.OutOfMemoryError as error:
        raise explain(budget_bytes(device)) from error


@contextmanager
def fixed_compute(device: str, threads: int) -> Iterator[None]:
    """Set the number of threads and deterministic kernels within the context; results depend on both.

    Args:
        device: device of the computation; on an accelerator, an operation without a deterministic kernel gives a warning.
        threads: number of threads of an operation.
    """
    import torch
    import torch.utils.deterministic

    before, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    memory: Any = torch.utils.deterministic
    fill = memory.fill_uninitialized_memory
    # cuBLAS reads this variable at its first use; without it, its results vary from run to run.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True, warn_only=device != "cpu")
    # No code here reads uninitialised memory, and filling it takes time at every operation.
    memory.fill_uninitialized_memory = False
    try:
        yield
    finally:
        torch.set_num_threads(before)
        torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)
        memory.fill_uninitialized_memory = fill


def release_memory() -> None:
    """Free the memory of models that are no longer referenced."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def budget_bytes(device: torch.device) -> int:
    """Return the bytes that this process can use: on a GPU the free and the reserved ones; on a CPU the host's memory."""
    if device.type == "cuda":
        import torch

        free, _ = torch.cuda.mem_get_info(device)
        return int(free + torch.cuda.memory_reserved(device))
    import psutil

    return int(psutil.virtual_memory().total)
