"""Sample items of the page: clips of the evaluated split that can be played, with the answers of every model and arm."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from coat_core.corpus.audio import SAMPLE_RATE_HZ, decode
from coat_core.corpus.examples import FAMILIES, Example
from coat_core.evaluation.metrics import SCORES
from coat_core.evaluation.responses import read_responses
from coat_core.evaluation.scores import read_scores
from coat_core.settings import ARMS, parse_trial

PER_FAMILY = 3
"""Items drawn in each family."""
MAX_BYTES = 10_000_000
"""Most bytes of embedded audio; clips beyond it are shown without a player."""
Verdict = Literal["right", "partly", "wrong", "unscored"]


@dataclass(frozen=True)
class Answer:
    """What one model answered in one arm."""

    trial: str
    response: str
    verdict: Verdict
    score: float | None
    """In [0, 1]; None if the response is unscored."""


@dataclass(frozen=True)
class SampleItem:
    """A question, its clip, and the answers."""

    example: Example
    audio: str | None
    """The clip as a data URI (FLAC, mono, 16 kHz); None if the page has no room for it."""
    answers: Mapping[str, Sequence[Answer]]
    """By backbone, in the order of the arms."""


def draw_items(examples: Sequence[Example], evaluated: Iterable[str], split: str, per_family: int = PER_FAMILY) -> list[Example]:
    """Draw examples of each family by a hash of their ids: the draw depends on no answer, and not on the other examples of the family."""
    chosen: list[Example] = []
    ids = set(evaluated)
    for family in FAMILIES:
        found = [example for example in examples if example.split == split and example.family == family and example.id in ids]
        chosen += sorted(found, key=lambda example: sha256(example.id.encode()).digest())[:per_family]
    return chosen


def sample_items(
    workspace: Path, backbones: Iterable[str], trials: Sequence[str], examples: Sequence[Example], split: str, max_bytes: int = MAX_BYTES
) -> list[SampleItem]:
    """Return the drawn items with the answers of the first trial of each arm.

    Args:
        workspace: contains `data/corpus`, `responses/` and `evaluation/`.
        backbones: keys.
        trials: `<arm>-<seed>`.
        examples: rows of the accepted manifest.
        split: the evaluated split.
        max_bytes: most bytes of embedded audio.

    Raises:
        EvaluationError: responses or scores are missing or invalid.
        AudioError: a clip cannot be decoded.
    """
    answers = {key: [read_answers(workspace, key, trial) for trial in first_trials(trials)] for key in backbones}
    everywhere = set.intersection(*(set(found) for of_arms in answers.values() for found in of_arms))
    items, room = [], max_bytes
    for example in draw_items(examples, everywhere, split):
        audio: str | None = audio_uri(decode(workspace / "data/corpus" / example.audio))
        if audio is not None and len(audio) > room:
            audio = None
        room -= len(audio or "")
        items.append(SampleItem(example, audio, {key: [found[example.id] for found in of_arms] for key, of_arms in answers.items()}))
    return items


def first_trials(trials: Sequence[str]) -> list[str]:
    """Return the trial with the lowest seed of each arm, in the order of the arms."""
    of_arm: dict[str, list[tuple[int, str]]] = {}
    for trial in trials:
        arm, seed = parse_trial(trial)
        of_arm.setdefault(arm.name, []).append((seed, trial))
    return [min(of_arm[arm])[1] for arm in ARMS if arm in of_arm]


def verdict_of(score: float | None) -> Verdict:
    """Return the verdict on a score in [0, 1]; None is unscored. Only transcriptions can be partly right."""
    if score is None:
        return "unscored"
    return "right" if score >= 1 else "partly" if score > 0 else "wrong"


def audio_uri(waveform: NDArray[np.float32]) -> str:
    """Return a waveform `[N]` at 16 kHz as a data URI of a FLAC file, which every current browser plays."""
    import soundfile

    stream = io.BytesIO()
    soundfile.write(stream, np.clip(waveform, -1.0, 1.0), SAMPLE_RATE_HZ, format="FLAC", subtype="PCM_16")
    return f"data:audio/flac;base64,{base64.b64encode(stream.getvalue()).decode()}"


def read_answers(workspace: Path, backbone: str, trial: str) -> dict[str, Answer]:
    """Return the scored answers of one trial to its own clips, by example id.

    Raises:
        EvaluationError: responses or scores are missing or invalid.
    """
    name = f"{backbone}-{trial}"
    scores = {row.id: row.score for row in read_scores(workspace / "evaluation" / name / SCORES) if row.audio == "own"}
    responses = read_responses(workspace / "responses" / f"{name}.jsonl")
    return {
        row.id: Answer(trial, row.response, verdict_of(scores[row.id]), scores[row.id])
        for row in responses
        if row.audio == "own" and row.id in scores
    }
