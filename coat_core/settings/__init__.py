"""`params.yaml` as frozen, strict types."""

from coat_core.settings.base import Arm, BackboneKey, Device, Dtype, Section
from coat_core.settings.data import ContractSettings, CorpusSettings
from coat_core.settings.evaluation import EvaluationSettings, LatencySettings, RegistrySettings
from coat_core.settings.models import BackboneSettings, ExpertSettings, HeadSettings, LoraSettings, ThinkingSettings
from coat_core.settings.params import Settings, load_settings, parse_settings, parse_trial
from coat_core.settings.training import LossSettings, RuntimeSettings, TrainingSettings

__all__ = [
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
    "RegistrySettings",
    "RuntimeSettings",
    "Section",
    "Settings",
    "ThinkingSettings",
    "TrainingSettings",
    "load_settings",
    "parse_settings",
    "parse_trial",
]
