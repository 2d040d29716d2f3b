"""`params.yaml` as frozen, strict types; every mistake is reported at once, each with its path and what is allowed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator

from coat_core.errors import SettingsError
from coat_core.settings.base import Arm, BackboneKey, Name, Section, as_tuple
from coat_core.settings.data import ContractSettings, CorpusSettings
from coat_core.settings.evaluation import EvaluationSettings, LatencySettings, RegistrySettings
from coat_core.settings.models import BackboneSettings, ExpertSettings, HeadSettings, LoraSettings, ThinkingSettings
from coat_core.settings.training import LossSettings, RuntimeSettings, TrainingSettings

_TRIAL = re.compile(r"^(base|sft|block|coat|coat_shuffled)-(\d+)$")


class Settings(Section):
    """All of `params.yaml`."""

    runtime: RuntimeSettings = RuntimeSettings()
    backbones: Annotated[dict[BackboneKey, BackboneSettings], Field(min_length=1)]
    experts: Annotated[dict[Name, ExpertSettings], Field(min_length=1)]
    trials: Annotated[tuple[str, ...], Field(min_length=1)]
    """`<arm>-<seed>` of every training; `base-0` is the untouched model."""
    corpus: CorpusSettings
    contract: ContractSettings = ContractSettings()
    thinking: ThinkingSettings = ThinkingSettings()
    heads: HeadSettings = HeadSettings()
    losses: LossSettings = LossSettings()
    lora: LoraSettings = LoraSettings()
    training: TrainingSettings = TrainingSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    latency: LatencySettings = LatencySettings()
    registry: RegistrySettings = RegistrySettings()

    @field_validator("trials", mode="before")
    @classmethod
    def _list_to_tuple(cls, value: Any) -> Any:
        return as_tuple(value)

    @field_validator("trials")
    @classmethod
    def _trial_names(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            parse_trial(name)
        if len(set(value)) != len(value):
            raise ValueError("a trial is named twice")
        return value

    @model_validator(mode="after")
    def _across_sections(self) -> Settings:
        unknown = set(self.losses.expert_weights) - set(self.experts)
        if unknown:
            raise ValueError(f"losses.expert_weights names {sorted(unknown)}; allowed: {sorted(self.experts)}")
        for field in ("baseline", "candidate"):
            if getattr(self.latency, field) not in self.trials:
                raise ValueError(f"latency.{field} is {getattr(self.latency, field)!r}; allowed: {', '.join(self.trials)}")
        return self


def parse_trial(name: str) -> tuple[Arm, int]:
    """Split `<arm>-<seed>`.

    Raises:
        ValueError: the name has another form.
    """
    match = _TRIAL.match(name)
    if not match:
        raise ValueError(f"{name!r} is not <arm>-<seed> with an arm of base, sft, block, coat, coat_shuffled and a whole seed")
    return match[1], int(match[2])  # type: ignore[return-value]


def parse_settings(values: Any, source: str = "params.yaml") -> Settings:
    """Check raw values against the types above.

    Raises:
        SettingsError: anything does not hold; the message has a line per mistake, with its path, value and what is allowed.
    """
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        lines = [_mistake(e) for e in error.errors()]  # type: ignore[arg-type]
        raise SettingsError(
            f"{source}: {len(lines)} mistake{'s' * (len(lines) > 1)}\n" + "\n".join(f"  {line}" for line in lines) + "\n",
            next_step=f"mend {source} and run the same command again",
        ) from None


def load_settings(path: Path = Path("params.yaml")) -> Settings:
    """Read and check a params file.

    Raises:
        SettingsError: the file is missing, is not YAML, or does not hold.
    """
    try:
        values = yaml.safe_load(path.read_text())
    except OSError as error:
        raise SettingsError(
            f"cannot read params: {error}",
            field="params",
            value=str(path),
            next_step="run in a workspace, or make one with `coat workspace`",
        ) from error
    except yaml.YAMLError as error:
        raise SettingsError(f"params are not YAML: {error}", field="params", value=str(path)) from error
    return parse_settings(values, str(path))


def _mistake(error: dict[str, Any]) -> str:
    path = ".".join(str(part) for part in error["loc"] if part != "[key]") or "params"
    if error["type"] == "extra_forbidden":
        return f"{path}: unknown key; allowed: {', '.join(_siblings(error['loc']))}"
    shown = repr(error["input"])
    return f"{path}: {error['msg']} (got {shown[:80]})"


def _siblings(location: tuple[str | int, ...]) -> list[str]:
    """Names allowed beside an unknown key."""
    section: Any = Settings
    for part in location[:-1]:
        if not (isinstance(section, type) and issubclass(section, BaseModel)):
            section = section.__args__[1] if getattr(section, "__args__", None) else None
            continue
        field = section.model_fields.get(str(part))
        section = field.annotation if field else None
    while section is not None and not isinstance(section, type):
        section = section.__args__[1] if getattr(section, "__args__", None) and len(section.__args__) > 1 else None
    return sorted(section.model_fields) if isinstance(section, type) and issubclass(section, BaseModel) else ["(see params.yaml)"]
