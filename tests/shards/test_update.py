"""Stores of corpora that grow and shrink, so that shards are divided and joined, with a kill anywhere on the way."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coat_core.audio_store.extraction import extract_audio
from coat_core.backbones.catalogue import load_backbone
from coat_core.corpus.audio import decode
from coat_core.corpus.examples import Example
from coat_core.experts import catalogue
from coat_core.experts.store import plan, waveforms
from coat_core.experts.store.extraction import extract_features
from coat_core.experts.store.store import ExpertStore
from coat_core.settings import ExpertSettings
from coat_core.shards import layout
from tests.testing import batch_marker_expert
from tests.testing.clips import file_hashes, make_clip
from tests.testing.kills import Killed, killed_at

COUNT = 16
SMALL, LARGE = 5_000, 1 << 28
"""Limits in bytes: shards of one or two clips of log-mel features, and shards of all clips with the same first digit."""


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Example]]:
    corpus = tmp_path_factory.mktemp("corpus")
    return corpus, [make_clip(corpus, seed) for seed in range(COUNT)]


@pytest.fixture(autouse=True)
def _few_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout, "PREFIX_LENGTH", 0)


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the audio files that are decoded, in order."""
    found: list[str] = []
    monkeypatch.setattr(waveforms, "decode", lambda path, **options: found.append(path.name) or decode(path, **options))
    return found


def _extract(corpus: Path, examples: list[Example], target: Path, limit: int) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layout, "LIMIT_BYTES", limit)
        extract_features("reconstruction", "log_mel", examples, corpus, target)
    return target


def _shards(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("shard-*"))


def test_a_shard_above_the_limit_is_divided_and_joined_again_without_computation(
    clips: tuple[Path, list[Example]], tmp_path: Path, decoded: list[str]
) -> None:
    corpus, examples = clips
    divided, joined = (_extract(corpus, examples, tmp_path / str(limit), limit) for limit in (SMALL, LARGE))
    assert len(_shards(divided)) > 6
    assert len(_shards(joined)) == 1
    decoded.clear()
    store = shutil.copytree(joined, tmp_path / "store")
    for limit, expected in ((SMALL, divided), (LARGE, joined)):
        assert file_hashes(_extract(corpus, examples, store, limit)) == file_hashes(expected)
    assert decoded == []


@settings(max_examples=25)
@given(data=st.data())
def test_a_corpus_that_grows_or_shrinks_and_a_kill_give_the_bytes_of_a_new_extraction(
    clips: tuple[Path, list[Example]], data: st.DataObject
) -> None:
    corpus, examples = clips
    subsets = st.sets(st.integers(0, COUNT - 1), min_size=1).map(lambda chosen: [examples[n] for n in sorted(chosen)])
    limits = st.sampled_from([SMALL, 20_000, LARGE])
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        decoded: list[str] = []
        patch.setattr(waveforms, "decode", lambda path, **options: decoded.append(path.name) or decode(path, **options))
        store = Path(name) / "store"
        before = data.draw(subsets, label="before")
        _extract(corpus, before, store, data.draw(limits, label="limit before"))
        unchanged = file_hashes(store)
        after, limit = data.draw(subsets, label="after"), data.draw(limits, label="limit after")
        decoded.clear()
        for at in data.draw(st.lists(st.integers(1, 12), max_size=2), label="kills"):
            try:
                with killed_at(at, removals=True):
                    _extract(corpus, after, store, limit)
            except Killed:
                assert not (store / "index.json").exists() or file_hashes(store) == unchanged
        _extract(corpus, after, store, limit)
        new = {Path(example.audio).name for example in after} - {Path(example.audio).name for example in before}
        assert set(decoded) == new, "a clip that is on disk is never computed again"
        assert file_hashes(store) == file_hashes(_extract(corpus, after, Path(name) / "new", limit))
        assert set(ExpertStore.open(store)) == {example.sha256 for example in after}


def test_of_a_divided_shard_the_file_stays_until_all_its_clips_are_in_new_shards(
    clips: tuple[Path, list[Example]], tmp_path: Path, decoded: list[str]
) -> None:
    corpus, examples = clips
    whole = _extract(corpus, examples, tmp_path / "joined", LARGE)
    expected = _extract(corpus, examples, tmp_path / "divided", SMALL)
    decoded.clear()
    for at in range(1, len(_shards(expected)) + 1):
        store = shutil.copytree(whole, tmp_path / str(at))
        with pytest.raises(Killed), killed_at(at):
            _extract(corpus, examples, store, SMALL)
        assert "shard-.safetensors" in _shards(store)
        assert len(_shards(store)) == at
        assert not (store / "index.json").exists()
        assert file_hashes(_extract(corpus, examples, store, SMALL)) == file_hashes(expected)
    assert decoded == []


