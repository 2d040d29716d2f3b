"""Examples, clips, releases, scores and records in the layout of the stages, all invented."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from coat_core.corpus.audio import write_flac
from coat_core.corpus.examples import FAMILIES, Example
from coat_core.evaluation.scores import ScoreRow
from coat_core.settings import ARMS, Arm, EvaluationSettings, parse_trial
from coat_core.storage import sha256_file, write_json, write_jsonl

KEY = "qwen2_audio"
EXPERTS = {"reconstruction": "log_mel", "events": "spectral_events", "affect": "prosody", "pitch": "f0_bins"}
EVALUATION = EvaluationSettings(max_new_tokens=4, batch_size=4, bootstrap_resamples=100)
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


def write_clips(folder: Path) -> list[Example]:
    """Write ten tones per split, two of each family, and return their examples."""
    examples = []
    for split in ("train", "test"):
        for number, family in enumerate(FAMILIES * 2):
            samples = 9_600 + 1_600 * number
            hz = 200 + 40 * number + (10 if split == "test" else 0)
            name = f"audio/{split}{number}.flac"
            write_flac(folder / name, (0.3 * np.sin(2 * np.pi * hz * np.arange(samples) / 16_000)).astype(np.float32))
            sha256 = sha256_file(folder / name)
            examples.append(make_example(number, family, split, audio=name, sha256=sha256, duration_s=samples / 16_000))
    return examples


def write_stores(target: Path, corpus: Path, examples: Sequence[Example]) -> None:
    """Extract the features of `EXPERTS`, one store each."""
    from coat_core.experts.store.extraction import extract_features

    for key, implementation in EXPERTS.items():
        extract_features(key, implementation, examples, corpus, target / key)


def write_random_release(target: Path, base: Path, key: str, arm: str, stores: Path) -> None:
    """Write the release of a tiny model with random weights; an arm with heads gets the experts of `stores`."""
    import torch

    from coat_core.backbones.catalogue import load_backbone
    from coat_core.experts.store.store import ExpertStore
    from coat_core.settings import HeadSettings, LoraSettings, LossSettings, ThinkingSettings
    from coat_core.thinking.block import ThinkingBlock
    from coat_core.thinking.heads import build_heads
    from coat_core.thinking.info import BaseInfo, ReleaseInfo
    from coat_core.thinking.model import ThinkingModel
    from coat_core.thinking.release import write_release

    torch.set_num_threads(1)
    backbone = load_backbone(key, str(base))
    heads, lora, losses = HeadSettings(width=16, attention_heads=2), LoraSettings(rank=2, alpha=4), LossSettings()
    info: dict[str, Any] = {"backbone": key, "arm": arm, "seed": 0, "base": BaseInfo(str(base)), "fingerprint": "f"}
    if not ARMS[arm].lora:
        write_release(target, ReleaseInfo(**info), backbone)
        return
    block = ThinkingBlock.install(backbone, ThinkingSettings(tokens=4)) if ARMS[arm].block else None
    specs = {name: ExpertStore.open(stores / name).spec for name in EXPERTS} if ARMS[arm].heads else {}
    normalisers = {name: (torch.zeros(spec.dim), torch.ones(spec.dim)) for name, spec in specs.items()}
    model = ThinkingModel(backbone, block, build_heads(specs, normalisers, backbone.hidden_size, heads, 0), lora, losses, 0)
    extra = {"block": block, "experts": specs, "heads": heads if specs else None, "lora": lora, "losses": losses}
    write_release(target, ReleaseInfo(**info, **extra), backbone, model)


def identity_of(trial: str, backbone: str = KEY) -> Mapping[str, Any]:
    """Return the fields that identify a trial in its metrics."""
    arm, seed = parse_trial(trial)
    return {"backbone": backbone, "arm": arm.name, "seed": seed}


def invented_scores(examples: Sequence[Example], trial: str, backbone: str) -> list[ScoreRow]:
    arm = parse_trial(trial)[0].name
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


def write_run(folder: Path, arm: Arm) -> None:
    rows = []
    for step in range(1, 91):
        row: dict[str, Any] = {"step": step, "stage": "ground" if step <= 30 else "respond", "loss/answer": 2.0 / step**0.3, "seconds": 0.5}
        if arm.heads:
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
