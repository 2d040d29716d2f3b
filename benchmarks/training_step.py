"""Seconds per training step of a tiny base on one thread, for each arm, with cached audio embeddings.

    python -m benchmarks.training_step [--batch 16] [--seconds 3] [--backbone qwen2_audio] [--base bases/qwen2_audio] [--profile]

The clips are sweeps with noise, 0.7 to 1.3 times `--seconds` long, and the weights are random: the time depends on neither.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

EXPERTS = {"reconstruction": "log_mel", "speech": "mfcc", "events": "spectral_events", "affect": "prosody", "pitch": "f0_bins"}
TEXTS = ["Which sound is in this clip, and how many times?", "Choices: a high tone, a low tone, noise.", "a low tone", "noise"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--backbone", default="qwen2_audio")
    parser.add_argument("--base", type=Path, help="folder of a base; without it, the base has random weights")
    parser.add_argument("--arms", nargs="+", default=["sft", "block", "coat"])
    parser.add_argument("--profile", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        measure(options, Path(name))


def measure(options: argparse.Namespace, folder: Path) -> None:
    from coat_core.corpus.audio import write_flac
    from coat_core.corpus.examples import Example
    from coat_core.experts.store.extraction import extract_features
    from coat_core.settings import parse_settings
    from coat_core.storage import read_jsonl, sha256_file
    from coat_core.tiny_bases.config import save_random_base
    from coat_core.training.tracker import NullTracker
    from coat_core.training.train import train
    from coat_core.training.trainer import Trainer

    rng = np.random.default_rng(0)
    examples = []
    for number in range(options.batch * 2):
        samples = int(16000 * options.seconds * rng.uniform(0.7, 1.3))
        wave = 0.2 * np.sin(np.cumsum(np.linspace(0.05, 0.2, samples))) + 0.02 * rng.standard_normal(samples)
        path = folder / f"corpus/{number}.flac"
        path.parent.mkdir(exist_ok=True)
        write_flac(path, wave.astype(np.float32), 16000)
        examples.append(Example(
            id=str(number), audio=path.name, sha256=sha256_file(path), duration_s=samples / 16000, sample_rate_hz=16000, split="train",
            group=str(number), family="understanding", task="benchmark", question=TEXTS[0], choices=("a high tone", "a low tone", "noise"),
            answer="a low tone", source="benchmark", licence="CC0-1.0",
        ))  # fmt: skip
    for key, implementation in EXPERTS.items():
        extract_features(key, implementation, examples, folder / "corpus", folder / "features" / key)
    base = options.base or folder / "base"
    if options.base is None:
        save_random_base(options.backbone, base, texts=TEXTS * 50)
    settings = parse_settings({
        "backbones": {options.backbone: {"base": str(base)}}, "trials": ["base-0", "sft-0", "coat-0"],
        "experts": {key: {"implementation": value} for key, value in EXPERTS.items()},
        "corpus": {"clips_per_family": {"train": 1, "validation": 1, "test": 1}},
        "training": {
            "ground_steps": options.steps // 2, "respond_steps": options.steps // 2, "batch_size": options.batch, "checkpoint_every": 1000,
        },
    })  # fmt: skip
    times: dict[str, tuple[float, float]] = {}
    cpu_times: list[float] = []
    step = Trainer.step

    def timed(self: Trainer, number: int) -> dict[str, Any]:
        started = time.process_time()
        row = step(self, number)
        cpu_times.append(time.process_time() - started)
        return row

    Trainer.step = timed  # type: ignore[method-assign]
    for arm in options.arms:
        where = {"target": folder / "models" / arm, "records": folder / "runs" / arm, "scratch": folder / "scratch" / arm}

        def run(arm: str = arm, where: dict[str, Path] = where) -> None:
            train(
                settings, options.backbone, f"{arm}-0", examples=examples, corpus=folder / "corpus",
                features={key: folder / "features" / key for key in EXPERTS}, fingerprint=arm, tracker=NullTracker(), **where,
            )  # fmt: skip

        if options.profile:
            import cProfile
            import pstats

            with cProfile.Profile() as profile:
                run()
            pstats.Stats(profile).sort_stats("tottime").print_stats(30)
        else:
            run()
        # The first epoch fills the cache of audio embeddings.
        wall = statistics.median(row["seconds"] for row in read_jsonl(where["records"] / "history.jsonl")[4:])
        times[arm] = (wall, statistics.median(cpu_times[4:]))
        cpu_times.clear()
    for arm, (wall, cpu) in times.items():
        ratio = cpu / times[options.arms[0]][1]
        print(f"{options.backbone} {arm:14s} {wall:.3f} s a step, {cpu:.3f} s of CPU time, {ratio:.2f} x {options.arms[0]}")


if __name__ == "__main__":
    main()
