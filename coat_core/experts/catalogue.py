"""Catalogue of experts by name; the module of an expert is imported when the expert is built."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from coat_core.errors import ExpertError
from coat_core.experts.base import Expert, ExpertSpec

if TYPE_CHECKING:
    from coat_core.settings import ExpertSettings

ACOUSTIC: dict[str, str] = {
    "log_mel": "coat_core.experts.acoustic.log_mel",
    "mfcc": "coat_core.experts.acoustic.mfcc",
    "spectral_events": "coat_core.experts.acoustic.spectral_events",
    "prosody": "coat_core.experts.acoustic.prosody",
    "f0_bins": "coat_core.experts.acoustic.f0",
    "sound_classifier": "coat_core.experts.classifiers.sound",
    "style_classifier": "coat_core.experts.classifiers.style",
    "word_classifier": "coat_core.experts.classifiers.word",
}
"""Acoustic experts: implementation name → module with a function `build() -> Expert`. To add an expert, add a line."""

NEURAL: dict[str, str] = {
    "speech_encoder": "coat_core.experts.neural.speech_encoder",
    "audio_events": "coat_core.experts.neural.audio_events",
    "speech_emotion": "coat_core.experts.neural.speech_emotion",
    "codec": "coat_core.experts.neural.codec",
    "lalm_tower": "coat_core.experts.neural.lalm_tower",
    "neural_pitch": "coat_core.experts.neural.neural_pitch",
}
"""Neural experts: implementation name → module with a function `build(settings: ExpertSettings) -> Expert`."""
PACKAGED = ("neural_pitch",)
"""Neural experts whose weights are part of an installed package; params cannot set their checkpoint."""


def load_expert(implementation: str, settings: ExpertSettings | None = None) -> Expert:
    """Build an expert by its implementation name.

    Args:
        implementation: a name of `ACOUSTIC` or `NEURAL`.
        settings: the expert's section of params, unused by acoustic experts; None: the implementation's defaults.

    Raises:
        ExpertError: no expert has this name, or its checkpoint or licence is refused.
        CheckpointError: the checkpoint is not on this disk and cannot be fetched.
    """
    expert: Expert
    if implementation in ACOUSTIC:
        expert = import_module(ACOUSTIC[implementation]).build()
    elif implementation in NEURAL:
        from coat_core.settings import ExpertSettings

        expert = import_module(NEURAL[implementation]).build(settings or ExpertSettings(implementation=implementation))
    else:
        raise ExpertError(
            "no expert has this name",
            field="experts.*.implementation",
            value=implementation,
            allowed=[*sorted(ACOUSTIC), *sorted(NEURAL)],
            next_step="fix params.yaml, or add the expert to coat_core/experts/catalogue.py",
        )
    return expert


def build_expert(spec: ExpertSpec) -> Expert:
    """Build the expert of a store's or a release's spec, on the CPU.

    Its licence counts as accepted, because it was accepted when the features were extracted.

    Raises:
        ExpertError: no expert has this name, or its checkpoint cannot be used.
        CheckpointError: the checkpoint is not on this disk and cannot be fetched.
    """
    if spec.implementation not in NEURAL or spec.implementation in PACKAGED:
        return load_expert(spec.implementation)
    from coat_core.settings import ExpertSettings
    from coat_core.settings.base import is_commit

    settings = ExpertSettings(
        implementation=spec.implementation,
        checkpoint=spec.checkpoint,
        revision=spec.revision,
        allow_moving_revision=spec.revision is not None and not is_commit(spec.revision),
        layers=spec.layers or None,
        window_s=spec.window_s,
        pool_frames=spec.pool_frames,
        accept_licence=spec.licence,
        dtype="bfloat16" if spec.precision == "bfloat16" else "float32",
    )
    return load_expert(spec.implementation, settings)
