"""Sections of params about the corpus and its contract."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from coat_core.settings.base import Count, Positive, Section, Share


class CorpusSettings(Section):
    """What the corpus stage makes."""

    kind: Literal["generated", "recordings", "manifest", "audiofolder"] = "generated"
    path: str | None = None
    """Folder of the recordings, the manifest file or the audio folder, relative to the workspace; null for `generated`."""
    seed: int = 7
    clips_per_family: dict[Literal["train", "validation", "test"], Count]
    questions_per_clip: Count = 2
    max_duration_s: Positive = 8.0

    @model_validator(mode="after")
    def _path_when_needed(self) -> CorpusSettings:
        if self.kind != "generated" and not self.path:
            raise ValueError("`path` must name a folder or file unless kind is `generated`")
        return self


class ContractSettings(Section):
    """Limits of the data contract."""

    max_bad_share: Share = 0.01
    min_duration_s: Positive = 0.2
    max_duration_s: Positive = 30.0
    min_sample_rate_hz: Count = 8000
    max_sample_rate_hz: Count = 48000
    max_clipped_share: Share = 0.01
    silence_dbfs: Annotated[float, Field(le=0.0)] = -60.0
    family_imbalance: Annotated[float, Field(ge=1.0)] = 4.0
    """Largest allowed ratio between the example counts of two families within a split."""
