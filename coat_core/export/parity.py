"""The parity gate: compares the release as trained (the live model), its adapter under stock PEFT and the merged checkpoint.

The models are loaded one after the other, and only their logits are kept. The logits are compared at the positions that predict the
answer: the last position of the prompt, and one for each token of the live model's greedy answer, which all three get as input.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import torch
from torch import Tensor

from coat_core.backbones.base import SAMPLE_RATE_HZ, Query
from coat_core.errors import ReleaseError
from coat_core.seeding import make_generator

LARGEST_FLOAT32 = 1e-4
"""Largest difference between two logits in float32, absolute."""
LARGEST_SHARE = 0.1
"""Largest root mean square difference in 16 bits, relative to the spread (standard deviation) of the logits."""
TIE_STEPS = 2
"""In 16 bits, two tokens tie if their logits differ by at most this many steps of the dtype; rounding then decides."""
ANSWER_TOKENS = 12

Inputs = Callable[[Query], Mapping[str, Any]]


@dataclass(frozen=True)
class QueryResult:
    """The result of one model for one reference query.

    Attributes:
        prompt: ids of the prompt.
        answer: ids of the model's own greedy answer.
        logits: `[n + 1, V]` float32 on the CPU, after the last token of the prompt and after each token of the live answer.
    """

    prompt: list[int]
    answer: list[int]
    logits: Tensor


@dataclass(frozen=True)
class Pair:
    """The differences between two models over all reference queries. The fields are the keys in `export.json`.

    Attributes:
        first: name of the first model.
        second: name of the second model.
        largest: largest absolute difference between two logits.
        share: root mean square difference divided by the standard deviation of the first model's logits.
        answers: number of queries with equal greedy answers, token by token.
        ties: number of queries whose answers differ first where the live model's two candidates tie (16 bits only).
        probes: number of reference queries.
    """

    first: str
    second: str
    largest: float
    share: float
    answers: int
    ties: int
    probes: int


def reference_queries() -> list[Query]:
    """Return six synthetic clips (16 kHz, 0.4 to 3.1 s) with one question each, the same at every call."""
    noise = torch.randn(4 * SAMPLE_RATE_HZ, generator=make_generator("parity probes")).numpy()
    rows: list[tuple[float, str, Callable[[Any], Any]]] = [
        (1.5, "What do you hear?", lambda t: np.sin(2 * np.pi * 440 * t)),
        (0.4, "What sound is this? Choices: dog bark, siren, rain.", lambda t: noise[: len(t)] * np.exp(-6 * t)),
        (2.0, "Does the pitch go up or down? Choices: up, down.", lambda t: np.sin(2 * np.pi * (200 * t + 300 * t**2))),
        (3.1, "How many beeps do you hear?", lambda t: np.sin(2 * np.pi * 880 * t) * (np.sin(2 * np.pi * t) > 0.5)),
        (1.0, "Describe the sound in one sentence.", lambda t: 0.5 * noise[: len(t)]),
        (
            2.3,
            "Is someone speaking?",
            lambda t: sum(np.sin(2 * np.pi * 120 * k * t) / k for k in range(1, 20)) * (1 + np.sin(8 * np.pi * t)),
        ),
    ]
    queries = []
    for number, (duration_s, text, shape) in enumerate(rows):
        waveform = np.asarray(shape(np.arange(int(duration_s * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ), dtype=np.float64)
        waveform = (0.3 * waveform / np.abs(waveform).max()).astype(np.float32)
        queries.append(Query(key=f"reference {number}", waveform=waveform, text=text, name=f"reference query {number}"))
    return queries


@torch.no_grad()
def run_queries(
    model: Any, generation: Any, inputs: Inputs, queries: Sequence[Query], *, dtype: str, live: Sequence[QueryResult] | None = None
) -> list[QueryResult]:
    """Run a model on every query, one at a time.

    Args:
        model: a stock model, or one with an adapter.
        generation: generation config of the model.
        inputs: converts a query into the arguments of `generate`.
        queries: the reference queries.
        dtype: dtype of the model, to which the mel features are cast.
        live: the results of the live model, whose answers are the input after the prompt; None for the live model itself.
    """
    results = []
    greedy = copy.deepcopy(generation)
    greedy.max_new_tokens = ANSWER_TOKENS
    with _disable_tf32():
        for number, query in enumerate(queries):
            arguments = {name: _move(value, model.device, dtype) for name, value in inputs(query).items()}
            ids = arguments["input_ids"]
            answer = model.generate(**arguments, generation_config=greedy)[0, ids.shape[1] :]
            forced = answer if live is None else torch.tensor(live[number].answer, dtype=ids.dtype, device=ids.device)
            sequence = torch.cat([ids, forced[None]], dim=1)
            mask = torch.ones_like(sequence)
            logits = model(**{**arguments, "input_ids": sequence, "attention_mask": mask}).logits[0, ids.shape[1] - 1 :]
            results.append(QueryResult(ids[0].tolist(), answer.tolist(), logits.float().cpu()))
    return results


def compare(results: Mapping[str, Sequence[QueryResult]], dtype: str) -> list[Pair]:
    """Compare every pair of models; the first model is the live one.

    Args:
        results: name of a model → its results.
        dtype: dtype in which the models computed.

    Raises:
        ReleaseError: a prompt differs from that of the first model, or a logit is not finite.
    """
    first, *others = results
    for name in others:
        if [result.prompt for result in results[name]] != [result.prompt for result in results[first]]:
            raise ReleaseError(f"the prompt of {name} differs from that of {first}", field="prompt", next_step="fix the chat template")
    for name, own in results.items():
        if not all(bool(torch.isfinite(result.logits).all()) for result in own):
            raise ReleaseError("a logit is not finite", field="logits", value=name, next_step="try --dtype float32")
    return [_pair(one, two, results, dtype) for one, two in combinations(results, 2)]


def check(pairs: Sequence[Pair], dtype: str) -> None:
    """Check that the models of an export agree.

    float32: no logit differs by more than 1e-4, and all greedy answers are equal. 16 bits: all greedy answers are equal except for
    ties, and the root mean square difference is at most a tenth of the logits' spread.

    Raises:
        ReleaseError: a pair disagrees; the message lists every such pair.
    """
    failed = []
    for pair in pairs:
        apart = pair.largest > LARGEST_FLOAT32 if dtype == "float32" else pair.share > LARGEST_SHARE
        if apart or pair.answers + pair.ties < pair.probes:
            failed.append(describe(pair))
    if failed:
        raise ReleaseError(
            "the parity gate failed, nothing was written: " + "; ".join(failed), field="parity", value=dtype,
            allowed=f"logits within {LARGEST_FLOAT32:g} and equal answers" if dtype == "float32" else "equal greedy answers",
            next_step="export with --dtype bfloat16, which is compared by answers, and report the figures above"
            if dtype == "float32"
            else "export with --dtype float32, which has the smallest rounding errors, and report the figures above",
        )  # fmt: skip


def describe(pair: Pair) -> str:
    """Return one line about a pair."""
    ties = f", {pair.ties} differ at a tie" if pair.ties else ""
    return (
        f"{pair.first} and {pair.second}: largest difference {pair.largest:.2e} ({pair.share:.1e} of the spread), "
        f"{pair.answers} of {pair.probes} answers equal{ties}"
    )


def _pair(one: str, two: str, results: Mapping[str, Sequence[QueryResult]], dtype: str) -> Pair:
    live, first, second = next(iter(results.values())), results[one], results[two]
    equal = [a.answer == b.answer for a, b in zip(first, second, strict=True)]
    ties = 0
    for same, reference, a, b in zip(equal, live, first, second, strict=True):
        ties += not same and all(result.answer == reference.answer or _ties(reference, result, dtype) for result in (a, b))
    difference = torch.cat([(a.logits - b.logits).flatten() for a, b in zip(first, second, strict=True)])
    spread = torch.cat([a.logits.flatten() for a in first]).std()
    share = float(difference.square().mean().sqrt() / spread)
    return Pair(one, two, float(difference.abs().max()), share, sum(equal), ties, len(equal))


def _ties(live: QueryResult, other: QueryResult, dtype: str) -> bool:
    """Return whether the live logits of the first two tokens that differ are too close for 16 bits to distinguish them."""
    if dtype == "float32":
        return False
    at = next((i for i, (a, b) in enumerate(zip(live.answer, other.answer, strict=False)) if a != b), None)
    if at is None:
        return False
    first, second = live.logits[at, live.answer[at]], live.logits[at, other.answer[at]]
    step = torch.finfo(getattr(torch, dtype)).eps * 2.0 ** float(first.abs().clamp_min(1e-6).log2().floor())
    return bool(float((first - second).abs()) <= TIE_STEPS * step)


def _move(value: Tensor, device: Any, dtype: str) -> Tensor:
    return value.to(device, getattr(torch, dtype)) if value.is_floating_point() else value.to(device)


@contextmanager
def _disable_tf32() -> Iterator[None]:
    """Disable TF32 in convolutions: on a GPU, TF32 alone causes differences above the limit for float32."""
    allowed = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = allowed
