"""Time to the first token and decode rate with and without the thinking block, on merged models with the same random weights.

    python -m benchmarks.gpu_inference --backbone qwen2_audio [--batch 1 8] [--seconds 30] [--new-tokens 64] [--json FILE]
    python -m benchmarks.gpu_inference --backbone qwen2_audio --size tiny --device cpu     # the same code on a small model

**It has not been run on a GPU; there are no results.** `--size tiny --device cpu` only checks that the code runs.

The side with the block is merged as a release is (`ThinkingModel.merge`: LoRA into the weights, trainable tokens into the embedding);
the stock side has no block; they share the other weights. Both call the stock `generate`. The measured time is that of a request: mel
features, template, tower, prefill, then a fixed number of tokens. The sides alternate, every second time in reverse order; the ratios
are medians of pairs. The block's ids are suppressed, as in a release's generation configuration.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.full_size import QUESTION, build_lalm, longest_s, noise, synchronize, twin
from benchmarks.machine import describe_machine, print_machine

FIRST_TARGET, RATE_TARGET = 1.05, 0.99


class Clock:
    """A stopping criterion that never stops the generation: it records the time of each token."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.ticks: list[float] = []

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        """Record the time; return False for every row."""
        synchronize(self.device)
        self.ticks.append(time.perf_counter())
        return torch.zeros(input_ids.shape[0], dtype=torch.bool, device=input_ids.device)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", default="qwen2_audio", choices=["qwen2_audio", "qwen2_5_omni", "audio_flamingo_3"])
    parser.add_argument("--size", default="full", choices=["full", "tiny"])
    parser.add_argument(
        "--layers", type=int, help="number of layers of decoder and tower, for the full width if the full depth does not fit"
    )
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--seconds", type=float, default=30.0, help="length of each clip; limited by the tower")
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--params", type=Path, help="default: params/published.yaml, for a tiny model params.yaml")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("no GPU was found; --size tiny --device cpu runs the same code on a small model")
    return measure(options)


def measure(options: argparse.Namespace) -> int:
    from coat_core.settings import load_settings

    root = Path(__file__).resolve().parent.parent
    settings = load_settings(options.params or root / ("params.yaml" if options.size == "tiny" else "params/published.yaml"))
    machine = describe_machine(options.device)
    print_machine(machine)
    dtype = torch.float32 if options.size == "tiny" and options.device == "cpu" else torch.bfloat16
    stock = build_lalm(options.backbone, options.size, options.device, dtype, options.layers)
    options.seconds = min(options.seconds, longest_s(stock))
    thinking, suppressed = merged(twin(stock), settings)
    sides: dict[str, tuple[Any, dict[str, Any]]] = {"stock": (stock, {}), "block": (thinking, {"suppress_tokens": suppressed})}
    claimed = options.device != "cpu" and options.size == "full" and options.layers is None
    result: dict[str, Any] = {"machine": machine, "options": {k: str(v) for k, v in vars(options).items()}, "batches": {}}
    missed = []
    print(f"{options.backbone} {options.size}, clips of {options.seconds:g} s, {options.new_tokens} tokens, {options.repeats} pairs")
    for batch in options.batch:
        row = compare(sides, batch, options)
        result["batches"][batch] = row
        missed += [f"batch {batch}: {text}" for text in row["missed"]]
        without, with_block = row["stock"], row["block"]
        print(f"  batch {batch}: first token {without['first_s'] * 1000:.1f} ms stock, {with_block['first_s'] * 1000:.1f} ms with block, "
              f"ratio {row['first_ratio']:.3f} (target <= {FIRST_TARGET})\n"
              f"           decode {without['tokens_per_s']:.2f} tokens/s stock, {with_block['tokens_per_s']:.2f} with block, "
              f"ratio {row['rate_ratio']:.3f} (target >= {RATE_TARGET})\n"
              f"           prompt {without['prompt_tokens']} and {with_block['prompt_tokens']} tokens, "
              f"{row['extra_tokens']} extra decoded tokens (target 0)")  # fmt: skip
    if claimed:
        print("\n".join(f"MISSED {line}" for line in missed) if missed else "all targets met")
    else:
        print("not a full-size model on a GPU: targets do not apply")
    if options.json:
        options.json.write_text(json.dumps({**result, "missed": missed if claimed else None}, indent=1) + "\n")
    return 1 if claimed and missed else 0


def merged(backbone: Any, settings: Any) -> tuple[Any, list[int]]:
    """Return the backbone with a block, merged as a release is, and the suppressed ids."""
    from torch import nn

    from coat_core.thinking.block import ThinkingBlock
    from coat_core.thinking.model import ThinkingModel

    block = ThinkingBlock.install(backbone, settings.thinking)
    model = ThinkingModel(backbone, block, nn.ModuleDict(), settings.lora, settings.losses, 0)
    backbone.model = model.merge().eval()
    return backbone, list(block.trainable_token_ids)


def compare(sides: dict[str, tuple[Any, dict[str, Any]]], batch: int, options: argparse.Namespace) -> dict[str, Any]:
    """Time both sides alternately; the first pair is a warm-up and is not recorded."""
    names = list(sides)
    rows: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    for repeat in range(options.repeats + 1):
        for name in names if repeat % 2 else names[::-1]:
            found = answer(*sides[name], batch, options)
            if repeat:
                rows[name].append(found)
    pairs = list(zip(rows["block"], rows["stock"], strict=True))
    first = statistics.median(one["first_s"] / other["first_s"] for one, other in pairs)
    rate = statistics.median(one["tokens_per_s"] / other["tokens_per_s"] for one, other in pairs)
    extra = int(max(one["decoded"] - other["decoded"] for one, other in pairs))
    checks = {
        f"first token {first:.3f} x": first <= FIRST_TARGET,
        f"decode rate {rate:.3f} x": rate >= RATE_TARGET,
        f"{extra} extra decoded tokens": extra == 0,
    }
    middle = {name: {key: statistics.median(row[key] for row in found) for key in found[0]} for name, found in rows.items()}
    return {**middle, "first_ratio": first, "rate_ratio": rate, "extra_tokens": extra, "pairs": rows,
            "missed": [text for text, met in checks.items() if not met]}  # fmt: skip


@torch.inference_mode()
def answer(backbone: Any, extra: dict[str, Any], batch: int, options: argparse.Namespace) -> dict[str, float]:
    """Answer a batch with exactly `options.new_tokens` tokens, and return the times."""
    from coat_core.backbones.base import Query

    queries = [Query(str(i), noise(options.seconds, i), QUESTION) for i in range(batch)]
    clock = Clock(options.device)
    synchronize(options.device)
    started = time.perf_counter()
    encoded = backbone.encode(queries, generation=True)
    ids = backbone.model.generate(
        **backbone.generation_inputs(encoded), max_new_tokens=options.new_tokens, min_new_tokens=options.new_tokens, do_sample=False,
        stopping_criteria=[clock], **extra,
    )  # fmt: skip
    decode = clock.ticks[-1] - clock.ticks[0]
    prompt = encoded.input_ids.shape[1]
    return {
        "first_s": clock.ticks[0] - started, "tokens_per_s": batch * (len(clock.ticks) - 1) / decode, "prompt_tokens": prompt,
        "decoded": ids.shape[1] - prompt,
    }  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
