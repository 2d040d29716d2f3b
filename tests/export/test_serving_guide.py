"""The Python code in docs/serving.md runs as printed, on small exports, and gives the answers of the release."""

from __future__ import annotations

import re
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coat_core.export.export import export
from tests.testing.exports import write_trained

GUIDE = Path(__file__).resolve().parents[2] / "docs/serving.md"
BLOCKS = re.findall(r"```python\n(.*?)```", GUIDE.read_text(), re.S)
QUESTION = "What do you hear?"


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory, tiny_bases: dict[str, Path]) -> Path:
    """A folder with releases, their exports and a clip."""
    root = tmp_path_factory.mktemp("serving")
    for key in ("qwen2_audio", "qwen2_5_omni"):
        write_trained(key, tiny_bases[key], root / key, scale=0.08)
    export(str(root / "qwen2_audio"), root / "exports/merged", merge=True, dtype="float32", progress=str)
    export(str(root / "qwen2_audio"), root / "exports/adapter", dtype="float32", progress=str)
    export(str(root / "qwen2_5_omni"), root / "exports/omni", merge=True, dtype="float32", progress=str)
    samples = 0.3 * np.sin(2 * np.pi * 440 * np.arange(12_000) / 16_000)
    with wave.open(str(root / "clip.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16_000)
        file.writeframes((samples * 32767).astype("<i2").tobytes())
    return root


def test_the_guide_has_three_python_blocks() -> None:
    assert [re.findall(r'folder = "exports/(\w+)"', block) for block in BLOCKS] == [["merged"], ["adapter"], ["omni"]]


@pytest.mark.slow
@pytest.mark.parametrize(("number", "key"), [(0, "qwen2_audio"), (1, "qwen2_audio"), (2, "qwen2_5_omni")])
def test_a_code_block_gives_the_answer_of_the_release(exports: Path, monkeypatch: pytest.MonkeyPatch, number: int, key: str) -> None:
    from coat_core.backbones.base import Query
    from coat_core.corpus.audio import decode
    from coat_core.evaluation.generate import generate_texts
    from coat_core.thinking.release import load_release

    monkeypatch.chdir(exports)
    # The guide loads the format of the base's files; here both sides compute in float32, so that there are no ties.
    scope: dict[str, Any] = {}
    code = BLOCKS[number].replace('device_map="cpu"', 'device_map="cpu", dtype="float32"')
    exec(compile(code, str(GUIDE), "exec"), scope)
    query = Query("clip", decode(Path("clip.wav")), QUESTION)
    assert scope["answer"].strip() == generate_texts(load_release(exports / key, merge=False).backbone, [query], 64)[0]
    assert scope["answer"].strip()
