"""Examples, scores and records as the stages would leave them, all invented."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from coat_core.corpus.examples import FAMILIES, Example
from coat_core.evaluation.responses import ScoreRow
from coat_core.settings import parse_trial
from coat_core.storage import write_json, write_jsonl

BACKBONES = ("qwen2_audio", "qwen2_5_omni", "audio_flamingo_3")
CONTRACT = {
    "passed": True, "rows": 120, "accepted": 118, "quarantined": 2, "bad_share": 0.0167, "max_bad_share": 0.02, "table_failures": [],
    "expectations": [{"name": "ids are unique", "expects": "no id twice", "checked": 120, "failed": 0, "first": []}],
    "audio": {"seconds": 3.1},
}  # fmt: skip
SKILL = {"base": 0.34, "sft": 0.48, "block": 0.49, "coat": 0.58}


def make_example(number: int, family: str = "music", split: str = "test", **fields: Any) -> Example:
    spoken = family == "transcription"
    values: dict[str, Any] = {
        "id": f"{split}-{family}-{number}", "audio": f"audio/{family}{number}.flac", "sha256": f"{FAMILIES.index(family)}{number:063d}",
        "duration_s": 1.0 + number % 7, "sample_rate_hz": 16000, "split": split, "group": f"{family}-{number % 12}", "family": family,
        "task": f"{family} task", "question": "What do you hear?", "choices": None if spoken else ("a bell", "a horn", "a drum", "a flute"),
        "answer": "one two three" if spoken else "a horn", "source": "invented", "licence": "CC0-1.0",
    }  # fmt: skip
    return Example(**{**values, **fields})


def make_examples(each: int = 24) -> list[Example]:
    return [make_example(number, family) for number in range(each) for family in FAMILIES]


def invented_scores(examples: Sequence[Example], trial: str, backbone: str) -> list[ScoreRow]:
    arm, _ = parse_trial(trial)
    own, other = [], []
    for example in examples:
        draw = random.Random(f"{example.id} {backbone}")
        ability = draw.random() * 0.6 + 0.2
        right = random.Random(f"{example.id} {trial} {backbone}").random() * 0.5 + ability < SKILL[arm] + 0.35
        unread = draw.random() < 0.03
        fields = {"id": example.id, "family": example.family, "task": example.task, "group": example.group}
        spoken = example.choices is None
        row = ScoreRow(
            **fields, score=None if unread else float(right), unscored="names no option" if unread else None,
            kind="wer" if spoken else "choice", audio="own", chance=None if spoken else 0.25,
        )  # fmt: skip
        own.append(row)
        if spoken:
            other.append(row.model_copy(update={"audio": "other", "score": 0.1, "unscored": None}))
    return own + other


def write_run(folder: Path, arm: str) -> None:
    rows = []
    for step in range(1, 91):
        row: dict[str, Any] = {"step": step, "stage": "ground" if step <= 30 else "respond", "loss/answer": 2.0 / step**0.3, "seconds": 0.5}
        if arm == "coat":
            row |= {f"loss/{name}": 1.0 / step**rate for name, rate in (("affect", 0.2), ("events", 0.3), ("pitch", 0.1))}
        rows.append(row)
    write_jsonl(folder / "history.jsonl", rows)
    write_json(folder / "run.json", {"run_id": "0123"})


def write_latency(path: Path, backbone: str) -> None:
    trial = {"first_token_s": 0.0312, "decode_s_per_token": 0.0041, "total_s": 0.093, "prompt_tokens": 81, "decoded_tokens": 16}
    ratio = {"median": 1.08, "min": 0.97, "max": 1.21, "pairs": 40}
    write_json(path, {
        "backbone": backbone, "baseline": "sft-0", "candidate": "coat-0",
        "trials": {"sft-0": trial, "coat-0": {**trial, "prompt_tokens": 108}},
        "ratios": {"first_token_s": ratio, "decode_s_per_token": ratio, "total_s": ratio},
    })  # fmt: skip
