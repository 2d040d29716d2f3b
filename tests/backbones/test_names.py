"""Only the files listed here contain the key or the class of a backbone."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

from coat_core.backbones.catalogue import BACKBONES, load_architecture
from coat_core.settings.base import BACKBONE_NAMES, BackboneKey
from coat_core.sizing.published import PUBLISHED
from coat_core.tiny_bases.config import TINY

ROOT = Path(__file__).resolve().parents[2]
ALLOWED = {
    "coat_core/backbones/catalogue.py": "the catalogue",
    "coat_core/settings/base.py": "the type of the keys, and their display names",
    "coat_core/settings/sections.py": "the default names of the registered models",
    "coat_core/sizing/published.py": "the published checkpoints",
    "coat_core/tiny_bases/config.py": "the tiny configurations",
    "coat_core/experts/neural/lalm_tower.py": "an expert made from a published audio tower: model types of transformers",
}


def test_no_other_file_names_a_backbone() -> None:
    words = [*BACKBONES, *(type(load_architecture(key)).__name__ for key in BACKBONES)]
    pattern = re.compile(rf"\b(?:{'|'.join(words)})\b")
    own = {f"coat_core/backbones/{key}.py" for key in BACKBONES}
    naming = {
        str(path.relative_to(ROOT))
        for folder in ("coat_core", "flows")
        for path in (ROOT / folder).rglob("*.py")
        if pattern.search(path.read_text())
    }
    assert naming == own | ALLOWED.keys()


def test_every_list_of_backbones_is_complete() -> None:
    for keys in (get_args(BackboneKey), BACKBONE_NAMES, PUBLISHED, TINY):
        assert tuple(keys) == BACKBONES
