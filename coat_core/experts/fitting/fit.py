"""Fit of a classifier on generated scenes; the same arguments on the same machine give the same bytes."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from coat_core.corpus.audio import SAMPLE_RATE_HZ
from coat_core.corpus.generated.speech import Synthesiser
from coat_core.corpus.questions import seeded_generator
from coat_core.errors import ExpertError
from coat_core.experts.classifiers.context import CONTEXT_HOP, frame_context
from coat_core.experts.classifiers.network import INPUT_LIMIT, ClassifierNetwork
from coat_core.experts.fitting.scenes import RECIPES, Scene, draw_scene
from coat_core.storage import write_bytes

PURPOSE = "classifiers"
"""First part of every seed: no other corpus contains these scenes."""
SCENES = 800
HELD_OUT = 10
"""One scene in this many is scored and not fitted."""
_HIDDEN = (128, 64)
_EPOCHS = 12
_BATCH = 512
_LEARNING_RATE = 2e-3
_DROPOUT = 0.2
_REACH_S = 0.06
"""A class is present in a frame if its sound is within this distance of the frame's centre."""


def fit_classifiers(
    target: Path, *, scenes: int = SCENES, epochs: int = _EPOCHS, seed: int = 0, names: Sequence[str] = tuple(RECIPES)
) -> None:
    """Fit classifiers and write `target/<name>.safetensors`, with progress bars; a classifier takes about two minutes.

    Args:
        target: the folder; existing files are replaced.
        scenes: number of scenes for each classifier, held-out ones included.
        epochs: passes over the scenes.
        seed: seed of the scenes and of the weights.
        names: the classifiers, of `RECIPES`.

    Raises:
        ExpertError: no classifier has one of these names.
        CorpusError: the speech synthesiser is not installed.
    """
    if unknown := [name for name in names if name not in RECIPES]:
        raise ExpertError("no classifier has this name", field="classifiers", value=unknown[0], allowed=list(RECIPES))
    target.mkdir(parents=True, exist_ok=True)
    for name in names:
        network = fit_classifier(name, scenes=scenes, epochs=epochs, seed=seed)
        write_bytes(target / f"{name}.safetensors", network.to_bytes())


def fit_classifier(name: str, *, scenes: int = SCENES, epochs: int = _EPOCHS, seed: int = 0) -> ClassifierNetwork:
    """Fit one classifier; its `facts` contain the average precision on the held-out scenes, mean over classes.

    Raises:
        CorpusError: the speech synthesiser is not installed.
    """
    fitted, held_out = _frames(name, scenes, seed)
    mean, std = fitted[0].mean(axis=0), np.maximum(fitted[0].std(axis=0), 1e-3)
    inputs = torch.from_numpy(np.clip((fitted[0] - mean) / std, -INPUT_LIMIT, INPUT_LIMIT))
    network = ClassifierNetwork(RECIPES[name].classes, mean, std, _train(inputs, torch.from_numpy(fitted[1]), epochs, seed))
    score = average_precision(network.posteriors(held_out[0].astype(np.float64)), held_out[1])
    facts = {"scenes": str(scenes), "epochs": str(epochs), "seed": str(seed), "held-out average precision": f"{score:.3f}"}
    return ClassifierNetwork(network.classes, mean, std, network.layers, facts)


def scene_labels(scene: Scene, classes: Sequence[str]) -> NDArray[np.float32]:
    """Return which classes are present in each frame of a scene, `[T, classes]` in {0, 1}."""
    centres = np.arange(-(-scene.waveform.size // CONTEXT_HOP)) * (CONTEXT_HOP / SAMPLE_RATE_HZ)
    labels = np.zeros((len(centres), len(classes)), dtype=np.float32)
    for name, start, stop in scene.spans:
        labels[(centres > start - _REACH_S) & (centres < stop + _REACH_S), classes.index(name)] = 1.0
    return labels


def average_precision(scores: NDArray[np.floating], labels: NDArray[np.float32]) -> float:
    """Return the average precision, mean over the classes that occur."""
    found = []
    for column in np.flatnonzero(labels.any(axis=0)):
        hits = labels[np.argsort(-scores[:, column], kind="stable"), column].astype(np.float64)
        precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
        found.append(float((precision * hits).sum() / hits.sum()))
    return float(np.mean(found))


_Frames = tuple[NDArray[np.float32], NDArray[np.float32]]


def _frames(name: str, scenes: int, seed: int) -> tuple[_Frames, _Frames]:
    """Return context `[n, F]` and labels `[n, classes]` of the frames of all fitted and of all held-out scenes."""
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    from coat_core.progress import ProgressBar

    recipe = RECIPES[name]
    parts: tuple[list[_Frames], list[_Frames]] = ([], [])
    with (
        Synthesiser() as synthesiser,
        threadpool_limits(1),
        ProgressBar(total=scenes, desc=f"{name}: scenes", unit="scene", disable=None) as bar,
    ):
        for index in range(scenes):
            scene = draw_scene(recipe, index, seeded_generator(PURPOSE, seed, name, index), synthesiser)
            frames = frame_context(scene.waveform).astype(np.float32), scene_labels(scene, recipe.classes)
            parts[index % HELD_OUT == HELD_OUT - 1].append(frames)
            bar.update(1)
    fitted, held_out = ((np.concatenate([x for x, _ in part]), np.concatenate([y for _, y in part])) for part in parts)
    return fitted, held_out


def _train(inputs: Tensor, labels: Tensor, epochs: int, seed: int) -> tuple[tuple[NDArray[np.float32], NDArray[np.float32]], ...]:
    """Minimise the binary cross-entropy; return weights `[in, out]` and biases of the layers, rounded to float16."""
    threads = torch.get_num_threads()
    # The number of threads changes the order of sums, and with it the weights.
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            sizes = (inputs.shape[1], *_HIDDEN, labels.shape[1])
            linears = [nn.Linear(before, after) for before, after in pairwise(sizes)]
            blocks = [nn.Sequential(linear, nn.ReLU(), nn.Dropout(_DROPOUT)) for linear in linears[:-1]]
            model = nn.Sequential(nn.Dropout(0.1), *blocks, linears[-1])
            steps = epochs * -(-len(inputs) // _BATCH)
            optimizer = torch.optim.AdamW(model.parameters(), lr=_LEARNING_RATE, weight_decay=1e-2)
            schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
            for _ in range(epochs):
                for rows in torch.split(torch.randperm(len(inputs)), _BATCH):
                    loss = nn.functional.binary_cross_entropy_with_logits(model(inputs[rows]), labels[rows], reduction="sum") / len(rows)
                    optimizer.zero_grad()
                    torch.autograd.backward(loss)
                    optimizer.step()
                    schedule.step()
    finally:
        torch.set_num_threads(threads)
    return tuple(
        (linear.weight.detach().T.half().float().numpy().copy(), linear.bias.detach().half().float().numpy().copy()) for linear in linears
    )
