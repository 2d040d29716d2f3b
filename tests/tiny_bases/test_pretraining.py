from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from coat_core.backbones.base import Backbone
from coat_core.backbones.catalogue import load_backbone
from coat_core.corpus.audio import write_flac
from coat_core.corpus.examples import Example
from coat_core.errors import BackboneError, NonFiniteError
from coat_core.storage import sha256_file, sha256_tree
from coat_core.tiny_bases.audio_pretraining import Probes
from coat_core.tiny_bases.build import build_base
from coat_core.tiny_bases.dataset import Clips, Lesson, heard_lessons, read_lessons, texts_of
from coat_core.tiny_bases.pretraining import Course, _short_window, pretrain

TINY_COURSE = Course(listening_steps=2, listening_batch=4, steps=3, batch_size=4, warmup=1, read_share=0.25)


def make_example(
    audio: str, sha256: str, answer: str, task: str = "register", choices: tuple[str, ...] | None = ("low", "high")
) -> Example:
    return Example(
        id=f"{audio}-{answer}",
        audio=audio,
        sha256=sha256,
        duration_s=1.0,
        sample_rate_hz=16_000,
        split="train",
        group="g",
        family="music",
        task=task,
        question="How high is it?",
        choices=choices,
        answer=answer,
        source="test",
        licence="CC0-1.0",
    )


@pytest.fixture
def corpus(tmp_path: Path) -> tuple[Path, list[Example]]:
    """A folder of eight noises, each with one question."""
    folder, examples = tmp_path / "corpus", []
    (folder / "audio").mkdir(parents=True)
    for i in range(8):
        waveform = 0.1 * np.random.default_rng(i).standard_normal(6_000 + 700 * i)
        write_flac(folder / f"audio/{i}.flac", waveform.astype(np.float32), 16_000)
        examples.append(make_example(f"audio/{i}.flac", sha256_file(folder / f"audio/{i}.flac"), ("low", "high")[i % 2]))
    return folder, examples


def test_features_of_a_batch_are_those_of_the_front_end(backbone: Backbone, corpus: tuple[Path, list[Example]]) -> None:
    from coat_core.corpus.audio import decode

    folder, examples = corpus
    clips = Clips(backbone.extractor, folder, [example.audio for example in examples])  # type: ignore[attr-defined]
    mine = clips.mel([0, 7])
    stock = backbone.mel([decode(folder / examples[i].audio) for i in (0, 7)])
    assert mine.frames.tolist() == stock.frames.tolist()
    for row, other, frames in zip(mine.features, stock.features, mine.frames.tolist(), strict=True):
        assert torch.allclose(row[:, :frames], other[:, :frames], atol=2e-3)


def test_a_short_window_changes_no_embedding(backbone: Backbone, corpus: tuple[Path, list[Example]]) -> None:
    from coat_core.corpus.audio import decode

    folder, examples = corpus
    clips = Clips(backbone.extractor, folder, [example.audio for example in examples])  # type: ignore[attr-defined]
    with torch.no_grad():
        whole = backbone.embed_audio(backbone.mel([decode(folder / examples[i].audio) for i in (0, 7)]))
        with _short_window(backbone.model, mel := clips.mel([0, 7])):
            short = backbone.embed_audio(mel)
    for one, other in zip(whole, short, strict=True):
        assert torch.allclose(one, other, atol=5e-3)
        assert float((one - one.flip(0)).abs().max()) > 5e-2


def test_the_window_is_whole_again_afterwards(backbone: Backbone, corpus: tuple[Path, list[Example]]) -> None:
    folder, examples = corpus
    clips = Clips(backbone.extractor, folder, [examples[0].audio])  # type: ignore[attr-defined]
    names = {name: parameter.shape for name, parameter in backbone.model.named_parameters()}
    with pytest.raises(KeyError), _short_window(backbone.model, clips.mel([0])):
        raise KeyError
    assert {name: parameter.shape for name, parameter in backbone.model.named_parameters()} == names
    assert backbone.mel([np.zeros(6_000, np.float32)]).features.shape[-1] in (38, 1000)


def test_training_moves_every_part_but_what_is_frozen_or_unheard(backbone: Backbone, corpus: tuple[Path, list[Example]]) -> None:
    folder, examples = corpus
    audio, heard = heard_lessons(examples)
    before = {name: parameter.detach().clone() for name, parameter in backbone.model.named_parameters()}
    losses: list[float] = []
    clips = Clips(backbone.extractor, folder, audio)  # type: ignore[attr-defined]
    pretrain(backbone, clips, heard, read_lessons(examples[:2]), TINY_COURSE, 0, report=lambda step, loss: losses.append(loss))
    still = {name for name, parameter in backbone.model.named_parameters() if torch.equal(parameter, before[name])}
    # Frozen position tables; vision and begin/end rows of the thinker that sound never passes.
    assert all(any(part in name for part in ("embed_positions", "visual", "audio_bos_eos")) for name in still)
    assert len(losses) == TINY_COURSE.listening_steps + TINY_COURSE.steps
    assert losses[-1] < losses[TINY_COURSE.listening_steps]


