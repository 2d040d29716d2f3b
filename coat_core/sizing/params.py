"""The sections of params that `coat doctor --published` reads, with the defaults where there is no params file."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from coat_core.errors import CoatError
from coat_core.experts.base import ExpertSpec
from coat_core.experts.catalogue import EXPERTS, load_expert
from coat_core.settings import (
    BackboneSettings,
    ExpertSettings,
    HeadSettings,
    LoraSettings,
    ThinkingSettings,
    TrainingSettings,
    load_settings,
)
from coat_core.sizing.workload import Precision

ASSUMED = "assumed"
"""Version of a spec that was not read from anything."""
_FIVE = {
    "reconstruction": ExpertSettings(implementation="log_mel"),
    "speech": ExpertSettings(implementation="cepstra"),
    "events": ExpertSettings(implementation="spectral_events"),
    "affect": ExpertSettings(implementation="prosody"),
    "pitch": ExpertSettings(implementation="f0_bins"),
}


_DEFAULT_WIDTHS = {"speech_encoder": (768, 50.0), "audio_events": (527, 2.0), "speech_emotion": (4, 50.0), "codec": (512, 12.5)}
"""Width and frames a second of neural experts at their default checkpoints, from these models' papers and cards."""


@dataclass(frozen=True)
class Params:
    """Sections of params; `answers` are made at once in evaluation; `workspace` is the folder that paths are relative to."""

    lora: LoraSettings = field(default_factory=LoraSettings)
    thinking: ThinkingSettings = field(default_factory=ThinkingSettings)
    heads: HeadSettings = field(default_factory=HeadSettings)
    training: TrainingSettings = field(default_factory=TrainingSettings)
    experts: dict[str, ExpertSettings] = field(default_factory=lambda: dict(_FIVE))
    backbones: dict[str, BackboneSettings] = field(default_factory=dict)
    max_duration_s: float = 30.0
    answers: int = 32
    new_tokens: int = 64
    workspace: Path = Path()

    @classmethod
    def read(cls, path: Path | None = None) -> Params:
        """Read a params file; None: `params.yaml` here if there is one, else the defaults.

        Raises:
            SettingsError: the file is missing or does not hold.
        """
        if path is None and not Path("params.yaml").exists():
            return cls()
        place = path or Path("params.yaml")
        settings = load_settings(place)
        return cls(
            settings.lora,
            settings.thinking,
            settings.heads,
            settings.training,
            dict(settings.experts),
            {str(key): value for key, value in settings.backbones.items()},
            settings.contract.max_duration_s,
            settings.evaluation.batch_size,
            settings.evaluation.max_new_tokens,
            place.parent,
        )

    def batch(self, audio_s: float) -> int:
        """Return the examples of one forward of clips of that length: `batch_size`, cut by `batch_seconds`."""
        limit = self.training.batch_seconds
        return self.training.batch_size if limit is None else min(self.training.batch_size, max(1, int(limit // audio_s)))

    def dtype(self, key: str) -> tuple[str, Precision, str]:
        """Return the dtype of the weights, the precision of the arithmetic, and where they are from.

        Params whose base is a folder here are for that base, most often a tiny one; a full-size model is then taken in bfloat16.
        """
        own = self.backbones.get(key)
        if own is None or (self.workspace / own.base).is_dir():
            return "bfloat16", "bf16", "params name no hub id for this backbone: bfloat16 weights and bf16 arithmetic are assumed"
        return own.dtype, self.training.precision, f"dtype and precision are those of params, whose base is {own.base}"

    def specs(self) -> tuple[dict[str, ExpertSpec], dict[str, str]]:
        """Return the specs of the experts that are known without a download, and why the others are not.

        A neural expert's spec is read from its store, once its features have been extracted; before that, its width is assumed
        where its checkpoint is the default.
        """
        from coat_core.experts.store.store import ExpertStore

        known: dict[str, ExpertSpec] = {}
        unknown: dict[str, str] = {}
        for key, expert in self.experts.items():
            try:
                if expert.implementation in EXPERTS:
                    known[key] = load_expert(expert.implementation).spec
                else:
                    known[key] = ExpertStore.open(self.workspace / "features" / key).spec
            except (CoatError, OSError):
                if expert.checkpoint is None and expert.implementation in _DEFAULT_WIDTHS:
                    known[key] = _assumed(expert.implementation)
                    continue
                unknown[key] = f"{expert.implementation}: its width is known once features/{key} is there"
        return known, unknown


def _assumed(implementation: str) -> ExpertSpec:
    dim, rate = _DEFAULT_WIDTHS[implementation]
    return ExpertSpec(
        implementation, "speech", "regression", dim, rate, 16_000, ASSUMED, "", True, "", tuple(str(index) for index in range(dim))
    )
