"""Value types and the base class of the sections of `params.yaml`."""

from __future__ import annotations

import re
import unicodedata
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

BackboneKey = Literal["qwen2_audio", "qwen2_5_omni", "audio_flamingo_3"]
BACKBONE_NAMES = {"qwen2_audio": "Qwen2-Audio", "qwen2_5_omni": "Qwen2.5-Omni", "audio_flamingo_3": "Audio Flamingo 3"}
"""Display names by key."""
Dtype = Literal["float32", "bfloat16", "float16"]
Device = Literal["cpu", "cuda"]
Strategy = Literal["single", "ddp", "fsdp"]
"""How the processes of a training share the model."""
Share = Annotated[float, Field(ge=0.0, le=1.0)]
Difference = Annotated[float, Field(ge=-1.0, le=1.0, allow_inf_nan=False)]
"""A difference of two accuracies."""
Positive = Annotated[float, Field(gt=0.0)]
NonNegative = Annotated[float, Field(ge=0.0)]
Count = Annotated[int, Field(ge=1)]
Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]


class Section(BaseModel):
    """A section of params: frozen, no unknown keys, no silent conversion (an int is accepted for a float)."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


def as_tuple(value: Any) -> Any:
    """Return a YAML list as a tuple, and any other value unchanged."""
    return tuple(value) if isinstance(value, list) else value


def name_problem(name: str) -> str:
    """Return why a text cannot be the name of a registered model, as a clause; empty if it can.

    MLflow refuses `/` and `:`; `@`, `%`, `?`, `#` and quotes have a meaning in its URIs or its search.
    """
    if not name.strip():
        return "is empty"
    if len(name) > 200:
        return f"has {len(name)} characters"
    wrong = sorted(
        {character for character in name if not (character.isalnum() or character in "-_. " or unicodedata.combining(character))}
    )
    if wrong:
        return "contains " + ", ".join(map(repr, wrong))
    if not (name[0].isalnum() and (name[-1].isalnum() or unicodedata.combining(name[-1]))):
        return "does not begin and end with a letter or digit"
    return "contains two spaces in a row" if "  " in name else ""


def is_commit(revision: str) -> bool:
    """Return whether a revision is a commit (40 hexadecimal digits), whose content never changes."""
    return re.fullmatch(r"[0-9a-f]{40}", revision) is not None


def check_revision(revision: str | None, *, allow_moving: bool) -> None:
    """Refuse a branch or tag unless moving revisions are allowed.

    Raises:
        ValueError: the revision may move.
    """
    if revision is not None and not allow_moving and not is_commit(revision):
        raise ValueError(f"revision {revision!r} may move; name a commit (40 hexadecimal digits), or set allow_moving_revision: true")
