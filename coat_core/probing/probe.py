"""The probe stage: every diagnostic of one release, written to one JSON file that is equal from run to run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from coat_core.audio_store.store import AudioStore
from coat_core.corpus.examples import Example
from coat_core.errors import ReleaseError
from coat_core.experts.store.store import ExpertStore
from coat_core.probing.choice_likelihood import choice_accuracy, choice_losses
from coat_core.probing.head_skill import Clips, head_skills
from coat_core.probing.knock_out import knock_out
from coat_core.probing.labels import answer_labels, expert_labels
from coat_core.probing.linear import probe_states
from coat_core.probing.selection import choose_examples
from coat_core.probing.states import ProbeStates, collect_states
from coat_core.probing.verdict import verdict
from coat_core.settings import HeadSettings, LossSettings, ProbeSettings
from coat_core.storage import write_json
from coat_core.thinking.release import Release, load_release
from coat_core.training.dataset import AudioEmbeddingCache

FORMAT = 1
_CACHE_MB = 4096


def probe_release(
    release: Path,
    baseline: Path | None,
    examples: Sequence[Example],
    corpus: Path,
    features: Mapping[str, Path],
    target: Path,
    *,
    probes: ProbeSettings,
    heads: HeadSettings,
    losses: LossSettings,
    audio: Path | None = None,
    device: str = "cpu",
    dtype: str | None = None,
) -> dict[str, Any]:
    """Probe a release and write the result to the file `target` atomically.

    The attention implementation is always `sdpa`, because a knock-out needs a mask over pairs of positions.

    Args:
        release: folder of a release with a block.
        baseline: folder of the release to compare with, on the same base; None: there is none.
        examples: rows of the accepted manifest.
        corpus: folder that audio paths are relative to.
        features: expert key → store.
        target: JSON file.
        probes: the probes section.
        heads: settings of fresh heads, for a release without heads.
        losses: losses of fresh heads, for a release without heads.
        audio: audio store of the base; None: the audio tower runs.
        device: `cpu` or `cuda`.
        dtype: dtype of the base's weights; None: as in training.

    Returns:
        The content of the file.

    Raises:
        ReleaseError: a release cannot be loaded, or the probed one has no block.
        EvaluationError: a split has no labelled example.
        ExpertError: an expert's store is missing or incomplete.
        AudioStoreError: the audio store is of another base, or lacks a clip.
    """
    train, test = (choose_examples(examples, split, count, probes.seed) for split, count in _splits(probes))
    stores = {key: ExpertStore.open(folder) for key, folder in features.items()}
    loaded = load_release(release, device=device, dtype=dtype)
    block, backbone = loaded.block, loaded.backbone
    if block is None:
        raise ReleaseError("a release without a block cannot be probed", field="arm", value=loaded.info.arm, allowed="an arm with a block")
    embeddings = AudioEmbeddingCache(backbone, _CACHE_MB, AudioStore.open(audio, backbone) if audio is not None else None)
    cut = knock_out(backbone, block, test, corpus, embeddings)
    choices = {"trial": choice_accuracy(choice_losses(backbone, test, corpus, embeddings)), "baseline": {}}
    trained, tested = (collect_states(backbone, block, part, corpus, embeddings) for part in (train, test))
    skills = head_skills(
        loaded.heads.cpu() if loaded.heads is not None else None, stores,
        Clips.of(train, trained, stores), Clips.of(test, tested, stores),
        loaded.info.heads or heads, loaded.info.losses or losses, steps=probes.steps, seed=probes.seed,
    )  # fmt: skip
    labels = [*expert_labels(stores, train, test), *answer_labels(train, test)]
    linear: dict[str, Any] = {
        "labels": [{"name": label.name, "group": label.group, "train": len(label.train), "test": len(label.test)} for label in labels],
        "layers": backbone.layer_count,
        "trial": probe_states(trained.pooled, tested.pooled, labels, probes.seed),
        "baseline": {},
    }
    if baseline is not None:
        del trained, tested
        other = _load_baseline(baseline, loaded, device, dtype)
        states: list[ProbeStates] = [collect_states(other.backbone, other.block, part, corpus, embeddings) for part in (train, test)]
        linear["baseline"] = probe_states(states[0].pooled, states[1].pooled, labels, probes.seed)
        choices["baseline"] = choice_accuracy(choice_losses(other.backbone, test, corpus, embeddings))
    result = {
        "format": FORMAT,
        "backbone": loaded.info.backbone,
        "trial": f"{loaded.info.arm}-{loaded.info.seed}",
        "baseline": None if baseline is None else f"{other.info.arm}-{other.info.seed}",
        "items": len(test),
        "train_items": len(train),
        "read_layer": block.read_layer,
        "verdict": verdict(cut),
        "knock_out": cut,
        "skill": skills,
        "choices": choices,
        "linear": linear,
    }
    write_json(target, result)
    return result


def _splits(probes: ProbeSettings) -> list[tuple[Any, int]]:
    return [("train", probes.train_items), ("validation", probes.items)]


def _load_baseline(folder: Path, probed: Release, device: str, dtype: str | None) -> Release:
    """Load the baseline; audio embeddings are shared, so it must have the same base.

    Raises:
        ReleaseError: it has another base.
    """
    other = load_release(folder, device=device, dtype=dtype)
    if other.info.base != probed.info.base:
        raise ReleaseError(
            "the baseline was trained on another base",
            field="probes.baseline",
            value=other.info.base.id,
            allowed=probed.info.base.id,
            next_step="train both again on one base",
        )
    return other
