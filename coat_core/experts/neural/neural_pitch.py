"""Pitch expert: SwiftF0, a small convolutional pitch tracker whose package contains its weights.

Nieradzik, "SwiftF0" (2025, arXiv 2508.18440; since 0.2 another network, described in its training repository): 14,386 parameters, MIT, run
by onnxruntime on the CPU with any `device` in params. The weights are MIT; their training data set is published for research use
only (CC BY-NC-SA 4.0) and includes the pitch labels of NSynth.
The model was trained on voices and instruments: a pure tone below 250 Hz gets the right pitch but often too little confidence to count as
voiced, and the first frame of a clip that begins in the middle of a tone is unvoiced.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coat_core.errors import ExpertError
from coat_core.experts.acoustic.f0 import HIGHEST_HZ, LOWEST_HZ, bin_names, semitone_posteriors
from coat_core.experts.base import ExpertSpec, check_batch
from coat_core.settings import ExpertSettings

SAMPLE_RATE_HZ = 16000
HOP = 256
_HALF_SEMITONE = 2 ** (0.5 / 12)
_VOICED = 0.5
"""Least confidence of a voiced frame."""
_UNVOICED_AT_MOST = 0.45


@dataclass(frozen=True)
class NeuralPitch:
    """A pitch tracker behind the expert's interface: 62.5 frames a second, frame t centred on sample 256 t.

    Clips are processed one by one (100 times real time on a core), so a clip's frames are bitwise the same alone and in any batch.
    Clips of more than 30 s are processed in windows of 30 s with the model's receptive field (176 ms) as context on each side.
    """

    spec: ExpertSpec
    detector: Any

    def __call__(self, waveforms: NDArray[np.float32], lengths: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Return features `[B, T, 62]` (float32) and mask `[B, T]`, T = ceil(longest / 256).

        Raises:
            ExpertError: the shapes do not match, or a length is less than 1 or greater than N.
        """
        check_batch(waveforms, lengths)
        clips = [self._track(row[:length]) for row, length in zip(waveforms, lengths, strict=True)]
        features = np.zeros((len(clips), max(map(len, clips), default=0), self.spec.dim), dtype=np.float32)
        mask = np.zeros(features.shape[:2], dtype=np.bool_)
        for row, clip in enumerate(clips):
            features[row, : len(clip)], mask[row, : len(clip)] = clip, True
        return features, mask

    def _track(self, waveform: NDArray[np.float32]) -> NDArray[np.float64]:
        # The tracker drops an incomplete hop. Padding with silence keeps every frame whose centre is in the clip.
        whole = np.pad(waveform, (0, -len(waveform) % HOP))
        found = self.detector.detect(whole, SAMPLE_RATE_HZ)
        in_range = (found.pitch_hz > LOWEST_HZ / _HALF_SEMITONE) & (found.pitch_hz < HIGHEST_HZ * _HALF_SEMITONE)
        voiced = in_range & (found.confidence >= _VOICED)
        # A pitch outside the bins counts as unvoiced, as in `f0_bins`.
        voicing = np.where(voiced, found.confidence, np.minimum(found.confidence, _UNVOICED_AT_MOST))
        return np.concatenate([semitone_posteriors(np.where(voiced, found.pitch_hz, 0.0)), voicing[:, None]], axis=1)


def build(settings: ExpertSettings) -> NeuralPitch:
    """Return the expert `neural_pitch`.

    Raises:
        ExpertError: the package is not installed, or params set a checkpoint, a revision, layers or a data type, which have no effect here.
    """
    for field in ("checkpoint", "revision", "layers"):
        if getattr(settings, field) is not None:
            raise ExpertError(f"the weights of neural_pitch are part of its package; {field} cannot be set", field=f"experts.*.{field}",
                              value=getattr(settings, field), next_step=f"remove {field}")  # fmt: skip
    if settings.dtype != "float32":
        raise ExpertError("neural_pitch computes in float32", field="experts.*.dtype", value=settings.dtype, allowed=["float32"])
    try:
        import swift_f0
    except ImportError as error:
        raise ExpertError(
            f"neural_pitch requires packages that are not installed ({error})", field="experts.*.implementation", value="neural_pitch",
            next_step="pip install 'coat[pitch]' (in a checkout: .venv/bin/python -m pip install -e '.[pitch]'), or use f0_bins",
        ) from error  # fmt: skip
    spec = ExpertSpec(
        implementation="neural_pitch",
        kind="pitch",
        target="pitch_bins",
        dim=len(bin_names()),
        native_rate_hz=SAMPLE_RATE_HZ / HOP,
        sample_rate_hz=SAMPLE_RATE_HZ,
        version="1",
        licence="MIT",
        commercial_use=True,
        source="SwiftF0 (Nieradzik 2025, arXiv 2508.18440), blurred one-hot semitones (as CREPE 2018)",
        dim_names=bin_names(),
        checkpoint="swift-f0 (package)",
        revision=swift_f0.__version__,
        fitted_on="F0 labels of MDB-stem-synth, NSynth, PTDB-TUG, MOCHA-TIMIT and CMU Arctic",
    )
    # One thread: another number of threads may round sums differently.
    return NeuralPitch(spec, swift_f0.SwiftF0(threads=1, spin=False))