def test_a_diverged_training_stops(backbone: Backbone, corpus: tuple[Path, list[Example]]) -> None:
    folder, examples = corpus
    audio, heard = heard_lessons(examples)
    backbone.model.get_output_embeddings().weight.data.fill_(float("inf"))
    with pytest.raises(NonFiniteError, match="step"):
        pretrain(backbone, Clips(backbone.extractor, folder, audio), heard, [], TINY_COURSE, 0)  # type: ignore[attr-defined]


def test_lessons_of_what_is_only_read() -> None:
    open_one, other = make_example("a", "0", "one two", "digits", None), make_example("a", "0", "nine", "digits", None)
    closed = make_example("a", "0", "low")
    assert read_lessons([open_one, other, closed]) == [
        Lesson(None, "music/digits", "How high is it?", ("one two", "nine")),
        Lesson(None, "music/digits", "How high is it?", ("one two", "nine")),
        Lesson(None, "music/register", "How high is it? Choices: low, high.", ("low", "high")),
    ]
    assert texts_of([other, closed]) == ["", "How high is it?", "How high is it? Choices: low, high.", "low", "low high", "nine"]


def test_probes_name_the_word_that_the_audio_stands_near() -> None:
    directions = {"up": torch.eye(16)[0], "down": torch.eye(16)[1], "yes": torch.eye(16)[2]}
    lessons = [Lesson(i, "a/kind", "?", (("up", "down")[i % 2],)) for i in range(8)]
    sentences = [Lesson(i, "a/words", "?", (f"word {i}",)) for i in range(40)]
    probes = Probes([*lessons, *sentences, Lesson(0, "a/always", "?", ("yes",))], directions.__getitem__, 16, 0)
    assert [probes.knows(lesson) for lesson in (lessons[0], sentences[0])] == [True, False]
    assert probes.answers == {"a/kind": ["down", "up"]}
    near = [directions[lesson.answers[0]].expand(4 + i, 16) for i, lesson in enumerate(lessons)]
    # A unit vector in 16 dimensions, normalised, is 15/√15 at its place and −1/√15 elsewhere: the two answers differ by 4.1312.
    gap = 16 / 15**0.5
    assert float(probes.loss(near, lessons).detach()) == pytest.approx(np.log1p(np.exp(-gap)), rel=1e-3)
    assert float(probes.loss(near[::-1], lessons).detach()) == pytest.approx(np.log1p(np.exp(gap)), rel=1e-3)


def test_probes_do_not_look_at_padding() -> None:
    lessons = [Lesson(i, "a/kind", "?", (("up", "down")[i % 2],)) for i in range(2)]
    probes = Probes(lessons, lambda word: torch.eye(16)[len(word)], 16, 0)
    audio = [torch.randn(length, 16, generator=torch.Generator().manual_seed(length)) for length in (5, 9)]
    together = probes.loss(audio, lessons).detach()
    alone = torch.stack([probes.loss([states], [lesson]) for states, lesson in zip(audio, lessons, strict=True)]).mean().detach()
    assert float(together) == pytest.approx(float(alone), rel=1e-5)


def test_too_few_examples_are_refused(backbone: Backbone, corpus: tuple[Path, list[Example]]) -> None:
    folder, examples = corpus
    audio, heard = heard_lessons(examples[:2])
    with pytest.raises(BackboneError, match="at least 4"):
        pretrain(backbone, Clips(backbone.extractor, folder, audio), heard, [], TINY_COURSE, 0)  # type: ignore[attr-defined]


def test_a_built_base_loads_and_is_the_same_every_time(backbone_key: str, corpus: tuple[Path, list[Example]], tmp_path: Path) -> None:
    folder, examples = corpus
    recorded = [
        example.model_copy(update={"question": "Which bird sings?", "choices": ("wren", "robin"), "answer": "wren"}) for example in examples
    ]
    for name in ("a", "b"):
        build_base(
            backbone_key, tmp_path / name, corpus=folder, train_examples=examples, recorded_examples=recorded, course=TINY_COURSE, seed=3
        )
    assert sha256_tree(tmp_path / "a") == sha256_tree(tmp_path / "b")
    assert sum(path.stat().st_size for path in (tmp_path / "a").iterdir()) <= 4_000_000
    backbone = load_backbone(backbone_key, str(tmp_path / "a"))
    assert all(
        len(backbone.tokenizer(f" {word}", add_special_tokens=False)["input_ids"]) <= 2 for word in ("robin", "wren", "bird", "high")
    )
