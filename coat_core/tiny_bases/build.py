"""From nothing to `bases/<key>`: audio of its own, the strings it must know, training, the folder."""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Sequence
from pathlib import Path

import torch

from coat_core.backbones.catalogue import load_architecture
from coat_core.backbones.lalm import Lalm
from coat_core.corpus.examples import Example, of_split, read_manifest
from coat_core.errors import BackboneError
from coat_core.settings import CorpusSettings
from coat_core.tiny_bases.config import new_base, save_base
from coat_core.tiny_bases.dataset import Clips, heard_lessons, read_lessons, texts_of
from coat_core.tiny_bases.pretraining import Course, pretrain

CLIPS_PER_FAMILY = 500
"""Clips that a base hears, of each family."""
_RECORDED_CLIPS_PER_FAMILY = 80
"""Enough questions about recordings for every label to occur."""


def build_base(
    key: str,
    target: Path,
    *,
    corpus: Path,
    train_examples: Sequence[Example],
    recorded_examples: Sequence[Example] = (),
    texts: Sequence[str] = (),
    course: Course | None = None,
    seed: int = 0,
) -> None:
    """Train a tiny base from random weights and write it whole to `target`.

    Args:
        key: one of the known backbones.
        target: the base's folder.
        corpus: the folder of the examples' audio.
        train_examples: questions about clips of the base's own, in `corpus`.
        recorded_examples: training questions about real recordings, which the base reads and never hears, so that it can say
            their labels: LoRA leaves the output rows as they are.
        texts: more strings for the tokenizer.
        course: how long; None: as the shipped bases were trained.
        seed: of weights and order.

    Raises:
        BackboneError: the key is unknown or there are too few examples.
        NonFiniteError: training diverged; nothing was written.
    """
    threads = torch.get_num_threads()
    # One thread and two sum in another order and give different weights.
    torch.set_num_threads(1)
    try:
        model, tokenizer, extractor = new_base(key, [*texts, *texts_of([*train_examples, *recorded_examples])], seed)
        audio, heard = heard_lessons(train_examples)
        clips = Clips(extractor, corpus, audio)
        backbone = Lalm(load_architecture(key), model, tokenizer, extractor)
        pretrain(backbone, clips, heard, read_lessons(recorded_examples), course or Course(), seed)
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
    course: Course | None = None,
) -> None:
    """Build `target_root/<key>` for each key; minutes each, with progress bars.

    The bases hear a generated corpus of their own (its seeds are drawn for another purpose), and read what the training splits
    of the generated corpus and of the recordings ask and answer.

    Args:
        keys: which bases.
        target_root: the folder of all bases.
        generated: the generated corpus that the bases are for; its seed and limits are taken over.
        recordings: the folder of real recordings, if it is there.
        avoid: SHA-256 of audio that no base may hear (that of every split).
        course: how long; None: as the shipped bases were trained.

    Raises:
        BackboneError: a key is unknown, or a base would hear audio that it must not.
    """
    from coat_core.corpus.generated.corpus import generate_corpus

    for key in keys:
        load_architecture(key)
    target_root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target_root, prefix=".corpus.") as scratch:
        corpus = Path(scratch) / "generated"
        own = generated.model_copy(update={"kind": "generated", "path": None, "clips_per_family": {"train": CLIPS_PER_FAMILY}})
        generate_corpus(own, corpus, purpose="bases")
        examples = read_manifest(corpus / "manifest.jsonl")
        heard_before = sorted({example.audio for example in examples if example.sha256 in avoid})
        if heard_before:
            raise BackboneError(
                "a base would hear audio of the corpus that it is for",
                field="audio",
                value=heard_before[:3],
                next_step="choose another seed",
            )
        recorded = _recorded_examples(generated, recordings, Path(scratch) / "recorded") if recordings else []
        for key in keys:
            build_base(
                key,
                target_root / key,
                corpus=corpus,
                train_examples=examples,
                recorded_examples=recorded,
                texts=_planned_texts(generated),
                course=course,
                seed=generated.seed,
            )


def _recorded_examples(generated: CorpusSettings, recordings: Path, target: Path) -> list[Example]:
    """Return training questions about the recordings; the clips composed for them are not used."""
    from coat_core.corpus.imported.recordings import import_corpus

    counts = {"train": _RECORDED_CLIPS_PER_FAMILY}
    settings = generated.model_copy(update={"kind": "recordings", "path": str(recordings), "clips_per_family": counts})
    import_corpus(settings, recordings, target)
    return of_split(read_manifest(target / "manifest.jsonl"), "train")


def _planned_texts(generated: CorpusSettings) -> list[str]:
    """Return what the training split of the generated corpus asks and answers; no audio is made for it."""
    from coat_core.corpus.generated.plan import plan_clips

    own = generated.model_copy(update={"clips_per_family": {"train": generated.clips_per_family["train"]}})
    asked = [question for plan in plan_clips(own, "corpus") for question in plan.asked]
    return sorted({text for one in asked for text in (one.question, " ".join(one.choices or ()), one.answer)})
