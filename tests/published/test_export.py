"""Exports of releases on checkpoints in the published layout: shards, prefixes, talker, full-size vocabularies, older templates."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from coat_core.errors import HubUnreachableError, ReleaseError
from coat_core.export.export import export
from coat_core.export.weights import WeightFiles
from tests.testing.exports import our_answer, stock_answers, write_trained
from tests.testing.published_layout import PUBLISHED, put_in_cache

pytestmark = [pytest.mark.slow, pytest.mark.published]


def discard(line: str) -> None:
    """Print nothing."""


@pytest.fixture
def hub(published_folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A cache with the three repositories at their commits; the hub itself cannot be reached."""
    from huggingface_hub import constants

    cache = tmp_path / "cache"
    for key, folder in published_folders.items():
        put_in_cache(PUBLISHED[key].repository, PUBLISHED[key].commit, folder, cache)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setenv("HF_HUB_CACHE", str(cache))
    return cache


@pytest.mark.parametrize("key", PUBLISHED)
def test_a_merged_export_has_the_published_layout_and_gives_the_same_answers(
    published_folders: dict[str, Path], hub: Path, tmp_path: Path, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    published, base = PUBLISHED[key], published_folders[key]
    release = write_trained(key, base, tmp_path / "release", base_id=published.repository, revision=published.commit)
    done = export(str(release), tmp_path / "out", merge=True, progress=discard)
    assert {path.name for path in done.folder.glob("model*")} == {path.name for path in base.glob("model*")}, "shards and index"
    assert len(list(done.folder.glob("*.safetensors"))) > 1
    before, after = WeightFiles(base), WeightFiles(done.folder)
    assert after.tensors == before.tensors, "names, shapes, formats and files are equal"
    changed = [name for name in before.tensors if not torch.equal(before.read(name), after.read(name))]
    assert len(changed) == 3 * 7 + 1
    embedding = next(name for name in changed if name.endswith("embed_tokens.weight"))
    assert after.tensors[embedding].shape[0] == published.vocabulary
    assert not [name for name in changed if name.startswith(("talker", "token2wav"))]
    assert (done.folder / "config.json").read_bytes() == (base / "config.json").read_bytes()
    for name in ("preprocessor_config.json", "processor_config.json"):
        assert not (base / name).exists() or (done.folder / name).read_bytes() == (base / name).read_bytes()
    assert [path.name for path in done.folder.rglob("*chat_template*")] == ["chat_template.jinja"]
    assert not (done.folder / "spk_dict.pt").exists()
    generation = json.loads((done.folder / "generation_config.json").read_text())
    assert (generation["do_sample"], generation["temperature"], generation["repetition_penalty"]) == (False, 1.0, 1.0)
    assert done.record["base"] == {"id": published.repository, "revision": published.commit, "licence": "Apache-2.0"}
    adapter = export(str(release), tmp_path / "adapter", progress=discard)
    config = json.loads((adapter.folder / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["revision"]) == (published.repository, published.commit)
    ours = export(str(release), tmp_path / "float32", merge=True, dtype="float32", progress=discard)
    _name_base(adapter.folder, base)
    block = json.loads((release / "coat.json").read_text())["block"]
    for answer in stock_answers(tmp_path, [ours.folder, adapter.folder]):
        assert (answer["input_ids"], answer["answer_ids"]) == our_answer(release)
        assert answer["text"].count(block["start_token"]) == 1


def _name_base(adapter: Path, base: Path) -> None:
    """Set the base of an adapter to a folder, because the process without our package has no hub cache."""
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": str(base), "revision": None}))


def test_an_invalid_pickle_of_speakers_is_not_copied(published_folders: dict[str, Path], tmp_path: Path) -> None:
    release = write_trained("qwen2_5_omni", published_folders["qwen2_5_omni"], tmp_path / "release")
    with pytest.raises(ReleaseError, match="more than tensors"):
        export(str(release), tmp_path / "out", merge=True, speakers=True, progress=discard)
    assert not (tmp_path / "out").exists()


def test_a_hub_base_that_is_not_cached_is_an_error_without_the_hub(
    published_folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "empty"))
    published = PUBLISHED["qwen2_audio"]
    base = published_folders["qwen2_audio"]
    release = write_trained("qwen2_audio", base, tmp_path / "release", base_id=published.repository, revision=published.commit)
    with pytest.raises(HubUnreachableError, match="hub cannot be reached"):
        export(str(release), tmp_path / "out", merge=True, progress=discard)
