"""Neural experts over tiny checkpoints in the published layouts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from coat_core.experts.neural.base import NeuralExpert


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory, tiny_bases: dict[str, Path]) -> dict[str, Path]:
    """Folders of tiny checkpoints; read them, never write."""
    import torch
    import transformers

    from tests.testing.expert_checkpoints import save_all

    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    folders = save_all(tmp_path_factory.mktemp("published"))
    return folders | {key: tiny_bases[key] for key in ("qwen2_audio", "audio_flamingo_3")}


@pytest.fixture(scope="session")
def tiny_expert(checkpoints: dict[str, Path]) -> Callable[[str], NeuralExpert]:
    """Return the expert of one of these checkpoints; each is built once."""
    from coat_core.experts.catalogue import load_expert
    from coat_core.settings import ExpertSettings
    from tests.testing.expert_checkpoints import IMPLEMENTATIONS

    built: dict[str, NeuralExpert] = {}

    def get(name: str) -> NeuralExpert:
        if name not in built:
            settings = ExpertSettings(implementation=IMPLEMENTATIONS[name], checkpoint=str(checkpoints[name]), accept_licence="MIT")
            expert = load_expert(IMPLEMENTATIONS[name], settings)
            assert isinstance(expert, NeuralExpert)
            built[name] = expert
        return built[name]

    return get
