"""The generated corpus: reproducible bytes, a manifest that agrees with the audio, atomic writes."""

from __future__ import annotations

import itertools
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path

import psutil
import pytest

from coat_core.corpus.audio import measure
from coat_core.corpus.examples import FAMILIES, SPLITS, Example, read_manifest
from coat_core.corpus.generated import corpus as generated
from coat_core.corpus.generated.corpus import generate_corpus
from coat_core.errors import CorpusError
from coat_core.settings import CorpusSettings
from coat_core.storage import sha256_tree

HANG_S = 1800
"""Only ends a test that would hang."""


def settings(train: int = 12, validation: int = 6, test: int = 6, **more: object) -> CorpusSettings:
    return CorpusSettings(clips_per_family={"train": train, "validation": validation, "test": test}, **more)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("generated") / "corpus"
    generate_corpus(settings(), folder, workers=1)
    return folder


@pytest.fixture(scope="module")
def examples(corpus: Path) -> list[Example]:
    return read_manifest(corpus / "manifest.jsonl")


def test_same_seed_same_bytes_serial_or_parallel(corpus: Path, tmp_path: Path) -> None:
    generate_corpus(settings(), tmp_path / "again", workers=2)
    assert sha256_tree(tmp_path / "again") == sha256_tree(corpus)


def test_another_seed_or_purpose_shares_no_audio(corpus: Path, examples: list[Example], tmp_path: Path) -> None:
    few = settings(3, 1, 1)
    generate_corpus(few, tmp_path / "purpose", purpose="bases")
    generate_corpus(few.model_copy(update={"seed": 8}), tmp_path / "seed")
    hashes = {example.sha256 for example in examples}
    for folder in ("purpose", "seed"):
        assert hashes.isdisjoint(example.sha256 for example in read_manifest(tmp_path / folder / "manifest.jsonl"))


def test_manifest_agrees_with_the_audio(corpus: Path, examples: list[Example]) -> None:
    assert len(examples) == 5 * (12 + 6 + 6) * 2
    assert len({example.id for example in examples}) == len(examples)
    for example in examples:
        facts = measure(corpus / example.audio)
        assert facts.error is None
        assert facts.sha256 == example.sha256
        assert facts.duration_s == example.duration_s
        assert facts.sample_rate_hz == example.sample_rate_hz == 16000
        assert 1.0 <= example.duration_s <= 8.0
        assert facts.clipped_share == 0.0
        assert facts.rms_dbfs > -50
        assert example.licence == "CC0-1.0"
        assert example.choices is None or (
            example.answer in example.choices and 2 <= len(set(example.choices)) == len(example.choices) <= 4
        )
    assert {path.name for path in (corpus / "audio").iterdir()} == {Path(example.audio).name for example in examples}


def test_clips_vary_in_length_and_loudness(corpus: Path, examples: list[Example]) -> None:
    for family in FAMILIES:
        clips = {example.audio: example for example in examples if example.family == family}
        levels = [measure(corpus / audio).peak_dbfs for audio in clips]
        assert len({example.duration_s for example in clips.values()}) > len(clips) // 2
        assert max(levels) - min(levels) > 3.0


def test_questions_of_a_clip_differ_and_share_its_audio(examples: list[Example]) -> None:
    clips = defaultdict(list)
    for example in examples:
        clips[example.audio].append(example)
    for rows in clips.values():
        assert len(rows) == len({row.task for row in rows}) == 2
        assert len({(row.sha256, row.group, row.split, row.family) for row in rows}) == 1


def test_no_group_and_no_hash_is_in_two_splits(examples: list[Example]) -> None:
    for one, other in itertools.combinations(SPLITS, 2):
        for field in ("group", "sha256"):
            seen = [{getattr(example, field) for example in examples if example.split == split} for split in (one, other)]
            assert seen[0].isdisjoint(seen[1])


@pytest.mark.parametrize(
    ("change", "field"), [({"questions_per_clip": 4}, "corpus.questions_per_clip"), ({"max_duration_s": 0.9}, "corpus.max_duration_s")]
)
def test_settings_that_no_clip_fits_are_errors(tmp_path: Path, change: dict[str, object], field: str) -> None:
    with pytest.raises(CorpusError) as caught:
        generate_corpus(settings(4, 1, 1, **change), tmp_path / "corpus", workers=1)
    assert caught.value.field == field
    assert list(tmp_path.iterdir()) == []


def test_a_failure_keeps_the_old_corpus_and_leaves_no_other_file(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "corpus"
    generate_corpus(settings(1, 1, 1), target)
    before = sha256_tree(target)
    calls = itertools.count()

    def fail_at_the_seventh(*arguments: object) -> bytes:
        if next(calls) == 6:
            raise OSError("disk full")
        return b"x" * 10

    monkeypatch.setattr(generated, "flac_bytes", fail_at_the_seventh)
    with pytest.raises(OSError, match="disk full"):
        generate_corpus(settings(2, 1, 1), target, workers=1)
    assert sha256_tree(target) == before
    assert list(tmp_path.iterdir()) == [target]


def test_two_clips_with_the_same_audio_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generated, "flac_bytes", lambda *arguments: b"the same")
    with pytest.raises(CorpusError, match="have the same audio"):
        generate_corpus(settings(1, 1, 1), tmp_path / "corpus", workers=1)


@pytest.mark.slow
def test_killed_generation_leaves_no_process_and_no_corpus(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib\nfrom coat_core.corpus.generated.corpus import generate_corpus\n"
        "from coat_core.settings import CorpusSettings\n"
        "if __name__ == '__main__':\n"
        "    counts = {'train': 400, 'validation': 1, 'test': 1}\n"
        "    generate_corpus(CorpusSettings(clips_per_family=counts), pathlib.Path(sys.argv[1]), workers=2)\n"
    )
    script = tmp_path / "make.py"
    script.write_text(code)
    process = subprocess.Popen(
        [sys.executable, str(script), str(tmp_path / "corpus")], cwd=Path(__file__).parents[2], env={"PYTHONPATH": "."}
    )
    deadline = time.monotonic() + HANG_S
    children: list[psutil.Process] = []
    while time.monotonic() < deadline and len(children) < 4:
        children = psutil.Process(process.pid).children(recursive=True)
        time.sleep(0.1)
    assert len(children) >= 4
    time.sleep(0.5)
    process.kill()
    process.wait()
    assert psutil.wait_procs(children, timeout=HANG_S)[1] == []
    assert not (tmp_path / "corpus").exists()
