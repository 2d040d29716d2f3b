"""The parity gate: the release as it was trained, its adapter under stock PEFT and the merged checkpoint say the same.

Each is loaded alone, one after the other; only logits are kept. They are compared at the positions that write the answer: the last of
the prompt, and one for each token of the live model's greedy answer (all three read that same answer).
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
"""Largest root mean square difference in 16 bits, as a share of the spread (standard deviation) of the logits."""
TIE_STEPS = 2
"""In 16 bits two tokens tie whose logits are this many steps of the format apart; which one wins is rounding."""
ANSWER_TOKENS = 12

Inputs = Callable[[Query], Mapping[str, Any]]


@dataclass(frozen=True)
class Reading:
    """What one model makes of one probe.

    Attributes:
        prompt: ids of the prompt.
        answer: ids of its own greedy answer.
        logits: `[n + 1, V]` float32 on the CPU, behind the last prompt token and each token of the live answer.
    """

    prompt: list[int]
    answer: list[int]
    logits: Tensor


@dataclass(frozen=True)
class Pair:
    """How two models compare over all probes.

    Attributes:
        first: name of one.
        second: name of the other.
        largest: largest absolute difference between two logits.
        share: root mean square difference over the standard deviation of the first's logits.
        answers: probes whose greedy answers are the same, token by token.
        ties: probes whose answers part where the live model's two candidates tie (16 bits only).
        probes: number of probes.
    """

    first: str
    second: str
    largest: float
    share: float
    answers: int
    ties: int
    probes: int


def probe_queries() -> list[Query]:
    """Return the probe set: six made clips (16 kHz, 0.4 to 3.1 s) with a question each, the same at every call."""
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
        queries.append(Query(key=f"probe {number}", waveform=waveform, text=text, name=f"probe {number}"))
    return queries


@torch.no_grad()
def read_probes(
    model: Any, generation: Any, inputs: Inputs, probes: Sequence[Query], *, dtype: str, live: Sequence[Reading] | None = None
) -> list[Reading]:
    """Ask a model every probe, one at a time.

    Args:
        model: a stock model, or one with an adapter.
        generation: its generation config.
        inputs: gives the arguments of `generate` for a probe.
        probes: the probe set.
        dtype: of the model, for the mel features.
        live: the live model's readings, whose answers are read; None for the live model itself.
    """
    readings = []
    greedy = copy.deepcopy(generation)
    greedy.max_new_tokens = ANSWER_TOKENS
    with _exact_convolutions():
        for number, probe in enumerate(probes):
            given = {name: _placed(value, model.device, dtype) for name, value in inputs(probe).items()}
            ids = given["input_ids"]
            said = model.generate(**given, generation_config=greedy)[0, ids.shape[1] :]
            read = said if live is None else torch.tensor(live[number].answer, dtype=ids.dtype, device=ids.device)
            whole = torch.cat([ids, read[None]], dim=1)
            mask = torch.ones_like(whole)
            logits = model(**{**given, "input_ids": whole, "attention_mask": mask}).logits[0, ids.shape[1] - 1 :]
            readings.append(Reading(ids[0].tolist(), said.tolist(), logits.float().cpu()))
    return readings


def compare(readings: Mapping[str, Sequence[Reading]], dtype: str) -> list[Pair]:
    """Compare each two of the models that were read; the first is the live one.

    Raises:
        ReleaseError: a prompt is not that of the first model, or a logit is not finite.
    """
    first, *others = readings
    for name in others:
        if [reading.prompt for reading in readings[name]] != [reading.prompt for reading in readings[first]]:
            raise ReleaseError(f"{name} is asked another prompt than {first}", field="prompt", next_step="mend the chat template")
    for name, made in readings.items():
        if not all(bool(torch.isfinite(reading.logits).all()) for reading in made):
            raise ReleaseError("a logit is not finite", field="logits", value=name, next_step="try --dtype float32")
    return [_pair(one, two, readings, dtype) for one, two in combinations(readings, 2)]


def check(pairs: Sequence[Pair], dtype: str) -> None:
    """Refuse an export whose parts disagree.

    float32: no logit differs by more than 1e-4, and all greedy answers are the same. 16 bits: all greedy answers are the
    same, ties aside, and the difference is below a tenth of the logits' spread.

    Raises:
        ReleaseError: a pair disagrees; every one is named.
    """
    wrong = []
    for pair in pairs:
        apart = pair.largest > LARGEST_FLOAT32 if dtype == "float32" else pair.share > LARGEST_SHARE
        if apart or pair.answers + pair.ties < pair.probes:
            wrong.append(describe(pair))
    if wrong:
        raise ReleaseError(
            "the parity gate failed, nothing was written: " + "; ".join(wrong), field="parity", value=dtype,
            allowed=f"logits within {LARGEST_FLOAT32:g} and equal answers" if dtype == "float32" else "equal greedy answers",
            next_step="export with --dtype bfloat16, which is judged by answers, and report the figures above"
            if dtype == "float32"
            else "export with --dtype float32, which rounds least, and report the figures above",
        )  # fmt: skip


def describe(pair: Pair) -> str:
    """Return one line about a pair."""
    ties = f", {pair.ties} parted at a tie" if pair.ties else ""
    return (
        f"{pair.first} and {pair.second}: largest difference {pair.largest:.2e} ({pair.share:.1e} of the spread), "
        f"{pair.answers} of {pair.probes} answers equal{ties}"
    )


def _pair(one: str, two: str, readings: Mapping[str, Sequence[Reading]], dtype: str) -> Pair:
    live, first, second = next(iter(readings.values())), readings[one], readings[two]
    equal = [a.answer == b.answer for a, b in zip(first, second, strict=True)]
    ties = 0
    for same, heard, a, b in zip(equal, live, first, second, strict=True):
        ties += not same and all(made.answer == heard.answer or _ties(heard, made, dtype) for made in (a, b))
    difference = torch.cat([(a.logits - b.logits).flatten() for a, b in zip(first, second, strict=True)])
    spread = torch.cat([a.logits.flatten() for a in first]).std()
    share = float(difference.square().mean().sqrt() / spread)
    return Pair(one, two, float(difference.abs().max()), share, sum(equal), ties, len(equal))


def _ties(live: Reading, made: Reading, dtype: str) -> bool:
    """Say whether an answer leaves the live one where 16 bits cannot tell the two candidates apart, by the live logits."""
    if dtype == "float32":
        return False
    at = next((i for i, (a, b) in enumerate(zip(live.answer, made.answer, strict=False)) if a != b), None)
    if at is None:
        return False
    chosen, other = live.logits[at, live.answer[at]], live.logits[at, made.answer[at]]
    step = torch.finfo(getattr(torch, dtype)).eps * 2.0 ** float(chosen.abs().clamp_min(1e-6).log2().floor())
    return bool(float((chosen - other).abs()) <= TIE_STEPS * step)


def _placed(value: Tensor, device: Any, dtype: str) -> Tensor:
    return value.to(device, getattr(torch, dtype)) if value.is_floating_point() else value.to(device)


@contextmanager
def _exact_convolutions() -> Iterator[None]:
    """Keep TF32 out of convolutions: on a GPU it alone would differ by more than float32's bound."""
    allowed = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = allowed
