"""`params.yaml` as frozen, strict types."""

from coat_core.settings.arm import ARMS, CLAIM, COMPARISONS, Arm, find_arm, parse_trial
from coat_core.settings.base import BackboneKey, Device, Dtype, Section
from coat_core.settings.params import Settings, load_settings, parse_settings, read_values
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
from coat_core.settings.suites import SuiteKey, SuiteSettings
from coat_core.settings.training import LossSettings, TrainingSettings

__all__ = [
    "ARMS",
    "CLAIM",
    "COMPARISONS",
    "Arm",
    "BackboneKey",
    "BackboneSettings",
    "ContractSettings",
    "CorpusSettings",
    "Device",
    "Dtype",
    "EvaluationSettings",
    "ExpertSettings",
    "HeadSettings",
    "LatencySettings",
    "LoraSettings",
    "LossSettings",
    "ProbeSettings",
    "RegistrySettings",
    "RuntimeSettings",
    "Section",
    "Settings",
    "SuiteKey",
    "SuiteSettings",
    "ThinkingSettings",
    "TrainingSettings",
    "find_arm",
    "load_settings",
    "parse_settings",
    "parse_trial",
    "read_values",
]
