"""The encoder of OpenAI's Whisper base, with its published weights."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from coat_core.corpus.generated.speech import VOICES, Synthesiser
from coat_core.experts.catalogue import load_expert
from coat_core.experts.neural.base import NeuralExpert
from coat_core.settings import ExpertSettings

FOLDER = Path(os.environ.get("COAT_MODELS", Path(__file__).parents[3] / "shared" / "models")) / "whisper-base-encoder"

pytestmark = pytest.mark.skipif(not (FOLDER / "model.safetensors").is_file(), reason=f"no Whisper encoder in {FOLDER}; set COAT_MODELS")


@pytest.fixture(scope="module")
def expert() -> NeuralExpert:
    settings = ExpertSettings(
        implementation="speech_encoder", checkpoint=str(FOLDER), accept_licence="MIT", layers=(6,), window_s=1.0, pool_frames=2
    )
    found = load_expert("speech_encoder", settings)
    assert isinstance(found, NeuralExpert)
    return found


def test_a_folder_with_the_encoder_only_is_a_checkpoint(expert: NeuralExpert) -> None:
    spec = expert.spec
    assert (spec.dim, spec.native_rate_hz, spec.layers, spec.window_s, spec.pool_frames) == (512, 25.0, (6,), 1.0, 2)
    assert (spec.licence, spec.commercial_use) == ("MIT", True)
    features, mask = expert(np.zeros((1, 8000), np.float32), np.array([8000]))
    assert features.shape == (1, 13, 512)
    assert mask.all()
    assert np.isfinite(features).all()


def test_the_states_depend_on_the_word_more_than_on_the_speaker(expert: NeuralExpert) -> None:
    words, voices = ("seven", "four", "yes"), (VOICES["test"][0], VOICES["test"][1])
    means = {}
    with Synthesiser() as synthesiser:
        for word in words:
            for voice in voices:
                speech = synthesiser.speak(word, voice)
                means[word, voice] = expert(speech[None], np.array([len(speech)]))[0][0].mean(axis=0)
    centre = np.mean(list(means.values()), axis=0)
    unit = {key: (mean - centre) / np.linalg.norm(mean - centre) for key, mean in means.items()}
    for word in words:
        nearest = max(words, key=lambda other: float(unit[word, voices[0]] @ unit[other, voices[1]]))
        assert nearest == word
