from __future__ import annotations

import hashlib
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from coat_core.corpus.audio import decode, write_flac
from coat_core.corpus.examples import Example, Split
from coat_core.errors import AudioError, ExpertError
from coat_core.experts.catalogue import load_expert
from coat_core.experts.store import extraction, shards, waveforms
from coat_core.experts.store.extraction import extract_features
from coat_core.experts.store.store import ExpertStore
from coat_core.shards import update as shard_files
from coat_core.storage import sha256_file

Make = Callable[[int, Split], Example]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Write clip `seed` and return its example."""

    def build(seed: int, split: Split = "train") -> Example:
        rng = np.random.default_rng(seed)
        path = tmp_path / "corpus" / "audio" / f"{seed}.flac"
        write_flac(path, 0.1 * rng.standard_normal(4000 + 531 * seed), 16000)
        return Example(
            id=f"e{seed}", audio=f"audio/{seed}.flac", sha256=sha256_file(path), duration_s=1.0, sample_rate_hz=16000, split=split,
            group=f"g{seed}", family="music", task="t", question="q", choices=None, answer="a", source="s", licence="l",
        )  # fmt: skip

    return build


def _extract(examples: list[Example], tmp_path: Path, name: str = "features") -> Path:
    extract_features("reconstruction", "log_mel", examples, tmp_path / "corpus", tmp_path / name)
    return tmp_path / name


def _bytes(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def _patch_writes(monkeypatch: pytest.MonkeyPatch, write: Callable[[Path, bytes], None]) -> None:
    for module in (shard_files, shards):
        monkeypatch.setattr(module, "write_bytes", write)


def _inodes(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_ino for path in folder.iterdir()}


def test_round_trip(make: Make, tmp_path: Path) -> None:
    examples = [make(i, "train" if i % 3 else "test") for i in range(12)]
    # A second question about a clip does not extract it again.
    store = ExpertStore.open(_extract([*examples, examples[0].model_copy(update={"id": "again"})], tmp_path))
    expert = load_expert("log_mel")
    assert store.spec == expert.spec
    assert len(store) == 12
    assert set(store) == {example.sha256 for example in examples}
    for example in examples:
        waveform = decode(tmp_path / "corpus" / example.audio)
        truth, _ = expert(waveform[None], np.array([len(waveform)]))
        features, mask = store.get(example.sha256)
        assert features.dtype == np.float32
        assert mask.dtype == np.bool_
        assert store.frames(example.sha256) == len(features) == len(mask) == -(-len(waveform) // 320)
        np.testing.assert_array_equal(features, truth[0].astype(np.float16).astype(np.float32))
    assert "0" * 64 not in store
    with pytest.raises(ExpertError, match="no features of this audio"):
        store.get("0" * 64)
    again = pickle.loads(pickle.dumps(store))
    np.testing.assert_array_equal(again.get(examples[3].sha256)[0], store.get(examples[3].sha256)[0])


def test_the_normaliser_is_fitted_on_the_training_split_only(make: Make, tmp_path: Path) -> None:
    train = [make(i) for i in range(4)]
    others = [make(4, "validation"), make(5, "test")]
    store = ExpertStore.open(_extract([*train, *others], tmp_path))
    frames = np.concatenate([store.get(example.sha256)[0] for example in train]).astype(np.float64)
    np.testing.assert_allclose(store.normaliser.mean, frames.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(store.normaliser.std, frames.std(axis=0), rtol=1e-6)
    everywhere = ExpertStore.open(
        _extract([example.model_copy(update={"split": "train"}) for example in [*train, *others]], tmp_path, "all")
    )
    assert not np.allclose(everywhere.normaliser.mean, store.normaliser.mean, rtol=1e-6)
    with pytest.raises(ExpertError, match="no training audio"):
        _extract(others, tmp_path, "none")


def test_a_constant_dimension_has_the_minimum_deviation(make: Make, tmp_path: Path) -> None:
    example = make(1)
    path = tmp_path / "corpus" / example.audio
    write_flac(path, np.zeros(5000), 16000)
    store = ExpertStore.open(_extract([example.model_copy(update={"sha256": sha256_file(path)})], tmp_path))
    np.testing.assert_array_equal(store.normaliser.std, np.float32(0.01))


@pytest.mark.parametrize("stop_at", [1, 2, 5, 9, 10, 11, 12])
def test_killed_at_any_write_and_resumed_gives_the_same_bytes(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_at: int
) -> None:
    examples = [make(i) for i in range(9)]
    whole = _extract(examples, tmp_path, "whole")
    writes = 0

    class Killed(BaseException):
        pass

    def dying(path: Path, data: bytes) -> None:
        nonlocal writes
        writes += 1
        if writes == stop_at:
            # A kill during a write leaves half a temporary file.
            path.with_name(f".{path.name}.abc123").write_bytes(data[: len(data) // 2])
            raise Killed
        real(path, data)

    real = shard_files.write_bytes
    _patch_writes(monkeypatch, dying)
    with pytest.raises(Killed):
        _extract(examples, tmp_path)
    with pytest.raises(ExpertError, match="missing or unfinished"):
        ExpertStore.open(tmp_path / "features")
    decoded: list[str] = []
    _patch_writes(monkeypatch, real)
    monkeypatch.setattr(waveforms, "decode", lambda path, **k: decoded.append(path.name) or decode(path, **k))
    _extract(examples, tmp_path)
    assert _bytes(tmp_path / "features") == _bytes(whole)
    shard_count = len([name for name in _bytes(whole) if name.startswith("shard-")])
    done_before = min(stop_at - 1, shard_count)
    assert len(decoded) <= len(examples) - done_before


def test_one_new_clip_costs_one_clip_and_one_shard(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    examples = [make(i) for i in range(20)]
    known = {example.sha256[:2] for example in examples[:10]}
    # The new clip belongs to an existing shard.
    monkeypatch.setattr("coat_core.shards.layout.PREFIX_LENGTH", 1)
    folder = _extract(examples[:10], tmp_path)
    before = _inodes(folder)
    decoded: list[str] = []
    monkeypatch.setattr(waveforms, "decode", lambda path, **k: decoded.append(path.name) or decode(path, **k))
    new = next(example for example in examples[10:] if example.sha256[0] in {prefix[0] for prefix in known})
    _extract([*examples[:10], new], tmp_path)
    assert decoded == [Path(new.audio).name]
    changed = {name for name, inode in _inodes(folder).items() if before.get(name) != inode}
    assert changed == {f"shard-{new.sha256[0]}.safetensors", "index.json", "normaliser.safetensors", "spec.json"}
    assert _bytes(folder) == _bytes(_extract([*examples[:10], new], tmp_path, "new"))


def test_an_unfinished_store_cannot_be_opened(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    examples = [make(i) for i in range(4)]
    folder = _extract(examples[:3], tmp_path)

    def dying(path: Path, data: bytes) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        _patch_writes(patch, dying)
        with pytest.raises(KeyboardInterrupt):
            _extract(examples, tmp_path)
    with pytest.raises(ExpertError, match="missing or unfinished"):
        ExpertStore.open(folder)
    _extract(examples, tmp_path)
    assert _bytes(folder) == _bytes(_extract(examples, tmp_path, "new"))


def test_nothing_is_written_when_nothing_changed_and_removed_clips_are_dropped(make: Make, tmp_path: Path) -> None:
    examples = [make(i) for i in range(6)]
    folder = _extract(examples, tmp_path)
    before = _inodes(folder)
    _extract(list(reversed(examples)), tmp_path)
    assert _inodes(folder) == before
    _extract(examples[:3], tmp_path)
    assert _bytes(folder) == _bytes(_extract(examples[:3], tmp_path, "new"))


def test_an_invalid_shard_and_a_changed_expert_are_computed_again(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    examples = [make(i) for i in range(5)]
    folder = _extract(examples, tmp_path)
    whole = _bytes(folder)
    shard = sorted(folder.glob("shard-*"))[0]
    shard.write_bytes(shard.read_bytes()[:-7])
    with pytest.raises(ExpertError, match="cannot read a shard"):
        [ExpertStore.open(folder).get(example.sha256) for example in examples]
    _extract(examples, tmp_path)
    assert _bytes(folder) == whole
    # The version is the same but the behaviour differs: the existing shards are not reused.
    expert = load_expert("log_mel")
    changed = type(expert)(expert.spec, lambda waveform: expert.compute(waveform) + 1.0)  # type: ignore[attr-defined,call-arg]
    monkeypatch.setattr(extraction, "load_expert", lambda *_: changed)
    _extract(examples, tmp_path)
    now = _bytes(folder)
    assert {name for name in whole if now[name] == whole[name]} == {"index.json"}


@pytest.mark.parametrize(("value", "shown"), [(np.nan, "nan"), (np.inf, "inf"), (1e6, "1000000.0")])
def test_values_that_are_not_finite_are_refused(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: float, shown: str
) -> None:
    expert = load_expert("log_mel")

    def compute(waveform: np.ndarray) -> np.ndarray:
        features = expert.compute(waveform)  # type: ignore[attr-defined]
        if len(waveform) == 4000 + 531 * 2:
            features[7, 5] = value
        return features

    broken = type(expert)(expert.spec, compute)  # type: ignore[call-arg]
    monkeypatch.setattr(extraction, "load_expert", lambda *_: broken)
    bad = make(2)
    with pytest.raises(ExpertError) as caught:
        _extract([make(1), bad, make(3)], tmp_path)
    for part in ("reconstruction (log_mel)", "2.flac", "frame 7 (0.14 s)", f"dimension 5 ({expert.spec.dim_names[5]})", shown):
        assert part in str(caught.value)
    assert not (tmp_path / "features" / "index.json").exists()
    assert not (tmp_path / "features" / f"shard-{bad.sha256[:2]}.safetensors").exists()


def test_audio_that_changed_after_the_manifest_is_refused(make: Make, tmp_path: Path) -> None:
    example = make(1)
    write_flac(tmp_path / "corpus" / example.audio, np.full(4000, 0.25), 16000)
    with pytest.raises(ExpertError, match="SHA-256 of the audio differs from the manifest"):
        _extract([example], tmp_path)
    (tmp_path / "corpus" / example.audio).unlink()
    with pytest.raises(AudioError):
        _extract([example], tmp_path)
