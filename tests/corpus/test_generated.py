from __future__ import annotations

import itertools
import subprocess
import sys
import time
from collections import Counter, defaultdict
from pathlib import Path

import psutil
import pytest

from coat_core.corpus.audio import measure
from coat_core.corpus.examples import FAMILIES, SPLITS, Example, read_manifest
from coat_core.corpus.generated import corpus as generated
from coat_core.corpus.generated import speech
from coat_core.corpus.generated.corpus import generate_corpus
from coat_core.corpus.generated.families.catalogue import GENERATED
from coat_core.corpus.generated.families.recipe import Cast
from coat_core.corpus.generated.plan import plan_clips
from coat_core.corpus.generated.speech import VOICES, Synthesiser
from coat_core.corpus.questions import balanced, generator
from coat_core.errors import CorpusError
from coat_core.settings import CorpusSettings
from coat_core.storage import sha256_tree


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


def test_no_group_and_no_hash_stands_in_two_splits(examples: list[Example]) -> None:
    for one, other in itertools.combinations(SPLITS, 2):
        for field in ("group", "sha256"):
            seen = [{getattr(example, field) for example in examples if example.split == split} for split in (one, other)]
            assert seen[0].isdisjoint(seen[1])


def test_no_voice_and_no_source_is_heard_in_two_splits() -> None:
    heard: dict[object, set[str]] = defaultdict(set)
    groups: dict[str, set[str]] = defaultdict(set)
    for plan in plan_clips(settings(60, 60, 60), "corpus"):
        cast: Cast = plan.cast
        assert cast.voice.high != cast.other_voice.high
        for member in (cast.voice.variant, cast.other_voice.variant, cast.source):
            heard[member].add(plan.split)
        groups[f"{plan.split} {plan.family}"].add(cast.group)
    assert all(len(splits) == 1 for splits in heard.values())
    # The bootstrap over groups needs at least five of them.
    assert min(len(names) for names in groups.values()) >= 5


def test_voices_do_not_share_formants_across_splits() -> None:
    spoken = {}
    with Synthesiser() as synthesiser:
        for split, voices in VOICES.items():
            for voice in voices:
                plain = speech.Voice(voice.variant, 50, 160)
                samples = synthesiser.speak("seven", plain)
                assert spoken.setdefault(samples.tobytes(), (split, voice)) == (split, voice)


def test_answers_and_groups_are_balanced() -> None:
    answers: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    options: dict[tuple[str, str], int] = {}
    for plan in plan_clips(settings(1, 1, 480), "corpus"):
        for asked in plan.asked:
            if plan.split == "test" and asked.choices is not None:
                answers[plan.family, asked.task][asked.answer] += 1
                options[plan.family, asked.task] = max(len(asked.choices), options.get((plan.family, asked.task), 0))
    # Factors are balanced exactly within a block; what is drawn freely varies as drawing does.
    for task, counted in answers.items():
        expected = counted.total() / len(counted)
        assert len(counted) >= options[task]
        assert max(counted.values()) <= expected + 4 * expected**0.5, (task, counted)
        assert min(counted.values()) >= expected - 4 * expected**0.5, (task, counted)
    for task in (("emotion", "style"), ("music", "register"), ("reasoning", "higher"), ("understanding", "count"), ("emotion", "end")):
        assert max(answers[task].values()) - min(answers[task].values()) <= 4, (task, answers[task])


def test_balanced_holds_every_option_once_a_block() -> None:
    drawn = [balanced("abcde", turn, "x") for turn in range(50)]
    assert all(sorted(drawn[start : start + 5]) == list("abcde") for start in range(0, 50, 5))
    assert len({tuple(drawn[start : start + 5]) for start in range(0, 50, 5)}) > 5


def test_generators_part_by_every_name() -> None:
    assert generator("a", "b").integers(1 << 60) != generator("ab").integers(1 << 60)
    assert generator("a", 1).integers(1 << 60) == generator("a", 1).integers(1 << 60)


def test_a_longer_corpus_begins_like_a_shorter_one() -> None:
    short = {(plan.split, plan.family, plan.index): plan for plan in plan_clips(settings(6, 2, 2), "corpus")}
    long = {(plan.split, plan.family, plan.index): plan for plan in plan_clips(settings(9, 3, 4), "corpus")}
    assert all(long[place] == plan for place, plan in short.items())


def test_every_recipe_renders_within_the_limit() -> None:
    longest: dict[str, float] = defaultdict(float)
    with Synthesiser() as synthesiser:
        for plan in plan_clips(settings(12, 1, 1), "limits"):
            waveform = generated.render_clip(plan, synthesiser)
            longest[f"{plan.family} {plan.recipe}"] = max(longest[f"{plan.family} {plan.recipe}"], waveform.size / 16000)
            assert abs(waveform).max() <= 0.951
    assert len(longest) == sum(len(recipes) for recipes in GENERATED.values())
    assert max(longest.values()) <= 6.5, longest


@pytest.mark.parametrize(
    ("change", "field"), [({"questions_per_clip": 4}, "corpus.questions_per_clip"), ({"max_duration_s": 0.9}, "corpus.max_duration_s")]
)
def test_settings_that_leave_no_room(tmp_path: Path, change: dict[str, object], field: str) -> None:
    with pytest.raises(CorpusError) as caught:
        generate_corpus(settings(4, 1, 1, **change), tmp_path / "corpus", workers=1)
    assert caught.value.field == field
    assert list(tmp_path.iterdir()) == []


def test_a_failure_leaves_the_old_corpus_and_nothing_else(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_a_sound_that_stands_twice_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generated, "flac_bytes", lambda *arguments: b"the same")
    with pytest.raises(CorpusError, match="are the same sound"):
        generate_corpus(settings(1, 1, 1), tmp_path / "corpus", workers=1)


def test_speech_depends_on_the_request_alone() -> None:
    voice, other = VOICES["train"][1], VOICES["train"][7]
    with Synthesiser() as first, Synthesiser() as second:
        alone = first.speak("three", voice)
        second.speak("seven", other, rate=30, pitch=10, pitch_range=99)
        second.speak("three", other)
        assert (second.speak("three", voice) == alone).all()
        assert (first.speak("four", voice)[:100] != alone[:100]).any()


def test_an_unknown_voice_and_a_missing_synthesiser(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Synthesiser() as synthesiser, pytest.raises(CorpusError, match="unknown voice"):
        synthesiser.speak("one", speech.Voice("nobody", 50, 150))
    source = (
        Path(str(speech._SCRIPT))
        .read_text()
        .replace("import espeakng_loader", "import espeakng_loader_that_is_not_there as espeakng_loader")
    )
    (tmp_path / "espeak.py").write_text(source)
    monkeypatch.setattr(speech, "_SCRIPT", tmp_path / "espeak.py")
    with pytest.raises(CorpusError, match=r"ModuleNotFoundError.*coat\[speech\]"):
        generate_corpus(settings(1, 1, 1), tmp_path / "corpus", workers=1)
    assert not (tmp_path / "corpus").exists()


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
    deadline = time.monotonic() + 60
    children: list[psutil.Process] = []
    while time.monotonic() < deadline and len(children) < 4:
        children = psutil.Process(process.pid).children(recursive=True)
        time.sleep(0.1)
    assert len(children) >= 4
    time.sleep(0.5)
    process.kill()
    process.wait()
    assert psutil.wait_procs(children, timeout=5)[1] == []
    assert not (tmp_path / "corpus").exists()
