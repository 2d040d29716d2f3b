"""Checkpoints of the three LALMs in the published layout, created once a session."""

from __future__ import annotations

from pathlib import Path

import pytest

TEXTS = ("What sound is this? Choices: dog bark, siren, rain.", "Is it higher or lower? one two three four five six seven eight nine")


@pytest.fixture(scope="session")
def published_folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders in the published layout by backbone key. They are shared: tests must not write to them."""
    import torch
    import transformers

    from tests.testing.published_layout import PUBLISHED, save_published

    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    root = tmp_path_factory.mktemp("published")
    for key in PUBLISHED:
        save_published(key, root / key, texts=TEXTS)
    return {key: root / key for key in PUBLISHED}
