"""What surrounds the loop: fixed compute, signals turned into a clean stop, a progress bar."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.utils.deterministic
from tqdm import tqdm

from coat_core.settings import RuntimeSettings


@contextmanager
def fixed_compute(runtime: RuntimeSettings) -> Iterator[None]:
    """Set what results depend on, within the context: the number of threads, and deterministic kernels."""
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    memory: Any = torch.utils.deterministic
    fill = memory.fill_uninitialized_memory
    # cuBLAS reads it when it is first used; without it its results vary from run to run.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.set_num_threads(runtime.threads)
    torch.use_deterministic_algorithms(True, warn_only=runtime.device != "cpu")
    # Nothing here reads memory that it did not write; filling it costs time at every operation.
    memory.fill_uninitialized_memory = False
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)
        memory.fill_uninitialized_memory = fill


@contextmanager
def stop_on_signals() -> Iterator[Callable[[], bool]]:
    """Give a question, "was a stop asked for?", that the first SIGINT or SIGTERM answers with yes.

    A second one takes its usual course. Outside the main thread, where python delivers no signals, nothing changes.
    """
    stopped = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stopped.is_set
        return
    usual = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def stop(number: int, frame: Any) -> None:
        stopped.set()
        signal.signal(number, usual[signal.Signals(number)])

    for number in usual:
        signal.signal(number, stop)
    try:
        yield stopped.is_set
    finally:
        for number, handler in usual.items():
            signal.signal(number, handler)


@contextmanager
def progress_bar(title: str, steps: int, *, shown: bool) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """Give a function that is told each step's row and shows stage, loss, rate and time left on stderr."""
    interval = 0.5 if sys.stderr.isatty() else 10.0
    with tqdm(desc=title, total=steps, unit="step", file=sys.stderr, disable=not shown, mininterval=interval, dynamic_ncols=True) as bar:

        def show(row: Mapping[str, Any]) -> None:
            if bar.n == 0 and row["step"] > 1:
                # A resumed run: the rate is that of the steps it takes itself.
                bar.initial = bar.n = bar.last_print_n = row["step"] - 1
            bar.set_postfix(stage=row["stage"], loss=f"{row['loss']:.3f}", refresh=False)
            bar.update()

        yield show
