"""A tiny corpus, stores, a random base and settings for tests of training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from coat_core.corpus.audio import write_flac
from coat_core.corpus.examples import Example
from coat_core.settings import Settings, parse_settings
from coat_core.storage import sha256_file

KEY = "qwen2_audio"
EXPERTS = {"reconstruction": "log_mel", "pitch": "f0_bins"}
TEXTS = ["Which sound is this?", "Choices: a, b.", "high", "low", "a long low sound"]


def make_corpus(folder: Path, clips: int = 10) -> list[Example]:
    """Write sine clips of 0.4 to 1.3 s (by default) and return an example for each."""
    rng = np.random.default_rng(3)
    examples = []
    for number in range(clips):
        samples = 6400 + 1600 * number
        time = np.arange(samples) / 16000
        wave = 0.3 * np.sin(2 * np.pi * (150 + 40 * number) * time) + 0.01 * rng.standard_normal(samples)
        path = folder / "audio" / f"{number}.flac"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_flac(path, wave.astype(np.float32), 16000)
        examples.append(
            Example(
                id=f"e{number}",
                audio=f"audio/{number}.flac",
                sha256=sha256_file(path),
                duration_s=samples / 16000,
                sample_rate_hz=16000,
                split="train",
                group=f"g{number}",
                family="understanding",
                task="pitch",
                question="Which sound is this?",
                choices=("high", "low"),
                answer="high" if number % 2 else "low",
                source="generated",
                licence="CC0-1.0",
            )
        )
    return examples


def make_features(examples: Sequence[Example], corpus: Path, folder: Path) -> dict[str, Path]:
    from coat_core.experts.store.extraction import extract_features

    for key, implementation in EXPERTS.items():
        extract_features(key, implementation, examples, corpus, folder / key)
    return {key: folder / key for key in EXPERTS}


def make_settings(base: Path, **sections: Any) -> Settings:
    """Return settings of a run of ten steps; `sections` overrides values by section."""
    values: dict[str, Any] = {
        "backbones": {KEY: {"base": str(base)}},
        "experts": {key: {"implementation": value} for key, value in EXPERTS.items()},
        "trials": ["base-0", "sft-0", "coat-0"],
        "corpus": {"clips_per_family": {"train": 4, "validation": 1, "test": 1}},
        "thinking": {"tokens": 4},
        "losses": {"ground_distill": 1.0, "ground_answer": 0.5, "respond_distill": 0.3},
        "heads": {"width": 16, "attention_heads": 2},
        "lora": {"rank": 4, "alpha": 8, "modules": ["q_proj", "v_proj"]},
        "training": {
            "ground_steps": 4,
            "respond_steps": 6,
            "batch_size": 2,
            "accumulation": 2,
            "warmup_steps": 2,
            "checkpoint_every": 3,
            "length_groups": 2,
            "learning_rate": 0.01,
        },
    }
    for name, section in sections.items():
        values[name] = {**values.get(name, {}), **section}
    return parse_settings(values)


@dataclass
class World:
    """A corpus, its stores and a random base in one folder."""

    folder: Path
    examples: list[Example]
    features: dict[str, Path]

    @property
    def corpus(self) -> Path:
        return self.folder / "corpus"

    def settings(self, **sections: Any) -> Settings:
        return make_settings(self.folder / "base", **sections)

    def train(self, where: Path, trial: str, settings: Settings | None = None, tracker: Any = None, **changes: Any) -> Path:
        """Train into `where` and return the release."""
        from coat_core.training.tracker import NullTracker
        from coat_core.training.train import train

        arguments: dict[str, Any] = {
            "examples": self.examples,
            "corpus": self.corpus,
            "features": self.features,
            "target": where / "model",
            "records": where / "run",
            "scratch": where / "scratch",
            "fingerprint": "key",
            "tracker": tracker or NullTracker(),
            **changes,
        }
        train(settings or self.settings(), KEY, trial, **arguments)
        return where / "model"


class FixedOrder:
    """Returns fixed batches by micro step and rank."""

    def __init__(self, batches: Sequence[Sequence[int]], world: int) -> None:
        self.batches, self.world = batches, world

    def batch_indices(self, stage: str, step: int, micro_step: int, rank: int) -> tuple[int, ...]:
        return tuple(self.batches[micro_step * self.world + rank])


def one_step(
    folder: Path,
    examples: Sequence[Example],
    scratch: Path,
    batches: Sequence[Sequence[int]],
    masked: Sequence[int] = (),
    *,
    key: str = KEY,
    unlabelled: Sequence[int] = (),
    explain_memory: Any = None,
    inspect: Callable[[Any], None] = lambda model: None,
    **training: Any,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Take the first step of arm coat over those batches; return the gradients by name and the row of the step.

    Args:
        folder: folder of base, corpus and features.
        examples: examples of the corpus.
        scratch: an empty folder.
        batches: one batch for each process and accumulation step.
        masked: indices of examples whose clips have no valid frame for any expert.
        key: the backbone; its base is in `folder`: `base`, or `base-<key>` of another than `KEY`.
        unlabelled: indices of examples without an answer.
        explain_memory: see `Trainer`.
        inspect: called with the model after the step.
        training: overrides of the training section.
    """
    import torch

    from coat_core.experts.store.store import ExpertStore
    from coat_core.settings import parse_trial
    from coat_core.thinking.sharding import shard_base
    from coat_core.training import train as module
    from coat_core.training.build import TrainingRun, build
    from coat_core.training.checkpoint import CheckpointFolder
    from coat_core.training.dataset import AudioEmbeddingCache, TrainingDataset
    from coat_core.training.targets import Targets
    from coat_core.training.tracker import History, NullTracker
    from coat_core.training.trainer import Trainer, Trial

    class MaskedTargets(Targets):
        def batch(self, clips: Sequence[str], device: Any) -> Any:
            without_frames = {examples[index].sha256 for index in masked}
            found = super().batch(clips, device)
            return {
                key: [None if clip in without_frames else row for clip, row in zip(clips, rows, strict=True)] for key, rows in found.items()
            }

    base = folder / ("base" if key == KEY else f"base-{key}")
    settings = make_settings(base, backbones={key: {"base": str(base)}}, training=training)
    examples = [e.model_copy(update={"answer": None, "choices": None}) if n in unlabelled else e for n, e in enumerate(examples)]
    stores = {key: ExpertStore.open(folder / "features" / key) for key in EXPERTS}
    accelerator = module._accelerator(settings)
    with module.fixed_compute(settings.runtime):
        backbone, model = build(TrainingRun(settings, key, *parse_trial("coat-0"), scratch, "key"), stores, "cpu")
        assert model is not None
        with torch.no_grad():
            generator = torch.Generator().manual_seed(1)
            for name, parameter in model.named_parameters():
                if ".lora_B." in name:
                    parameter.copy_(0.05 * torch.randn(parameter.shape, generator=generator))
        if settings.training.strategy == "fsdp":
            shard_base(model, accelerator.device, accelerator.num_processes)
        order: Any = FixedOrder(batches, accelerator.num_processes)
        dataset = TrainingDataset(backbone, examples, folder / "corpus", AudioEmbeddingCache(backbone, 10))
        trainer = Trainer(
            model, Trial(*parse_trial("coat-0"), settings.training, settings.losses), dataset, order, MaskedTargets(stores), accelerator,
            CheckpointFolder(scratch, "key"), History(None, NullTracker()), explain_memory=explain_memory,
        )  # fmt: skip
        found: dict[str, Any] = {}
        trainer.optimizer.zero_grad = lambda: found.update(
            {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.requires_grad}
        )
        row = trainer.step(0)
        inspect(model)
    return found, row


def assert_same_step(a: tuple[dict[str, Any], dict[str, Any]], b: tuple[dict[str, Any], dict[str, Any]]) -> None:
    """Compare gradients and row of two steps (results of `one_step`) that sum in different orders."""
    import pytest
    import torch

    assert a[0].keys() == b[0].keys()
    for name in a[0]:
        torch.testing.assert_close(a[0][name], b[0][name], rtol=1e-3, atol=2e-6, msg=lambda text, name=name: f"{name}: {text}")
    for key in ("loss", "loss/answer", "loss/pitch", "loss/reconstruction", "gradient_norm"):
        assert a[1][key] == pytest.approx(b[1][key], rel=1e-4)
