from __future__ import annotations

import shutil
from pathlib import Path

from coat_core.registry.packaging import read_info
from coat_core.registry.versions import unpack
from tests.testing.served import Served, direct_answer


def test_an_unpacked_release_loads_on_the_base_that_was_packed_with_it(served: Served, tmp_path: Path, wav: Path) -> None:
    shutil.rmtree(served.workspace / "bases")
    release = unpack("models:/coat-qwen2-audio/1", tmp_path / "back", served.workspace)
    assert read_info(release)["base"]["id"] == str(tmp_path / "back" / "base")
    assert direct_answer(release, wav) == served.answer
