"""The sections of params that `coat doctor --published` reads; defaults if there is no params file."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from coat_core.errors import CoatError
from coat_core.experts.base import ExpertSpec
from coat_core.experts.catalogue import ACOUSTIC, load_expert
from coat_core.settings import (
    BackboneSettings,
    Dtype,
    ExpertSettings,
    HeadSettings,
    LoraSettings,
    ThinkingSettings,
    TrainingSettings,
    load_settings,
)

ASSUMED = "assumed"
"""Version of a spec with an assumed width."""
_DEFAULT_EXPERTS = {
    "reconstruction": ExpertSettings(implementation="log_mel"),
    "speech": ExpertSettings(implementation="mfcc"),
    "events": ExpertSettings(implementation="spectral_events"),
    "affect": ExpertSettings(implementation="prosody"),
    "pitch": ExpertSettings(implementation="f0_bins"),
}
_DEFAULT_WIDTHS = {"speech_encoder": (768, 50.0), "audio_events": (527, 2.0), "speech_emotion": (4, 50.0), "codec": (512, 12.5)}
"""Width and frames per second of neural experts with their default checkpoints, from the models' papers and cards."""


@dataclass(frozen=True)
class Params:
    """Sections of params. `answers` is the evaluation batch size; paths are relative to `workspace`."""

    lora: LoraSettings = field(default_factory=LoraSettings)
    thinking: ThinkingSettings = field(default_factory=ThinkingSettings)
    heads: HeadSettings = field(default_factory=HeadSettings)
    training: TrainingSettings = field(default_factory=TrainingSettings)
    experts: dict[str, ExpertSettings] = field(default_factory=lambda: dict(_DEFAULT_EXPERTS))
    backbones: dict[str, BackboneSettings] = field(default_factory=dict)
    max_duration_s: float = 30.0
    answers: int = 32
    new_tokens: int = 64
    workspace: Path = Path()

    @classmethod
    def read(cls, path: Path | None = None) -> Params:
        """Read a params file; None: `params.yaml` of the working directory if it exists, else the defaults.

        Raises:
            SettingsError: the file is missing or invalid.
        """
        if path is None and not Path("params.yaml").exists():
            return cls()
        file = path or Path("params.yaml")
        settings = load_settings(file)
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
            file.parent,
        )

    def batch(self, audio_s: float) -> int:
        """Return the examples per forward pass for clips of that length: `batch_size`, limited by `batch_seconds`."""
        limit = self.training.batch_seconds
        return self.training.batch_size if limit is None else min(self.training.batch_size, max(1, int(limit // audio_s)))

    def dtype(self, key: str) -> tuple[str, Dtype, str]:
        """Return the dtype of the weights, the precision of the computation, and a note on their source.

        If the base in params is a local folder, most often a tiny base, its dtype does not apply to the full-size model: bfloat16 is
        assumed.
        """
        backbone = self.backbones.get(key)
        if backbone is None or (self.workspace / backbone.base).is_dir():
            return "bfloat16", "bfloat16", "params contain no hub id for this backbone: bfloat16 weights and precision are assumed"
        return backbone.dtype, self.training.precision, f"dtype and precision are those of params, with the base {backbone.base}"

    def specs(self) -> tuple[dict[str, ExpertSpec], dict[str, str]]:
        """Return the specs that are known without a download, and for each other expert the reason why its spec is not known.

        A neural expert's spec is read from its store after feature extraction. Before that, its width is assumed if its checkpoint
        is the default.
        """
        from coat_core.experts.store.store import ExpertStore

        known: dict[str, ExpertSpec] = {}
        unknown: dict[str, str] = {}
        for key, expert in self.experts.items():
            try:
                if expert.implementation in ACOUSTIC:
                    known[key] = load_expert(expert.implementation).spec
                else:
                    known[key] = ExpertStore.open(self.workspace / "features" / key).spec
            except (CoatError, OSError):
                if expert.checkpoint is None and expert.implementation in _DEFAULT_WIDTHS:
                    known[key] = _assumed(expert.implementation)
                    continue
                unknown[key] = f"{expert.implementation}: its width is known after feature extraction (features/{key})"
        return known, unknown


def _assumed(implementation: str) -> ExpertSpec:
    dim, rate = _DEFAULT_WIDTHS[implementation]
    return ExpertSpec(
        implementation, "speech", "regression", dim, rate, 16_000, ASSUMED, "", True, "", tuple(str(index) for index in range(dim))
    )
