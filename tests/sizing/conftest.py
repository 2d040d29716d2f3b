"""The diagnoses of the three published bases, made once."""

from __future__ import annotations

import pytest

from coat_core.settings import ThinkingSettings, TrainingSettings
from coat_core.sizing.diagnosis import Diagnosis, SizingRequest, diagnose
from coat_core.sizing.params import Params
from coat_core.sizing.published import PUBLISHED


@pytest.fixture(scope="session")
def diagnoses() -> dict[str, Diagnosis]:
    training = TrainingSettings(batch_size=8, gradient_checkpointing=True, precision="bfloat16")
    params = Params(training=training, thinking=ThinkingSettings(tokens=25, rows="shared"), answers=8)
    return {key: diagnose(key, params, SizingRequest(audio_s=30.0)) for key in PUBLISHED}
