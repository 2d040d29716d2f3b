"""The kinds of value that `params.yaml` holds."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

BackboneKey = Literal["qwen2_audio", "qwen2_5_omni", "audio_flamingo_3"]
Arm = Literal["base", "sft", "block", "coat", "coat_shuffled"]
Dtype = Literal["float32", "bfloat16", "float16"]
Device = Literal["cpu", "cuda"]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[float, Field(gt=0.0)]
NonNegative = Annotated[float, Field(ge=0.0)]
Count = Annotated[int, Field(ge=1)]
Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]


class Section(BaseModel):
    """A part of params: frozen, no unknown keys, no silent conversion (an int is taken where a float is meant)."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


def as_tuple(value: Any) -> Any:
    """Return YAML's list as the tuple that a frozen section holds; anything else as it is."""
    return tuple(value) if isinstance(value, list) else value


def is_commit(revision: str) -> bool:
    """Say whether a revision names one state for ever: the 40 hexadecimal digits of a commit."""
    return re.fullmatch(r"[0-9a-f]{40}", revision) is not None


def check_revision(revision: str | None, *, allow_moving: bool) -> None:
    """Refuse a branch or tag where nobody asked for one.

    Raises:
        ValueError: the revision may move.
    """
    if revision is not None and not allow_moving and not is_commit(revision):
        raise ValueError(f"revision {revision!r} may move; name a commit (40 hexadecimal digits), or say allow_moving_revision: true")
