"""Mel features: this project's, for a clip's true length, against the stock feature extractor as each published processor calls it.

    python -m benchmarks.frontend [--seconds 1 5 30 120] [--repeats 15] [--threads 1] [--json FILE]

Both sides process the same clip (noise: the time does not depend on it) with the published front ends: 128 mels; Qwen2.5-Omni padded
to 300 s, Qwen2-Audio to 30 s, Audio Flamingo 3 split into windows of 30 s. Qwen2-Audio's processor is limited to 30 s. Both are timed
alternately in one process; the result is the median of all repeats. Peak memory is measured in a child process that is forked before
any computation: the growth of its peak resident set (VmHWM) during one call. It is available on Linux only.

The exit status is 1 if a target is missed: equal on valid frames to 1e-6, the same number of audio tokens, never slower, never more
memory, and for Qwen2.5-Omni ten times faster at 5 s.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.machine import describe_machine, print_machine

Waveform = NDArray[np.float32]
RATE_HZ = 16_000
CHUNK_S = {"qwen2_audio": 30, "qwen2_5_omni": 300, "audio_flamingo_3": 30}
"""`chunk_length` of the published preprocessor configurations."""
LONGEST_S = {"qwen2_audio": 30, "qwen2_5_omni": 300, "audio_flamingo_3": 600}
TOLERANCE = 1e-6
OMNI_TARGET = 10.0


@dataclass
class Row:
    """One backbone on one clip: medians in ms, growth of peak memory and size of the features in MiB, and the comparison."""

    backbone: str
    seconds: float
    stock_ms: float
    ours_ms: float
    ratio: float
    stock_peak_mib: float
    ours_peak_mib: float
    stock_features_mib: float
    ours_features_mib: float
    difference: float
    stock_tokens: int
    ours_tokens: int

    def missed(self) -> list[str]:
        """Return the targets that this row misses."""
        least = OMNI_TARGET if self.backbone == "qwen2_5_omni" and self.seconds == 5 else 1.0
        checks = {
            f"{self.difference:.1e} from stock, allowed {TOLERANCE}": self.difference <= TOLERANCE,
            f"{self.ours_tokens} tokens, stock {self.stock_tokens}": self.ours_tokens == self.stock_tokens,
            f"{self.ratio:.2f} times as fast, target {least:g}": self.ratio >= least,
            f"peak memory {self.ours_peak_mib:.1f} MiB, stock {self.stock_peak_mib:.1f}": self.ours_peak_mib <= self.stock_peak_mib,
        }
        return [f"{self.backbone} {self.seconds:g} s: {text}" for text, met in checks.items() if not met]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, nargs="+", default=[1, 5, 30, 120])
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()

    import torch

    torch.set_num_threads(options.threads)
    cases = [(key, seconds) for key in CHUNK_S for seconds in options.seconds if seconds <= LONGEST_S[key]]
    # Memory first: a child forked after a computation reuses freed memory, which makes its peak too small.
    peaks = {case: measure_memory(*case) for case in cases}
    machine = describe_machine()
    print_machine(machine)
    print(f"{'':17s} {'clip':>6s} | {'stock':>9s} {'ours':>9s} {'ratio':>6s} | {'peak MiB: stock':>15s} {'ours':>6s} | "
          f"{'features MiB':>12s} {'ours':>6s} | {'difference':>10s} {'tokens':>6s}")  # fmt: skip
    rows = []
    for key, seconds in cases:
        row = compare(key, seconds, options.repeats, peaks[key, seconds])
        rows.append(row)
        print(f"{key:17s} {seconds:4g} s | {row.stock_ms:6.1f} ms {row.ours_ms:6.2f} ms {row.ratio:6.2f} | {row.stock_peak_mib:15.1f} "
              f"{row.ours_peak_mib:6.1f} | {row.stock_features_mib:12.2f} {row.ours_features_mib:6.2f} | {row.difference:10.1e} "
              f"{row.ours_tokens:6d}")  # fmt: skip
    missed = [line for row in rows for line in row.missed()]
    if options.json:
        result = {"machine": machine, "repeats": options.repeats, "rows": [asdict(row) for row in rows], "missed": missed}
        options.json.write_text(json.dumps(result, indent=1) + "\n")
    print("\n".join(f"MISSED {line}" for line in missed) if missed else "all targets met")
    return 1 if missed else 0


def sides(key: str, seconds: float) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """Return the stock call and `log_mel` on one clip; each returns features, and the valid frames of each row."""
    from transformers import WhisperFeatureExtractor

    from coat_core.backbones.mel import log_mel

    extractor = WhisperFeatureExtractor(feature_size=128, chunk_length=CHUNK_S[key], return_attention_mask=True)
    waveform = (0.1 * np.random.default_rng(0).standard_normal(round(seconds * RATE_HZ))).astype(np.float32)
    window = None if key == "qwen2_5_omni" else int(extractor.n_samples)

    def stock() -> Any:
        # As in `_process_audio` of the three processors; Audio Flamingo 3's splits the clip into windows first.
        pieces = [waveform[n : n + window] for n in range(0, len(waveform), window)] if key == "audio_flamingo_3" else [waveform]
        found = extractor(
            extractor.fetch_audio(pieces), sampling_rate=RATE_HZ, padding="max_length", return_attention_mask=True, return_tensors="pt"
        )
        return found["input_features"], found["attention_mask"].sum(-1)

    def ours() -> Any:
        mel = log_mel(extractor, [waveform], window)
        return mel.features, mel.frames

    return stock, ours


def compare(key: str, seconds: float, repeats: int, peaks: tuple[float, float]) -> Row:
    """Time both sides alternately, and compare their results."""
    from coat_core.backbones.mel import token_count

    stock, ours = sides(key, seconds)
    times: dict[Any, list[float]] = {stock: [], ours: []}
    for repeat in range(repeats + 1):
        for side in (stock, ours) if repeat % 2 else (ours, stock):
            started = time.perf_counter()
            side()
            if repeat:
                times[side].append((time.perf_counter() - started) * 1000)
    (features, valid), (mine, frames) = stock(), ours()
    # Stock returns one row per window, `log_mel` one row per clip; every window except the last is full.
    whole = features.transpose(0, 1).flatten(1)
    stock_ms, ours_ms = statistics.median(times[stock]), statistics.median(times[ours])
    return Row(
        backbone=key, seconds=seconds, stock_ms=stock_ms, ours_ms=ours_ms, ratio=stock_ms / ours_ms,
        stock_peak_mib=peaks[0], ours_peak_mib=peaks[1],
        stock_features_mib=features.nbytes / 2**20, ours_features_mib=mine.nbytes / 2**20,
        difference=float((mine[0] - whole[:, : mine.shape[-1]]).abs().max()),
        stock_tokens=sum(((int(count) - 1) // 2 + 1 - 2) // 2 + 1 for count in valid), ours_tokens=token_count(int(frames)),
    )  # fmt: skip


def measure_memory(key: str, seconds: float) -> tuple[float, float]:
    """Return the growth of a new process's peak memory during one stock call and during one `log_mel` call, in MiB."""
    context = multiprocessing.get_context("fork")
    found = []
    for side in (0, 1):
        receiver, sender = context.Pipe(duplex=False)
        child = context.Process(target=_report_growth, args=(key, seconds, side, sender))
        child.start()
        found.append(float(receiver.recv()))
        child.join()
    return found[0], found[1]


def _report_growth(key: str, seconds: float, side: int, sender: Any) -> None:
    warm, call = sides(key, 0.5)[side], sides(key, seconds)[side]
    # The first call initialises the tables of the libraries. `malloc_trim` returns freed memory to the system.
    warm()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    before = _status("VmRSS")
    call()
    sender.send(max(_status("VmHWM") - before, 0) / 1024)


def _status(name: str) -> int:
    """Return one line of /proc/self/status in KiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(name + ":")).split()[1])


if __name__ == "__main__":
    sys.exit(main())
