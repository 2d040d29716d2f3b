"""CPU time of each acoustic expert per second of audio on one core, compared with librosa's pyin at 100 Hz.

python -m benchmarks.experts [--seconds 8] [--repeats 5] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from coat_core.experts.catalogue import ACOUSTIC, load_expert

RATE = 16000
BUDGET = 0.06


def clip(seconds: float) -> np.ndarray:
    """Return a voice-like sound: a gliding harmonic tone in hiss, modulated at the rate of syllables."""
    time_s = np.arange(int(seconds * RATE)) / RATE
    phase = 2 * np.pi * np.cumsum(150 + 50 * np.sin(2 * np.pi * 0.7 * time_s)) / RATE
    voice = sum(np.sin(k * phase) / k for k in range(1, 20)) * (np.sin(2 * np.pi * 2 * time_s) > -0.2)
    return np.asarray(0.1 * voice + 0.01 * np.random.default_rng(0).standard_normal(len(time_s)), dtype=np.float32)


def cost(call: Callable[[], object], seconds: float, repeats: int) -> float:
    """Return the median CPU time of a call divided by the duration of the clip; a warm-up call is not counted."""
    call()
    times = []
    for _ in range(repeats):
        start = time.process_time()
        call()
        times.append(time.process_time() - start)
    return float(np.median(times)) / seconds


def measure(seconds: float, repeats: int, target: Path | None) -> None:
    sound = clip(seconds)
    lengths = np.array([len(sound)])
    rows: dict[str, float] = {}
    print("| expert | kind | d | frames/s | x real time |\n| --- | --- | ---: | ---: | ---: |")
    for name in ACOUSTIC:
        expert = load_expert(name)
        rows[name] = cost(lambda expert=expert: expert(sound[None], lengths), seconds, repeats)
        print(f"| `{name}` | {expert.spec.kind} | {expert.spec.dim} | {expert.spec.native_rate_hz:g} | {rows[name]:.4f} |")
    total = sum(rows.values())
    print(f"| **all {len(rows)}** | | | | **{total:.4f}** (budget {BUDGET}) |")

    import librosa

    pyin = cost(lambda: librosa.pyin(sound, sr=RATE, fmin=55, fmax=1760, frame_length=1024, hop_length=160), seconds, max(1, repeats // 2))
    print(f"| librosa.pyin | pitch alone | | 100 | {pyin:.4f} |")
    if target:
        target.write_text(json.dumps({"x_real_time": rows, "total": total, "pyin_100_hz": pyin}, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    with threadpool_limits(1):
        measure(options.seconds, options.repeats, options.json)


if __name__ == "__main__":
    main()
