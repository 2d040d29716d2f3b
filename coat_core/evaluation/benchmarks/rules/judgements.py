"""How scripts read the text of a judge: AIR-Bench Chat, and Alpaca-Audio in AudioBench and lmms-eval."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

_HIGHEST = 10


@dataclass(frozen=True)
class JudgeLine:
    """A line of AIR-Bench's judge.

    Attributes:
        scores: scores of the reference answer and of the model; None if the line is left out of the mean.
        counted: whether the script's success counter goes up; it does before the numbers are read.
    """

    scores: tuple[float, float] | None
    counted: bool


def air_bench_line(text: str) -> JudgeLine:
    """Read two integers with one blank between them (OFA-Sys/AIR-Bench 2c35f44 `cal_score.py`).

    Zero and negative numbers pass; a number above 10, a decimal point or a comma leaves the line out.
    """
    parts = text.strip().replace("\n", "").split(" ")
    if len(parts) != 2:
        return JudgeLine(None, counted=False)
    try:
        first, second = (int(part) for part in parts)
    except ValueError:
        return JudgeLine(None, counted=True)
    return JudgeLine(None if max(first, second) > _HIGHEST else (float(first), float(second)), counted=True)


@dataclass(frozen=True)
class JudgeScore:
    """A score that a script reads: None stands for NaN, which makes its mean NaN; `success` is the script's flag."""

    value: float | None
    success: bool


def audiobench_score(text: str) -> JudgeScore:
    """Read the last word as a number, before the factor 20 (AudioLLMs/AudioBench e991641); unreadable is 0, and nothing is clipped."""
    try:
        value = float(text.split()[-1])
    except (ValueError, IndexError):
        return JudgeScore(0.0, success=False)
    return JudgeScore(value if math.isfinite(value) else None, success=True)


def lmms_eval_score(text: str) -> float:
    """Read the first digit 0 to 5 anywhere in the text (EvolvingLMMs-Lab/lmms-eval 75571cf); none is 0."""
    match = re.search("[0-5]", text)
    return float(match[0]) if match else 0.0