def test_of_joined_shards_each_file_stays_until_the_new_one_is_written(
    clips: tuple[Path, list[Example]], tmp_path: Path, decoded: list[str]
) -> None:
    corpus, examples = clips
    divided = _extract(corpus, examples, tmp_path / "divided", SMALL)
    expected = file_hashes(_extract(corpus, examples, tmp_path / "joined", LARGE))
    decoded.clear()
    # The first removal is that of the index; the write comes next, then the removals of the shards.
    for at in range(1, len(_shards(divided)) + 3):
        store = shutil.copytree(divided, tmp_path / str(at))
        with pytest.raises(Killed), killed_at(at, removals=True):
            _extract(corpus, examples, store, LARGE)
        assert (store / "shard-.safetensors").exists() == (at > 2)
        assert len(_shards(store)) == len(_shards(divided)) - max(0, at - 3) + (at > 2)
        assert file_hashes(_extract(corpus, examples, store, LARGE)) == expected
    assert decoded == []


def test_shards_of_another_layout_are_not_used_if_they_are_of_another_expert_or_damaged(
    clips: tuple[Path, list[Example]], tmp_path: Path, decoded: list[str]
) -> None:
    corpus, examples = clips
    expected = file_hashes(_extract(corpus, examples, tmp_path / "new", SMALL))
    joined = _extract(corpus, examples, tmp_path / "joined", LARGE)
    (shard,) = joined.glob("shard-*")
    shard.write_bytes(shard.read_bytes()[:-7])
    other = tmp_path / "other"
    extract_features("reconstruction", "f0_bins", examples, corpus, other)
    for store in (joined, other):
        decoded.clear()
        assert file_hashes(_extract(corpus, examples, store, SMALL)) == expected
        assert len(decoded) == COUNT


def test_batches_of_a_neural_expert_do_not_depend_on_a_kill_while_shards_are_divided(
    clips: tuple[Path, list[Example]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus, examples = clips
    monkeypatch.setitem(catalogue.NEURAL, "batch_marker", batch_marker_expert.__name__)
    monkeypatch.setattr(plan, "GROUP_BATCHES", 1)

    def run(chosen: list[Example], target: Path, limit: int) -> Path:
        with monkeypatch.context() as patch:
            patch.setattr(layout, "LIMIT_BYTES", limit)
            extract_features("speech", ExpertSettings(implementation="batch_marker", batch_seconds=1.5), chosen, corpus, target)
        return target

    first = run(examples[:10], tmp_path / "first", LARGE)
    undisturbed = run(examples, shutil.copytree(first, tmp_path / "undisturbed"), 250)
    assert len(_shards(undisturbed)) > 6
    for at in range(1, len(_shards(undisturbed)) + 2):
        store = shutil.copytree(first, tmp_path / str(at))
        with pytest.raises(Killed), killed_at(at, removals=True):
            run(examples, store, 250)
        with pytest.raises(Killed), killed_at(2, removals=True):
            run(examples, store, 250)
        assert file_hashes(run(examples, store, 250)) == file_hashes(undisturbed), at


def test_audio_embeddings_are_copied_when_shards_are_divided_or_joined(
    tiny_bases: dict[str, Path], clips: tuple[Path, list[Example]], tmp_path: Path, decoded: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus, examples = clips
    base = load_backbone("qwen2_5_omni", str(tiny_bases["qwen2_5_omni"]))

    def run(chosen: list[Example], target: Path, limit: int) -> Path:
        with monkeypatch.context() as patch:
            patch.setattr(layout, "LIMIT_BYTES", limit)
            extract_audio(base, chosen, corpus, target, progress=False)
        return target

    divided, joined = (run(examples, tmp_path / str(limit), limit) for limit in (10_000, LARGE))
    assert len(_shards(divided)) > len(_shards(joined)) == 1
    for start, limit, expected in ((joined, 10_000, divided), (divided, LARGE, joined)):
        for at in (1, 2, 4, 6):
            store = shutil.copytree(start, tmp_path / f"{limit}-{at}")
            decoded.clear()
            with pytest.raises(Killed), killed_at(at, removals=True):
                run(examples, store, limit)
            assert file_hashes(run(examples, store, limit)) == file_hashes(expected)
            assert decoded == []
    # A clip that is added to a shard which is divided for it costs one clip.
    store = run(examples[:-1], tmp_path / "store", LARGE)
    decoded.clear()
    assert file_hashes(run(examples, store, 10_000)) == file_hashes(divided)
    assert decoded == [Path(examples[-1].audio).name]
