"""The recipe for an expert in docs/extending.md works as printed."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from coat_core.experts import catalogue
from coat_core.experts.store.store import ExpertStore

GUIDE = Path(__file__).resolve().parent.parent / "docs/extending.md"


def test_no_recipe_is_longer_than_forty_lines() -> None:
    blocks = re.findall(r"```python\n(.*?)```", GUIDE.read_text(), re.S)
    assert len(blocks) == 3
    assert all(len(block.splitlines()) < 40 for block in blocks)


def test_the_expert_of_the_guide_is_extracted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from coat_core.corpus.audio import write_flac
    from coat_core.corpus.examples import Example
    from coat_core.experts.store.extraction import extract_features
    from coat_core.storage import sha256_file

    code = next(block for block in re.findall(r"```python\n(.*?)```", GUIDE.read_text(), re.S) if "acoustic/rhythm.py" in block)
    module = ModuleType("rhythm_of_the_guide")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(compile(code, "rhythm.py", "exec"), module.__dict__)
    monkeypatch.setitem(catalogue.ACOUSTIC, "rhythm", module.__name__)

    click = np.zeros(16_000, np.float32)
    click[8_000:8_400] = 0.5
    (tmp_path / "audio").mkdir()
    write_flac(tmp_path / "audio/a.flac", click, 16_000)
    row = Example(
        id="a",
        audio="audio/a.flac",
        sha256=sha256_file(tmp_path / "audio/a.flac"),
        duration_s=1.0,
        sample_rate_hz=16_000,
        split="train",
        group="g",
        family="understanding",
        task="sound",
        question="?",
        choices=None,
        answer="x",
        source="test",
        licence="CC0-1.0",
    )
    extract_features("rhythm", "rhythm", [row], tmp_path, tmp_path / "store")
    store = ExpertStore.open(tmp_path / "store")
    frames, mask = store.get(row.sha256)
    assert frames.shape == (50, 2)
    assert mask.all()
    assert abs(int(np.asarray(frames)[:, 0].argmax()) - 25) <= 1
