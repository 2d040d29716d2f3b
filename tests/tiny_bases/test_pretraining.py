from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from coat_core.backbones.base import Backbone
from coat_core.backbones.catalogue import load_backbone
from coat_core.corpus.examples import Example
from coat_core.errors import BackboneError, NonFiniteError
from coat_core.storage import sha256_tree
from coat_core.tiny_bases.build import build_base
from coat_core.tiny_bases.dataset import ClipFeatures, TrainingItem, audio_items, text_items, texts_of
from coat_core.tiny_bases.pretraining import PretrainingConfig, pretrain, short_window
from coat_core.tiny_bases.probes import AttentionProbes
from tests.testing.training_clips import make_example

SHORT = PretrainingConfig(probe_steps=2, probe_batch_size=4, steps=3, batch_size=4, warmup=1, text_only_share=0.25)


def test_features_of_a_batch_equal_those_of_the_front_end(backbone: Backbone, corpus: tuple[Path, list[Example]]) -> None:
    from coat_core.corpus.audio import decode

    folder, examples = corpus
    clips = ClipFeatures(backbone.extractor, folder, [example.audio for example in examples])  # type: ignore[attr-defined]
    mine = clips.mel([0, 7])
    stock = backbone.mel([decode(folder / examples[i].audio) for i in (0, 7)])
    assert mine.frames.tolist() == stock.frames.tolist()
    for row, other, frames in zip(mine.features, stock.features, mine.frames.tolist(), strict=True):
        assert torch.allclose(row[:, :frames], other[:, :frames], atol=2e-3)


def test_a_short_window_does_not_change_embeddings(backbone: Backbone, corpus: tuple[Path, list[Example]]) -> None:
    from coat_core.corpus.audio import decode

    folder, examples = corpus
    clips = ClipFeatures(backbone.extractor, folder, [example.audio for example in examples])  # type: ignore[attr-defined]
    with torch.no_grad():
        full = backbone.embed_audio(backbone.mel([decode(folder / examples[i].audio) for i in (0, 7)]))
        with short_window(backbone.model, mel := clips.mel([0, 7])):
            short = backbone.embed_audio(mel)
    for one, other in zip(full, short, strict=True):
        assert torch.allclose(one, other, atol=5e-3)
        assert float((one - one.flip(0)).abs().max()) > 5e-2


def test_the_window_is_restored_after_an_exception(backbone: Backbone, corpus: tuple[Path, list[Example]]) -> None:
    folder, examples = corpus
    clips = ClipFeatures(backbone.extractor, folder, [examples[0].audio])  # type: ignore[attr-defined]
    names = {name: parameter.shape for name, parameter in backbone.model.named_parameters()}
    with pytest.raises(KeyError), short_window(backbone.model, clips.mel([0])):
        raise KeyError
    assert {name: parameter.shape for name, parameter in backbone.model.named_parameters()} == names
    assert backbone.mel([np.zeros(6_000, np.float32)]).features.shape[-1] in (38, 1000)


def test_training_changes_all_parameters_that_receive_gradients(backbone: Backbone, corpus: tuple[Path, list[Example]]) -> None:
    folder, examples = corpus
    audio, items = audio_items(examples)
    before = {name: parameter.detach().clone() for name, parameter in backbone.model.named_parameters()}
    losses: list[float] = []
    clips = ClipFeatures(backbone.extractor, folder, audio)  # type: ignore[attr-defined]
    pretrain(backbone, clips, items, text_items(examples[:2]), SHORT, 0, report=lambda step, loss: losses.append(loss))
    unchanged = {name for name, parameter in backbone.model.named_parameters() if torch.equal(parameter, before[name])}
    # Frozen position tables; the thinker's vision tower and begin/end rows, which audio does not use.
    assert all(any(part in name for part in ("embed_positions", "visual", "audio_bos_eos")) for name in unchanged)
    assert len(losses) == SHORT.probe_steps + SHORT.steps
    assert losses[-1] < losses[SHORT.probe_steps]


def test_training_stops_at_a_loss_that_is_not_finite(backbone: Backbone, corpus: tuple[Path, list[Example]]) -> None:
    folder, examples = corpus
    audio, items = audio_items(examples)
    backbone.model.get_output_embeddings().weight.data.fill_(float("inf"))
    with pytest.raises(NonFiniteError, match="step"):
        pretrain(backbone, ClipFeatures(backbone.extractor, folder, audio), items, [], SHORT, 0)  # type: ignore[attr-defined]


