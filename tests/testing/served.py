"""A registered release that can be loaded and answers, for the tests of versions, cold loads and serving."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

QUESTION = "What sound is this? Choices: dog bark, siren, rain."
TRIAL = "qwen2_audio-coat-0"


@dataclass(frozen=True)
class Served:
    """A workspace with one version, the champion.

    Attributes:
        workspace: the workspace.
        answer: the answer of the release about the tone, loaded directly.
    """

    workspace: Path
    answer: str


def write_loadable_release(workspace: Path, bases: dict[str, Path], key: str, *, scale: float = 0.3, dtype: str = "float32") -> Path:
    """Write a release of the arm coat on a tiny base, which is copied into the workspace."""
    import torch

    from coat_core.backbones.catalogue import load_backbone
    from coat_core.experts.base import ExpertSpec
    from coat_core.settings import HeadSettings, LoraSettings, LossSettings, ThinkingSettings
    from coat_core.thinking.block import ThinkingBlock
    from coat_core.thinking.heads import build_heads
    from coat_core.thinking.info import BaseInfo, ReleaseInfo
    from coat_core.thinking.model import ThinkingModel
    from coat_core.thinking.release import write_release

    shutil.copytree(bases[key], workspace / "bases" / key, dirs_exist_ok=True)
    backbone = load_backbone(key, str(bases[key]))
    block = ThinkingBlock.install(backbone, ThinkingSettings(tokens=4))
    specs = {"pitch": ExpertSpec("x", "pitch", "representation", 3, 100.0, 16000, "1", "CC0-1.0", True, "tests", ("a", "b", "c"))}
    heads, lora, losses = HeadSettings(width=16, attention_heads=2), LoraSettings(rank=2, alpha=4), LossSettings()
    built = build_heads(specs, {"pitch": (torch.zeros(3), torch.ones(3))}, backbone.hidden_size, heads, 0)
    model = ThinkingModel(backbone, block, built, lora, losses, 0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad and "lora" in name:
                parameter.add_(scale * torch.randn(parameter.shape, generator=generator))
    info = ReleaseInfo(
        key, "coat", 0, BaseInfo(f"bases/{key}", None, "Apache-2.0", dtype=dtype), "f" * 64, block, specs, heads, lora, losses
    )
    target = workspace / "models" / f"{key}-coat-0"
    write_release(target, info, backbone, model)
    return target


def direct_answer(release: Path, audio: Path) -> str:
    """Return the answer of a release, loaded without MLflow."""
    from coat_core.backbones.base import Query
    from coat_core.corpus.audio import decode
    from coat_core.evaluation.generate import generate_texts
    from coat_core.thinking.release import load_release

    return generate_texts(load_release(release).backbone, [Query("k", decode(audio), QUESTION)], 64)[0]
