"""Description of the machine, which benchmarks print with their results."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any


def describe_machine(device: str = "cpu") -> dict[str, Any]:
    """Return processor, cores, threads, versions, and the GPU if it is used."""
    import torch
    import transformers

    facts: dict[str, Any] = {
        "processor": _processor(), "cores": len(os.sched_getaffinity(0)), "threads": torch.get_num_threads(),
        "python": platform.python_version(), "torch": torch.__version__, "transformers": transformers.__version__,
    }  # fmt: skip
    if device.startswith("cuda"):
        properties = torch.cuda.get_device_properties(device)
        facts |= {"gpu": properties.name, "gpu_memory_gib": round(properties.total_memory / 2**30, 1), "cuda": torch.version.cuda}
    return facts


def print_machine(facts: dict[str, Any]) -> None:
    print("machine: " + ", ".join(f"{key} {value}" for key, value in facts.items()))


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
