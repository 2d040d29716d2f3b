"""Trainings in several processes on a CPU (gloo), started as `torchrun` would start them, and what one of these processes does."""

from __future__ import annotations

import gc
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from coat_core.servers import free_port
from tests.testing.tiny_training import EXPERTS, World, make_corpus, one_step

HANG_S = 1800.0
ROOT = Path(__file__).resolve().parents[2]


def run_ranks(call: str, output: Path, *, count: int = 2, **arguments: Any) -> list[Any]:
    """Run a function of this module in processes and return what each returned; an assertion fails with the log of a rank that failed.

    Args:
        call: `steps` or `training`.
        output: an empty folder.
        count: number of processes.
        **arguments: keyword arguments of the function, as JSON.
    """
    shared = {
        **os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count),
        "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true", "PYTHONPATH": str(ROOT),
    }  # fmt: skip
    command = [sys.executable, "-m", "tests.testing.ranks", call, str(output), json.dumps(arguments, default=str)]
    logs = [(output / f"{rank}.log").open("w+") for rank in range(count)]
    processes = [
        subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)})
        for rank, log in enumerate(logs)
    ]
    try:
        while any(process.poll() is None for process in processes) and not any(process.poll() for process in processes):
            time.sleep(0.1)
        # The others wait for a rank that failed, or fail after it.
        failed = [Path(log.name).read_text()[-3000:] for process, log in zip(processes, logs, strict=True) if process.poll()]
        assert not failed, "\n".join(failed)
    finally:
        for process, log in zip(processes, logs, strict=True):
            process.kill()
            process.wait()
            log.close()
    return [torch.load(output / f"{rank}.pt", weights_only=True) for rank in range(count)]


def steps(output: Path, folder: str, cases: Sequence[Mapping[str, Any]]) -> list[Any]:
    """Take the first step of arm coat for each case (arguments of `one_step`); return gradients, row and memory of each."""
    examples = make_corpus(output / f"rank-{os.environ['RANK']}")
    found = []
    for case in cases:
        before = _live_bytes()
        held: dict[str, int] = {}
        gradients, row = one_step(Path(folder), examples, output, **case, inspect=lambda model, held=held: held.update(_held(model)))
        found.append((gradients, row, {**held, "before": before}))
    return found


def training(output: Path, folder: str, trial: str, kill: Sequence[int] = (-1, 0), alone: Sequence[int] = (), **sections: Any) -> list[int]:
    """Train into `output` and return how many forwards of its own each step of this rank had.

    Args:
        output: the folder of all ranks.
        folder: folder of base and features.
        trial: the trial.
        kill: a rank, and the step (1 = first) in whose last forward it is killed.
        alone: ranks with an empty folder of their own.
        **sections: sections of params.
    """
    from coat_core.training.trainer import Trainer

    forwards: list[int] = []
    fill, forward = Trainer._with_fillers, Trainer._forward_backward
    rank = int(os.environ["RANK"])

    def counting(self: Trainer, window: Any) -> Any:
        forwards.append(len(window))
        return fill(self, window)

    def killing(self: Trainer, micro: Any, weights: Any, totals: Any, step: int, micro_step: int, *, last: bool) -> torch.Tensor:
        if [rank, step + 1] == list(kill) and last:
            print(f"killed in step {step + 1}", flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
        return forward(self, micro, weights, totals, step, micro_step, last=last)

    Trainer._with_fillers, Trainer._forward_backward = counting, killing  # type: ignore[method-assign]
    examples = make_corpus(output / f"rank-{rank}")
    world = World(Path(folder), examples, {key: Path(folder) / "features" / key for key in EXPERTS})
    world.train(output / f"alone-{rank}" if rank in alone else output, trial, world.settings(**sections))
    return forwards


def _held(model: Any) -> dict[str, int]:
    """Return how many numbers of the base a process holds, and the bytes of all live tensors."""
    from torch.distributed.tensor import DTensor

    sharded = [parameter for parameter in model.parameters() if isinstance(parameter, DTensor)]
    frozen = {name: p for name, p in model.backbone.model.named_parameters() if not p.requires_grad and not isinstance(p, DTensor)}
    tower = {*model.backbone.audio_state()}
    return {
        "whole": sum(parameter.numel() for parameter in sharded),
        "local": sum(parameter.to_local().numel() for parameter in sharded),
        "tower": sum(parameter.numel() for name, parameter in frozen.items() if name in tower),
        "other": sum(parameter.numel() for name, parameter in frozen.items() if name not in tower),
        "trained": sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad),
        "live": _live_bytes(),
    }


def _live_bytes() -> int:
    gc.collect()
    found = {}
    for item in gc.get_objects():
        if issubclass(type(item), torch.Tensor) and item.layout == torch.strided and item.device.type == "cpu":
            storage = getattr(item, "_local_tensor", item).untyped_storage()
            found[storage.data_ptr()] = storage.nbytes()
    return sum(found.values())


def main() -> None:
    """Run one process: its function's name, the output folder and the arguments as JSON."""
    import torch.distributed

    call, output, arguments = {"steps": steps, "training": training}[sys.argv[1]], Path(sys.argv[2]), json.loads(sys.argv[3])
    torch.save(call(output, **arguments), output / f"{os.environ['RANK']}.pt")
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
