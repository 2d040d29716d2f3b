"""Metadata of releases for tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from coat_core.settings import HeadSettings
from coat_core.thinking.heads import ExpertHead
from coat_core.thinking.info import BaseInfo, ReleaseInfo
from coat_core.thinking.model import ThinkingModel


def info_of(model: Any, arm: str, base: Path) -> ReleaseInfo:
    """Return the info of a model; for arm `base`, `model` is the backbone."""
    if not isinstance(model, ThinkingModel):
        return ReleaseInfo(model.key, arm, 0, BaseInfo(str(base)), "f" * 8)
    specs = {key: head.spec for key, head in model.heads.items() if isinstance(head, ExpertHead)}
    return ReleaseInfo(
        backbone=model.backbone.key, arm=arm, seed=0, base=BaseInfo(str(base)), fingerprint="f" * 8, block=model.block, experts=specs,
        heads=HeadSettings(width=16, attention_heads=2) if specs else None, lora=model.lora, losses=model.losses,
    )  # fmt: skip
