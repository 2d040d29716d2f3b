"""What every test shares: an offline, silent environment, and tiny bases with random weights."""

from __future__ import annotations

import os

os.environ.update(
    {
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "DO_NOT_TRACK": "1",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "GX_ANALYTICS_ENABLED": "false",
        "DVC_NO_ANALYTICS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "OMP_NUM_THREADS": "1",
    }
)

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from coat_core.backbones.base import Backbone

# The same examples in every run, and no clock: a busy machine is slow by spells.
settings.register_profile("tests", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("tests")

BACKBONE_KEYS = ("qwen2_audio", "qwen2_5_omni", "audio_flamingo_3")
TEXTS = (
    "What sound is this? Choices: dog bark, siren, rain.",
    "Which instrument plays? Choices: flute, violin, piano.",
    "What does the voice say? one two three four five six seven eight nine zero",
    "How does the speaker feel? Choices: happy, sad, angry, calm.",
    "How many beeps do you hear? Which comes first? Is it higher or lower?",
)


def pytest_configure(config: pytest.Config) -> None:
    """Let pass the one deprecation that PEFT itself has not followed yet; every other warning is an error."""
    config.addinivalue_line("filterwarnings", "ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip, or fail, a test whose service is missing, before its fixtures start anything."""
    if item.get_closest_marker("service"):
        from tests.testing.services import check_services

        check_services(item)


@pytest.fixture(params=BACKBONE_KEYS)
def backbone_key(request: pytest.FixtureRequest) -> str:
    """Each of the three LALMs in turn."""
    return str(request.param)


@pytest.fixture(scope="session")
def tiny_bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of tiny bases with random weights, by backbone key; read them, never write."""
    import torch
    import transformers

    from coat_core.tiny_bases.config import save_random_base

    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    root = tmp_path_factory.mktemp("bases")
    for key in BACKBONE_KEYS:
        save_random_base(key, root / key, texts=TEXTS)
    return {key: root / key for key in BACKBONE_KEYS}


@pytest.fixture
def backbone(backbone_key: str, tiny_bases: dict[str, Path]) -> Backbone:
    """A new model that a test can change."""
    from coat_core.backbones.catalogue import load_backbone

    return load_backbone(backbone_key, str(tiny_bases[backbone_key]))
