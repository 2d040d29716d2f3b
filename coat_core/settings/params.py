"""`params.yaml` as frozen, strict types; every mistake is reported at once, with its path and the allowed values."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator

from coat_core.errors import SettingsError
from coat_core.settings.arm import parse_trial
from coat_core.settings.base import BackboneKey, Name, Section, as_tuple
from coat_core.settings.sections import (
    BackboneSettings,
    ContractSettings,
    CorpusSettings,
    EvaluationSettings,
    ExpertSettings,
    HeadSettings,
    LatencySettings,
    LoraSettings,
    ProbeSettings,
    RegistrySettings,
    RuntimeSettings,
    ThinkingSettings,
)
from coat_core.settings.training import LossSettings, TrainingSettings


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
    probes: ProbeSettings = ProbeSettings()
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
            raise ValueError("a trial is listed twice")
        return value

    @model_validator(mode="after")
    def _check_across_sections(self) -> Settings:
        unknown = set(self.losses.expert_weights) - set(self.experts)
        if unknown:
            raise ValueError(f"losses.expert_weights names {sorted(unknown)}; allowed: {sorted(self.experts)}")
        named = {
            "latency.baseline": self.latency.baseline,
            "latency.candidate": self.latency.candidate,
            "registry.candidate": self.registry.candidate,
        }
        for field, trial in named.items():
            if trial not in self.trials:
                raise ValueError(f"{field} is {trial!r}; allowed: {', '.join(self.trials)}")
        for trial in self.probes.trials:
            if trial not in self.trials or not parse_trial(trial)[0].block:
                allowed = [name for name in self.trials if parse_trial(name)[0].block]
                raise ValueError(f"probes.trials names {trial!r}; allowed: trials with a block ({', '.join(allowed) or 'there are none'})")
        if self.probes.trials and self.probes.baseline not in self.trials:
            raise ValueError(f"probes.baseline is {self.probes.baseline!r}; allowed: {', '.join(self.trials)}")
        for trial in self.latency.described:
            if trial not in self.trials or not parse_trial(trial)[0].described:
                described = ", ".join(name for name in self.trials if parse_trial(name)[0].described) or "there are none"
                raise ValueError(f"latency.described names {trial!r}; allowed: trials of arm described ({described})")
        absent = [name for name in self.registry.min_suites if name not in self.evaluation.suites]
        if absent:
            named_suites = ", ".join(self.evaluation.suites) or "there are none"
            raise ValueError(
                f"registry.min_suites names {', '.join(absent)}; allowed: the benchmarks in evaluation.suites ({named_suites})"
            )
        nameless = [key for key in self.backbones if key not in self.registry.names]
        if nameless:
            raise ValueError(f"registry.names has no name for {', '.join(nameless)}; allowed: one name for each of `backbones`")
        return self


def parse_settings(values: Any, source: str = "params.yaml") -> Settings:
    """Check raw values against the types above.

    Raises:
        SettingsError: a value is invalid; the message has one line per mistake with path, value and allowed values.
    """
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        lines = [_mistake(e) for e in error.errors()]  # type: ignore[arg-type]
        raise SettingsError(
            f"{source}: {len(lines)} mistake{'s' * (len(lines) > 1)}\n" + "\n".join(f"  {line}" for line in lines) + "\n",
            next_step=f"fix {source} and run the same command again",
        ) from None


def load_settings(path: Path = Path("params.yaml")) -> Settings:
    """Read and check a params file.

    Raises:
        SettingsError: the file is missing, is not YAML, or is invalid.
    """
    return parse_settings(read_values(path), str(path))


def read_values(path: Path) -> Any:
    """Return the unchecked values of a params file; see `parse_values`.

    Raises:
        SettingsError: the file is missing, or is not YAML.
    """
    from ruamel.yaml.error import YAMLError

    try:
        return parse_values(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise SettingsError(
            f"cannot read params: {error}",
            field="params",
            value=str(path),
            next_step="run in a workspace, or create one with `coat workspace`",
        ) from error
    except (YAMLError, UnicodeDecodeError) as error:
        raise SettingsError(
            f"params are not YAML: {error}", field="params", value=str(path), next_step="fix the file (YAML 1.2, UTF-8)"
        ) from error


def parse_values(text: str) -> Any:
    """Return the unchecked values of the text of a params file.

    The reader is that of DVC, YAML 1.2: `no` is a string, `1e-5` is a number, and a key that is written twice is an error. PyYAML reads
    YAML 1.1, where `no` is false and `1e-5` is a string: a file that `dvc exp run --set-param` has written would have other values.

    Raises:
        ruamel.yaml.error.YAMLError: it is not YAML.
    """
    from ruamel.yaml import YAML

    return YAML(typ="safe").load(text)


def _mistake(error: dict[str, Any]) -> str:
    path = ".".join(str(part) for part in error["loc"] if part != "[key]") or "params"
    if error["type"] == "extra_forbidden":
        return f"{path}: unknown key; allowed: {', '.join(_siblings(error['loc']))}"
    shown = repr(error["input"])
    return f"{path}: {error['msg'].removeprefix('Value error, ')} (got {shown[:80]}){_hint(error)}"


def _hint(error: dict[str, Any]) -> str:
    """Return what to write instead of a value that YAML reads as another type."""
    if error["type"] == "string_type" and isinstance(error["input"], bool | int | float):
        return "; write it in quotes to make it a text"
    if error["type"] == "bool_type" and str(error["input"]).lower() in ("yes", "no", "on", "off", "y", "n"):
        return "; write true or false"
    if error["type"] in ("int_type", "float_type") and isinstance(error["input"], str):
        return "; write the number without quotes"
    return ""


def _siblings(location: tuple[str | int, ...]) -> list[str]:
    """Return the allowed names of the section with an unknown key."""
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
