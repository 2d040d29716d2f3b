"""Building of the tiny bases: training corpus, tokenizer texts, pretraining, and the folders `bases/<key>`."""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Sequence
from pathlib import Path

import torch

from coat_core.backbones.catalogue import load_architecture
from coat_core.backbones.lalm import Lalm
from coat_core.corpus.examples import Example, read_manifest, select_split
from coat_core.errors import BackboneError
from coat_core.settings import CorpusSettings
from coat_core.tiny_bases.config import new_base, save_base
from coat_core.tiny_bases.dataset import ClipFeatures, audio_items, text_items, texts_of
from coat_core.tiny_bases.pretraining import PretrainingConfig, pretrain

CLIPS_PER_FAMILY = 500
"""Clips of each family in the training corpus of the bases."""
_RECORDED_CLIPS_PER_FAMILY = 80
"""Large enough for every label of the recordings to occur in a question."""


def build_base(
    key: str,
    target: Path,
    *,
    corpus: Path,
    train_examples: Sequence[Example],
    recorded_examples: Sequence[Example] = (),
    texts: Sequence[str] = (),
    config: PretrainingConfig | None = None,
    seed: int = 0,
) -> None:
    """Train a tiny base from random weights and write it to `target`.

    Args:
        key: key of the backbone.
        target: the base's folder.
        corpus: the folder of the examples' audio.
        train_examples: questions about the training clips, in `corpus`.
        recorded_examples: training questions about real recordings, used as text only, so that the base can generate their labels:
            LoRA does not train the output embedding.
        texts: further texts for the tokenizer.
        config: configuration of the pretraining; None: the configuration of the shipped bases.
        seed: seed of weights and order.

    Raises:
        BackboneError: the key is unknown, or there are too few examples.
        NonFiniteError: training diverged; nothing was written.
    """
    threads = torch.get_num_threads()
    # The number of threads changes the order of sums, and with it the weights.
    torch.set_num_threads(1)
    try:
        model, tokenizer, extractor = new_base(key, [*texts, *texts_of([*train_examples, *recorded_examples])], seed)
        audio, items = audio_items(train_examples)
        clips = ClipFeatures(extractor, corpus, audio)
        backbone = Lalm(load_architecture(key), model, tokenizer, extractor)
        pretrain(backbone, clips, items, text_items(recorded_examples), config or PretrainingConfig(), seed)
        save_base(key, model, tokenizer, extractor, target)
    finally:
        torch.set_num_threads(threads)


def build_bases(
    keys: Sequence[str],
    target_root: Path,
    generated: CorpusSettings,
    recordings: Path | None = None,
    *,
    avoid: Collection[str] = (),
    config: PretrainingConfig | None = None,
) -> None:
    """Build `target_root/<key>` for each key, with progress bars; each takes minutes.

    The bases are trained on the audio of a separate generated corpus (`purpose="bases"`). The questions and answers of the training
    splits of the generated corpus and of the recordings are used as text only.

    Args:
        keys: keys of the backbones.
        target_root: the folder of all bases.
        generated: settings of the generated corpus that the bases are made for; its seed and limits are used.
        recordings: the folder of real recordings; None: no recordings.
        avoid: SHA-256 of audio that must not be in the training data of a base (the audio of every split).
        config: configuration of the pretraining; None: the configuration of the shipped bases.

    Raises:
        BackboneError: a key is unknown, or the bases' corpus contains audio of `avoid`.
    """
    for key in keys:
        load_architecture(key)
    target_root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target_root, prefix=".corpus.") as scratch:
        corpus = Path(scratch) / "generated"
        examples = training_examples(generated, corpus, CLIPS_PER_FAMILY, "bases", avoid)
        recorded = recorded_examples(generated, recordings, Path(scratch) / "recorded", _RECORDED_CLIPS_PER_FAMILY) if recordings else []
        for key in keys:
            build_base(
                key,
                target_root / key,
                corpus=corpus,
                train_examples=examples,
                recorded_examples=recorded,
                texts=planned_texts(generated),
                config=config,
                seed=generated.seed,
            )


def training_examples(generated: CorpusSettings, target: Path, clips: int, purpose: str, avoid: Collection[str]) -> list[Example]:
    """Return the examples of a generated training corpus in `target`, which is made if it is missing.

    Args:
        generated: settings of the corpus that a base is made for; its seed and limits are used.
        target: the corpus folder.
        clips: clips of each family.
        purpose: part of the seed; corpora with different purposes share no clip.
        avoid: SHA-256 of audio that must not be in it.

    Raises:
        BackboneError: the corpus contains audio of `avoid`.
    """
    from coat_core.corpus.generated.corpus import generate_corpus

    if not target.is_dir():
        counts = {"clips_per_family": {"train": clips}, "labelled_clips_per_family": None}
        generate_corpus(generated.model_copy(update={"kind": "generated", "path": None, **counts}), target, purpose=purpose, taught=True)
    examples = read_manifest(target / "manifest.jsonl")
    overlap = sorted({example.audio for example in examples if example.sha256 in avoid})
    if overlap:
        raise BackboneError(
            "the training audio of the bases overlaps with the corpus that they are made for",
            field="audio",
            value=overlap[:3],
            next_step="choose another seed",
        )
    return examples


def recorded_examples(generated: CorpusSettings, recordings: Path, target: Path, clips: int) -> list[Example]:
    """Return the training examples of a corpus of real recordings in `target`, which is made if it is missing.

    The groups of its splits are those of a recordings corpus with the same seed.
    """
    from coat_core.corpus.imported.corpus import import_corpus

    if not target.is_dir():
        counts = {"clips_per_family": {"train": clips}, "labelled_clips_per_family": None}
        import_corpus(generated.model_copy(update={"kind": "recordings", "path": str(recordings), **counts}), recordings, target)
    return select_split(read_manifest(target / "manifest.jsonl"), "train")


def planned_texts(generated: CorpusSettings) -> list[str]:
    """Return questions, choices and answers of the generated corpus's training split, in the taught wordings, without making its audio."""
    from coat_core.corpus.generated.plan import plan_clips

    settings = generated.model_copy(update={"clips_per_family": {"train": generated.clips_per_family["train"]}})
    questions = [question for plan in plan_clips(settings, "corpus", taught=True) for question in plan.questions]
    return sorted({text for question in questions for text in (question.question, " ".join(question.choices or ()), question.answer)})
