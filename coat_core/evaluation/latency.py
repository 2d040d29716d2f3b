"""Time to the first token and time per decoded token of two trials, on merged models, in one process.

A timing covers the mel front end, the chat template, the audio tower, the prefill and the decoding of a fixed number of tokens;
reading the audio file is not included. The trials alternate clip by clip and their order is reversed every other time, so that
changes in the machine's speed affect both.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from coat_core.backbones.base import Backbone, Query
from coat_core.corpus.examples import Example
from coat_core.errors import EvaluationError
from coat_core.evaluation.generate import clips_of, query_of
from coat_core.settings import LatencySettings
from coat_core.storage import write_json

Timings = dict[str, list[dict[str, float]]]
_MEASURES = ("first_token_s", "decode_s_per_token", "total_s")


class _Clock:
    """Stopping criterion that never stops and records the time of each token."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.ticks: list[float] = []

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        self.ticks.append(_synchronized_time(self.device))
        return torch.zeros(input_ids.shape[0], dtype=torch.bool, device=input_ids.device)


def measure_latency(
    releases: Mapping[str, Path],
    examples: Sequence[Example],
    corpus: Path,
    settings: LatencySettings,
    target: Path,
    *,
    device: str = "cpu",
    dtype: str | None = None,
    attention: str = "sdpa",
) -> dict[str, Any]:
    """Time two releases of one backbone and write the result to `target` (JSON).

    Args:
        releases: trial → release folder; must contain `settings.baseline` and `settings.candidate`.
        examples: rows of the accepted manifest; clips of the test split are chosen, spread evenly over their durations.
        corpus: folder that audio paths are relative to.
        settings: the latency section.
        target: file to write.
        device: `cpu` or `cuda`.
        dtype: dtype of the base's weights; None: the dtype that the release was trained with.
        attention: attention implementation of the model.

    Raises:
        EvaluationError: a trial is missing, or there is no example.
        ReleaseError: a release cannot be loaded.
    """
    from coat_core.thinking.release import load_release

    trials = (settings.baseline, settings.candidate)
    missing = [trial for trial in trials if trial not in releases]
    if missing:
        raise EvaluationError("a trial to time is missing", field="latency", value=missing, allowed=sorted(releases), next_step="train it")
    loaded = {trial: load_release(releases[trial], merge=True, device=device, dtype=dtype, attention=attention) for trial in trials}
    clips = clips_of(corpus)
    queries = [query_of(example, clips) for example in spread_over_durations(examples, settings.clips)]
    timings = time_alternately({trial: release.backbone for trial, release in loaded.items()}, queries, settings)
    result = {
        "backbone": loaded[settings.candidate].info.backbone, "device": device, "threads": torch.get_num_threads(),
        "clips": len(queries), "clip_s": [round(len(query.waveform) / 16_000, 3) for query in queries], "repeats": settings.repeats,
        "new_tokens": settings.new_tokens, **summarise_timings(timings, settings.baseline, settings.candidate),
    }  # fmt: skip
    write_json(target, result)
    return result


def spread_over_durations(examples: Sequence[Example], count: int) -> list[Example]:
    """Return up to `count` examples of the test split (of all splits if it is empty), spread evenly over the durations.

    Raises:
        EvaluationError: there is no example.
    """
    pool = [example for example in examples if example.split == "test"] or list(examples)
    if not pool:
        raise EvaluationError("there is no clip to time", field="examples", next_step="check the accepted manifest")
    pool = sorted({example.sha256: example for example in pool}.values(), key=lambda example: (example.duration_s, example.id))
    count = min(count, len(pool))
    return [pool[(2 * i + 1) * len(pool) // (2 * count)] for i in range(count)]


def time_alternately(backbones: Mapping[str, Backbone], queries: Sequence[Query], settings: LatencySettings) -> Timings:
    """Return per trial one row of timings for each repeat of each clip, aligned between trials, after one unrecorded warm-up."""
    rows: Timings = {trial: [] for trial in backbones}
    trials = list(backbones)
    for repeat in range(settings.repeats + 1):
        for number, query in enumerate(queries[:1] if repeat == 0 else queries):
            for trial in trials if (repeat + number) % 2 == 0 else trials[::-1]:
                timing = time_once(backbones[trial], query, settings.new_tokens)
                if repeat:
                    rows[trial].append(timing)
    return rows


@torch.inference_mode()
def time_once(backbone: Backbone, query: Query, new_tokens: int) -> dict[str, float]:
    """Answer one query with exactly `new_tokens` tokens; return the timings in seconds and the numbers of prompt and decoded tokens."""
    model: Any = backbone.model
    clock = _Clock(model.device)
    started = _synchronized_time(model.device)
    batch = backbone.encode([query], generation=True)
    inputs = backbone.generation_inputs(batch)
    ids = model.generate(**inputs, max_new_tokens=new_tokens, min_new_tokens=new_tokens, do_sample=False, stopping_criteria=[clock])
    total = _synchronized_time(model.device) - started
    prompt, decoded = batch.input_ids.shape[1], ids.shape[1] - batch.input_ids.shape[1]
    first = clock.ticks[0] - started
    per_token = (clock.ticks[-1] - clock.ticks[0]) / (decoded - 1) if decoded > 1 else 0.0
    return {"first_token_s": first, "decode_s_per_token": per_token, "total_s": total, "prompt_tokens": prompt, "decoded_tokens": decoded}


def summarise_timings(timings: Timings, baseline: str, candidate: str) -> dict[str, Any]:
    """Return medians per trial, and per measure the median, minimum and maximum of the paired ratios candidate ÷ baseline."""
    trials = {}
    for trial, rows in timings.items():
        columns = {name: [row[name] for row in rows] for name in (*_MEASURES, "prompt_tokens", "decoded_tokens")}
        trials[trial] = {name: round(statistics.median(values), 6) for name, values in columns.items()}
    ratios = {}
    for name in _MEASURES:
        pairs = [(new[name], old[name]) for new, old in zip(timings[candidate], timings[baseline], strict=True)]
        each = [new / old for new, old in pairs if old > 0]
        if each:
            middle = round(statistics.median(each), 4)
            ratios[name] = {"median": middle, "min": round(min(each), 4), "max": round(max(each), 4), "pairs": len(each)}
    return {"baseline": baseline, "candidate": candidate, "trials": trials, "ratios": ratios}


def _synchronized_time(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
