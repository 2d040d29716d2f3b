"""Latency of two trials of one backbone, on merged models, in one process.

`measure_latency` forces a fixed number of decoded tokens: time to the first token and time per token. `measure_described_latency` compares
with a text before the answer (arm `described`): both trials answer until their end of turn.

A timing covers the mel front end, the chat template, the audio tower, the prefill and the decoding; reading the audio file is not included.
The trials alternate clip by clip and their order is reversed every other time, so that changes in the machine's speed affect both.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from coat_core.backbones.base import Backbone, Query
from coat_core.corpus.examples import Example
from coat_core.description import DESCRIPTION_TOKENS
from coat_core.errors import EvaluationError
from coat_core.evaluation.generate import clips_of, query_of, stop_ids
from coat_core.settings import LatencySettings
from coat_core.storage import write_json

if TYPE_CHECKING:
    from coat_core.thinking.release import Release

Timings = dict[str, list[dict[str, float]]]
MAX_TOKENS = DESCRIPTION_TOKENS + 64
"""Tokens after which an answer is cut off in `measure_described_latency`."""
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
    loaded, queries = _load(releases, (settings.baseline, settings.candidate), examples, corpus, settings, device, dtype, attention)
    block = loaded[settings.candidate].block
    thinking = frozenset(block.trainable_token_ids) if block is not None else frozenset()
    timings = time_alternately({trial: release.backbone for trial, release in loaded.items()}, queries, settings, thinking)
    result = {
        **_conditions(loaded[settings.candidate], queries, settings, device),
        "new_tokens": settings.new_tokens,
        "decoded_tokens_added": int(max(row["thinking_tokens"] for row in timings[settings.candidate])),
        **summarise_timings(timings, settings.baseline, settings.candidate),
    }
    write_json(target, result)
    return result


def measure_described_latency(
    releases: Mapping[str, Path],
    described: str,
    examples: Sequence[Example],
    corpus: Path,
    settings: LatencySettings,
    target: Path,
    *,
    device: str = "cpu",
    dtype: str | None = None,
    attention: str = "sdpa",
) -> dict[str, Any]:
    """Time the candidate against a trial of arm `described`, each until its end of turn, and write the result to `target` (JSON).

    Args:
        releases: trial → release folder; must contain `settings.candidate` and `described`.
        described: the trial that writes the experts' outputs as text before its answer.
        examples: as in `measure_latency`, as are the arguments below.
        corpus: folder that audio paths are relative to.
        settings: the latency section; `new_tokens` and `baseline` are not used.
        target: file to write.
        device: `cpu` or `cuda`.
        dtype: dtype of the base's weights; None: the dtype that the release was trained with.
        attention: attention implementation of the model.

    Returns:
        The content of `target`. Ratios are candidate ÷ described, paired by clip and repeat.

    Raises:
        EvaluationError: a trial is missing, or there is no example.
        ReleaseError: a release cannot be loaded.
    """
    loaded, queries = _load(releases, (described, settings.candidate), examples, corpus, settings, device, dtype, attention)
    backbones = {trial: release.backbone for trial, release in loaded.items()}
    rows = _alternate(backbones, queries, settings.repeats, lambda backbone, query: time_answer(backbone, query, MAX_TOKENS))
    result = {
        **_conditions(loaded[settings.candidate], queries, settings, device),
        "max_tokens": MAX_TOKENS,
        "finished": {trial: round(statistics.mean(row["finished"] for row in timings), 4) for trial, timings in rows.items()},
        **summarise_timings(rows, described, settings.candidate),
    }
    write_json(target, result)
    return result


def _load(
    releases: Mapping[str, Path],
    trials: Sequence[str],
    examples: Sequence[Example],
    corpus: Path,
    settings: LatencySettings,
    device: str,
    dtype: str | None,
    attention: str,
) -> tuple[dict[str, Release], list[Query]]:
    from coat_core.thinking.release import load_release

    missing = [trial for trial in trials if trial not in releases]
    if missing:
        raise EvaluationError("a trial to time is missing", field="latency", value=missing, allowed=sorted(releases), next_step="train it")
    loaded = {trial: load_release(releases[trial], merge=True, device=device, dtype=dtype, attention=attention) for trial in trials}
    clips = clips_of(corpus)
    return loaded, [query_of(example, clips) for example in spread_over_durations(examples, settings.clips)]


def _conditions(release: Release, queries: Sequence[Query], settings: LatencySettings, device: str) -> dict[str, Any]:
    return {
        "backbone": release.info.backbone, "device": device, "threads": torch.get_num_threads(), "clips": len(queries),
        "clip_s": [round(len(query.waveform) / 16_000, 3) for query in queries], "repeats": settings.repeats,
    }  # fmt: skip


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


def time_alternately(
    backbones: Mapping[str, Backbone], queries: Sequence[Query], settings: LatencySettings, thinking: Collection[int] = ()
) -> Timings:
    """Return per trial one row of timings for each repeat of each clip, aligned between trials, after one unrecorded warm-up."""
    return _alternate(
        backbones, queries, settings.repeats, lambda backbone, query: time_once(backbone, query, settings.new_tokens, thinking)
    )


def _alternate(
    backbones: Mapping[str, Backbone], queries: Sequence[Query], repeats: int, measure: Callable[[Backbone, Query], dict[str, float]]
) -> Timings:
    rows: Timings = {trial: [] for trial in backbones}
    trials = list(backbones)
    for repeat in range(repeats + 1):
        for number, query in enumerate(queries[:1] if repeat == 0 else queries):
            for trial in trials if (repeat + number) % 2 == 0 else trials[::-1]:
                timing = measure(backbones[trial], query)
                if repeat:
                    rows[trial].append(timing)
    return rows


def time_once(backbone: Backbone, query: Query, new_tokens: int, thinking: Collection[int] = ()) -> dict[str, float]:
    """Answer one query with exactly `new_tokens` tokens; return the timings in seconds and the numbers of prompt and decoded tokens.

    `thinking_tokens` is the number of decoded tokens with an id of `thinking`: the block is part of the prompt, so there should be none.
    """
    timing, ids = _time(backbone, query, max_new_tokens=new_tokens, min_new_tokens=new_tokens)
    return {**timing, "thinking_tokens": sum(token in thinking for token in ids)}


def time_answer(backbone: Backbone, query: Query, max_tokens: int) -> dict[str, float]:
    """Answer one query until the end of turn, with at most `max_tokens` tokens.

    Returns:
        The values of `time_once`, and `finished`: 1 if the answer ended, 0 if it was cut off.
    """
    timing, ids = _time(backbone, query, max_new_tokens=max_tokens)
    return {**timing, "finished": float(ids[-1] in stop_ids(backbone))}


@torch.inference_mode()
def _time(backbone: Backbone, query: Query, **limits: int) -> tuple[dict[str, float], list[int]]:
    model: Any = backbone.model
    clock = _Clock(model.device)
    started = _synchronized_time(model.device)
    batch = backbone.encode([query], generation=True)
    inputs = backbone.generation_inputs(batch)
    output = model.generate(**inputs, **limits, do_sample=False, stopping_criteria=[clock])
    total = _synchronized_time(model.device) - started
    ids = output[0, batch.input_ids.shape[1] :].tolist()
    first = clock.ticks[0] - started
    per_token = (clock.ticks[-1] - clock.ticks[0]) / (len(ids) - 1) if len(ids) > 1 else 0.0
    timing = {"first_token_s": first, "decode_s_per_token": per_token, "total_s": total, "prompt_tokens": batch.input_ids.shape[1]}
    return {**timing, "decoded_tokens": len(ids)}, ids


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
