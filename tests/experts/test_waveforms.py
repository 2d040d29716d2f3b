from __future__ import annotations

import os
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest

from coat_core.corpus.audio import decode, write_flac
from coat_core.corpus.examples import Example
from coat_core.errors import AudioError, ExpertError
from coat_core.experts import catalogue
from coat_core.experts.store import waveforms
from coat_core.experts.store.extraction import extract_features
from coat_core.experts.store.waveforms import Waveforms
from coat_core.settings import ExpertSettings
from tests.testing import batch_marker_expert
from tests.testing.clips import file_hashes, make_clip


@pytest.fixture
def example(tmp_path: Path) -> Example:
    return make_clip(tmp_path, 7, rate=22050)


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that are decoded during the test."""
    names: list[str] = []
    monkeypatch.setattr(waveforms, "decode", lambda path, **k: names.append(path.name) or decode(path, **k))
    return names


def _entries(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("rate", [16000, 24000])
def test_a_cached_waveform_is_bitwise_the_decoded_one(example: Example, tmp_path: Path, rate: int, decoded: list[str]) -> None:
    path, truth = tmp_path / example.audio, decode(tmp_path / example.audio, sample_rate_hz=rate)
    for _ in range(3):
        found = Waveforms(rate, tmp_path / "cache").read(example.sha256, path)
        assert found.dtype == np.float32
        assert found.tobytes() == truth.tobytes()
        assert found.flags.writeable
        assert found.flags.aligned
    assert decoded == ["7.flac"]
    Waveforms(8000, tmp_path / "cache").read(example.sha256, path)
    assert decoded == ["7.flac"] * 2
    assert Waveforms(rate).read(example.sha256, path).tobytes() == truth.tobytes()
    assert len(decoded) == 3


def test_a_touched_file_is_hashed_again_and_a_changed_one_is_refused(example: Example, tmp_path: Path, decoded: list[str]) -> None:
    path, cache = tmp_path / example.audio, Waveforms(16000, tmp_path / "cache")
    truth = cache.read(example.sha256, path)
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))
    assert cache.read(example.sha256, path).tobytes() == truth.tobytes()
    assert cache.read(example.sha256, path).tobytes() == truth.tobytes()
    assert len(decoded) == 2
    kept = path.read_bytes()
    write_flac(path, np.full(9000, 0.25), 22050)
    with pytest.raises(ExpertError, match="SHA-256 of the audio differs from the manifest"):
        cache.read(example.sha256, path)
    path.unlink()
    with pytest.raises(AudioError, match="missing"):
        cache.read(example.sha256, path)
    path.write_bytes(kept)
    assert cache.read(example.sha256, path).tobytes() == truth.tobytes()


def _flip(data: bytes) -> bytes:
    return data[:-5] + bytes([data[-5] ^ 1]) + data[-4:]


@pytest.mark.parametrize("damage", [lambda data: data[: len(data) // 2], lambda data: b"", _flip, lambda data: b"\xff" * len(data)])
def test_an_invalid_entry_is_decoded_again(example: Example, tmp_path: Path, decoded: list[str], damage: Callable[[bytes], bytes]) -> None:
    path, cache = tmp_path / example.audio, Waveforms(16000, tmp_path / "cache")
    truth = cache.read(example.sha256, path)
    (entry,) = _entries(tmp_path / "cache")
    whole = entry.read_bytes()
    entry.write_bytes(damage(whole))
    for _ in range(2):
        assert cache.read(example.sha256, path).tobytes() == truth.tobytes()
    assert len(decoded) == 2
    assert entry.read_bytes() == whole


def test_another_decoder_has_other_entries(example: Example, tmp_path: Path, decoded: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / example.audio
    Waveforms(16000, tmp_path / "cache").read(example.sha256, path)
    monkeypatch.setattr(waveforms, "_decoder", lambda: "0" * 12)
    Waveforms(16000, tmp_path / "cache").read(example.sha256, path)
    assert len(decoded) == 2
    assert len(_entries(tmp_path / "cache")) == 2


def test_a_full_cache_keeps_its_entries_until_they_are_unused_for_a_day(tmp_path: Path, decoded: list[str]) -> None:
    examples = [make_clip(tmp_path, seed) for seed in range(8)]
    size = 4 * 6000

    def read() -> None:
        cache = Waveforms(16000, tmp_path / "cache", limit_bytes=4 * size)
        for example in examples:
            assert cache.read(example.sha256, tmp_path / example.audio).tobytes() == decode(tmp_path / example.audio).tobytes()

    read()
    first = _entries(tmp_path / "cache")
    assert 3 <= len(first) <= 4
    assert sum(path.stat().st_size for path in first) <= 4 * size
    read()
    assert _entries(tmp_path / "cache") == first
    assert len(decoded) == 16 - len(first)
    # Entries that were not read for a day are removed.
    for path in first:
        days = 3 if path.stem == examples[0].sha256 else 2
        os.utime(path, (0, time.time() - days * 24 * 3600))
    cache = Waveforms(16000, tmp_path / "cache", limit_bytes=4 * size)
    cache.read(examples[0].sha256, tmp_path / examples[0].audio)
    assert any(path.stem == examples[0].sha256 for path in first)
    cache.read(examples[-1].sha256, tmp_path / examples[-1].audio)
    assert {examples[0].sha256, examples[-1].sha256} <= {path.stem for path in _entries(tmp_path / "cache")}
    assert first != _entries(tmp_path / "cache")
    assert sum(path.stat().st_size for path in _entries(tmp_path / "cache")) <= 4 * size


def test_entries_of_another_decoder_and_old_temporary_files_are_removed_first(tmp_path: Path, example: Example) -> None:
    old = tmp_path / "cache/000000000000-16000/aa/old.safetensors"
    dead = tmp_path / "cache/000000000000-16000/aa/.x.safetensors.abc"
    for path in (old, dead):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"0" * 60_000)
    os.utime(dead, (0, time.time() - 7200))
    Waveforms(16000, tmp_path / "cache", limit_bytes=100_000).read(example.sha256, tmp_path / example.audio)
    assert old.exists()
    assert not dead.exists()
    Waveforms(8000, tmp_path / "cache", limit_bytes=80_000).read(example.sha256, tmp_path / example.audio)
    assert not old.exists()


def test_a_cache_that_cannot_be_written_is_ignored(example: Example, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    found = Waveforms(16000, tmp_path / "cache").read(example.sha256, tmp_path / example.audio)
    assert found.tobytes() == decode(tmp_path / example.audio).tobytes()


def test_several_processes_at_once(tmp_path: Path) -> None:
    examples = [make_clip(tmp_path, seed, rate=22050) for seed in range(6)] * 4
    paths = [tmp_path / example.audio for example in examples]
    cache = Waveforms(16000, tmp_path / "cache")
    with ProcessPoolExecutor(3, mp_context=get_context("spawn")) as pool:
        found = list(pool.map(cache.read, [example.sha256 for example in examples], paths))
    for waveform, path in zip(found, paths, strict=True):
        assert waveform.tobytes() == decode(path).tobytes()
    assert len(_entries(tmp_path / "cache")) == 6
    assert not [path for path in _entries(tmp_path / "cache") if path.name.startswith(".")]


def test_experts_of_one_sample_rate_decode_each_clip_once(tmp_path: Path, decoded: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(catalogue.NEURAL, "batch_marker", batch_marker_expert.__name__)
    examples = [make_clip(tmp_path, seed, rate=44100) for seed in range(9)]
    for name in ("log_mel", "f0_bins", "batch_marker"):
        settings = ExpertSettings(implementation=name)
        extract_features(name, settings, examples, tmp_path, tmp_path / name, waveforms=tmp_path / "cache")
    assert sorted(decoded) == sorted(Path(example.audio).name for example in examples)
    for name in ("log_mel", "batch_marker"):
        extract_features(name, name, examples, tmp_path, tmp_path / f"{name}-alone")
        assert file_hashes(tmp_path / f"{name}-alone") == file_hashes(tmp_path / name)
    assert len(decoded) == 27