def test_text_items() -> None:
    open_one, other = make_example("a", "0", "one two", "digits", None), make_example("a", "0", "nine", "digits", None)
    closed = make_example("a", "0", "low")
    unlabelled = closed.model_copy(update={"audio": "b", "answer": None, "choices": None})
    assert audio_items([unlabelled, closed]) == audio_items([closed])
    assert text_items([open_one, other, closed, unlabelled]) == [
        TrainingItem(None, "music/digits", "How high is it?", ("one two", "nine")),
        TrainingItem(None, "music/digits", "How high is it?", ("one two", "nine")),
        TrainingItem(None, "music/register", "How high is it? Choices: low, high.", ("low", "high")),
    ]
    assert texts_of([other, closed]) == ["", "How high is it?", "How high is it? Choices: low, high.", "low", "low high", "nine"]


def test_probes_predict_the_answer_with_the_nearest_embedding() -> None:
    directions = {"up": torch.eye(16)[0], "down": torch.eye(16)[1], "yes": torch.eye(16)[2]}
    items = [TrainingItem(i, "a/kind", "?", (("up", "down")[i % 2],)) for i in range(8)]
    sentences = [TrainingItem(i, "a/words", "?", (f"word {i}",)) for i in range(40)]
    probes = AttentionProbes([*items, *sentences, TrainingItem(0, "a/always", "?", ("yes",))], directions.__getitem__, 16, 0)
    assert [probes.covers(item) for item in (items[0], sentences[0])] == [True, False]
    assert probes.answers == {"a/kind": ["down", "up"]}
    audio = [directions[item.answers[0]].expand(4 + i, 16) for i, item in enumerate(items)]
    # A unit vector in 16 dimensions, normalised, is 15/√15 in one dimension and −1/√15 in the others: the two answers differ by 4.1312.
    gap = 16 / 15**0.5
    assert float(probes.loss(audio, items).detach()) == pytest.approx(np.log1p(np.exp(-gap)), rel=1e-3)
    assert float(probes.loss(audio[::-1], items).detach()) == pytest.approx(np.log1p(np.exp(gap)), rel=1e-3)


def test_probes_ignore_padding() -> None:
    items = [TrainingItem(i, "a/kind", "?", (("up", "down")[i % 2],)) for i in range(2)]
    probes = AttentionProbes(items, lambda word: torch.eye(16)[len(word)], 16, 0)
    audio = [torch.randn(length, 16, generator=torch.Generator().manual_seed(length)) for length in (5, 9)]
    batched = probes.loss(audio, items).detach()
    separate = torch.stack([probes.loss([states], [item]) for states, item in zip(audio, items, strict=True)]).mean().detach()
    assert float(batched) == pytest.approx(float(separate), rel=1e-5)


def test_too_few_examples_are_refused(backbone: Backbone, corpus: tuple[Path, list[Example]]) -> None:
    folder, examples = corpus
    audio, items = audio_items(examples[:2])
    with pytest.raises(BackboneError, match="at least 4"):
        pretrain(backbone, ClipFeatures(backbone.extractor, folder, audio), items, [], SHORT, 0)  # type: ignore[attr-defined]


def test_a_built_base_loads_and_is_reproducible(backbone_key: str, corpus: tuple[Path, list[Example]], tmp_path: Path) -> None:
    folder, examples = corpus
    recorded = [
        example.model_copy(update={"question": "Which bird sings?", "choices": ("wren", "robin"), "answer": "wren"}) for example in examples
    ]
    for name in ("a", "b"):
        build_base(backbone_key, tmp_path / name, corpus=folder, train_examples=examples, recorded_examples=recorded, config=SHORT, seed=3)
    assert sha256_tree(tmp_path / "a") == sha256_tree(tmp_path / "b")
    assert sum(path.stat().st_size for path in (tmp_path / "a").iterdir()) <= 4_000_000
    backbone = load_backbone(backbone_key, str(tmp_path / "a"))
    assert all(
        len(backbone.tokenizer(f" {word}", add_special_tokens=False)["input_ids"]) <= 2 for word in ("robin", "wren", "bird", "high")
    )
