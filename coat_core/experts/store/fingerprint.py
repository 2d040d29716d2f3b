"""Fingerprint of an expert's behaviour: features of an earlier run are reused only if the fingerprint is the same.

The fingerprint of an acoustic expert includes its features of a fixed sound. That of a neural expert does not: their last bits depend on
the processor, and an extraction may continue on another machine. It includes the weights and the spec instead; raise the spec's version
when the code changes.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from coat_core.corpus.audio import decode, write_flac
from coat_core.experts.base import Expert
from coat_core.hub import checkpoint_folder
from coat_core.settings import ExpertSettings
from coat_core.settings.base import is_commit
from coat_core.storage import sha256_bytes, sha256_file, sha256_json

_SOUND_RATE_HZ = 22050


def neural_fingerprint(expert: Expert, settings: ExpertSettings) -> str:
    """Return the SHA-256 of the spec, which names checkpoint, commit, layers and data type.

    For a folder or a moving revision, the hash of the files replaces the name.
    """
    spec = expert.spec.to_json()
    source, revision = expert.spec.checkpoint, settings.revision
    if source is not None and Path(source).is_dir():
        spec |= {"checkpoint": _files(Path(source)), "revision": None}
    elif source is not None and revision is not None and not is_commit(revision):
        spec["revision"] = _files(checkpoint_folder(source, revision, field="experts.*.checkpoint", allow_moving=True))
    return sha256_json(spec)


def _files(folder: Path) -> str:
    """Return one SHA-256 of weights and configuration."""
    names = sorted(path.name for path in folder.iterdir() if path.suffix in (".safetensors", ".bin", ".json") and path.is_file())
    return sha256_json({name: sha256_file(folder / name) for name in names})


def acoustic_fingerprint(expert: Expert) -> str:
    """Return the SHA-256 of the spec and of the features of a fixed sound, after decoding and resampling.

    A change of the decoder, a library or the expert changes the fingerprint even if the version is the same; a comment does not.
    """
    waveform = fixed_sound(expert.spec.sample_rate_hz)
    with np.errstate(over="ignore"):
        features = expert(waveform[None], np.array([len(waveform)]))[0].astype(np.float16)
    return sha256_json({"spec": expert.spec.to_json(), "features": sha256_bytes(features.tobytes())})


def fixed_sound(sample_rate_hz: int) -> NDArray[np.float32]:
    """Return a fixed sound of one second `[N]`, decoded from a file and resampled to `sample_rate_hz`."""
    time = np.arange(_SOUND_RATE_HZ) / _SOUND_RATE_HZ
    ticks = np.arange(_SOUND_RATE_HZ, dtype=np.int64)
    # A rising tone with harmonics, hiss, silence and a clipped end: every expert has features that depend on it.
    hiss = ((ticks * ticks * 7919 + ticks * 104729) % 65521) / 32760.0 - 1.0
    glide = np.sin(2.0 * np.pi * (150.0 + 100.0 * time) * time)
    sound = 0.3 * glide + 0.2 * glide**3 + 0.05 * hiss
    sound[_SOUND_RATE_HZ // 2 : _SOUND_RATE_HZ * 5 // 8] = 0.0
    sound[_SOUND_RATE_HZ * 3 // 4 :] *= 4.0
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "sound.flac"
        write_flac(path, np.clip(sound, -1.0, 1.0), _SOUND_RATE_HZ)
        return decode(path, sample_rate_hz=sample_rate_hz)
