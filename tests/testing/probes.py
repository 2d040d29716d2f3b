"""Invented results of the stage `probe`."""

from __future__ import annotations

from typing import Any

from coat_core.probing.verdict import verdict

KNOCK_OUT: dict[str, Any] = {
    "none": {"loss": {"value": 0.7, "error": 0.02}},
    "block": {"loss": {"value": 0.78, "error": 0.02}, "cost": {"value": 0.08, "error": 0.01}},
    "audio": {"loss": {"value": 1.1, "error": 0.03}, "cost": {"value": 0.4, "error": 0.03}},
    "both": {"loss": {"value": 1.5, "error": 0.03}, "cost": {"value": 0.8, "error": 0.04}},
}
LABELS = [
    {"name": "pitch", "group": "experts", "train": 400, "test": 180},
    {"name": "events", "group": "experts", "train": 400, "test": 180},
    {"name": "emotion", "group": "answers", "train": 80, "test": 40},
]


def invented_probe(backbone: str = "qwen2_audio", trial: str = "coat-0", *, bypassed: bool = False) -> dict[str, Any]:
    """Return the content of a file of probes; with `bypassed`, the knock-out of the block costs nothing."""
    knock_out = dict(KNOCK_OUT)
    if bypassed:
        knock_out["block"] = {"loss": {"value": 0.701, "error": 0.02}, "cost": {"value": 0.001, "error": 0.002}}
    rising = [0.1, 0.2, 0.3, 0.4]
    linear = {
        position: {label["name"]: {"score": [strength * score for score in rising], "control": [0.05] * 4} for label in LABELS}
        for position, strength in (("audio", 1.0), ("think", 2.0), ("answer", 0.5))
    }
    without_block = {position: linear[position] for position in ("audio", "answer")}
    accuracy = {"n": 40, "accuracy": 0.5, "accuracy_per_token": 0.45, "chance": 0.25}
    choices = {"families": {"music": accuracy}, "mean": accuracy}
    skills = {"clip_mean": 0.4, "fresh_on_audio": 0.6}
    losses = {"constant": 1.0, "clip_mean": 0.6, "fresh_on_audio": 0.4}
    return {
        "format": 1, "backbone": backbone, "trial": trial, "baseline": "sft-0", "items": 200, "train_items": 400, "read_layer": 3,
        "verdict": verdict(knock_out), "knock_out": knock_out,
        "skill": {
            "events": {"clips": 180, "losses": {**losses, "head": None}, "skills": {**skills, "head": None}},
            "pitch": {"clips": 170, "losses": {**losses, "head": 0.8}, "skills": {**skills, "head": 0.2}},
        },
        "choices": {"trial": choices, "baseline": choices},
        "linear": {"labels": LABELS, "layers": 4, "trial": linear, "baseline": without_block},
    }  # fmt: skip
