"""The models of the page: loaded once, each with a queue of its own; one computes at a time."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from coat_core.ask import is_tiny, measure_clip
from coat_core.backbones.base import Query
from coat_core.demo.plot import plot_of
from coat_core.demo.request import Asked
from coat_core.errors import ReleaseError
from coat_core.loading import RELEASES, LoadedModel, loaded_model
from coat_core.report.items import first_trials
from coat_core.report.tables import name_of
from coat_core.serving.answers import ReleaseAnswers
from coat_core.serving.batcher import Batcher, Job
from coat_core.settings import CLAIM, parse_trial

_DEFAULT_ARMS = ("base", *reversed(CLAIM))


@dataclass(frozen=True)
class DemoModel:
    """A loaded model.

    Attributes:
        loaded: the model.
        label: a short name, unique on the page.
        batcher: answers its questions.
        heads: whether its thinking block, or its audio positions, can be read out.
        tiny: whether its base is a tiny one, whose answers have no meaning.
    """

    loaded: LoadedModel
    label: str
    batcher: Batcher
    heads: bool
    tiny: bool

    def to_json(self) -> dict[str, Any]:
        """Return what the page shows of the model."""
        key = self.loaded.backbone.key
        return {"label": self.label, "name": self.loaded.name, "key": key, "backbone": name_of(key)}


class DemoModels:
    """The models, and the experts of those with heads.

    Args:
        models: in the order of the page.
        lock: held while a model computes.
    """

    def __init__(self, models: Sequence[DemoModel], lock: threading.Lock) -> None:
        from coat_core.experts.catalogue import build_expert

        self.models, self._lock = models, lock
        # Arms of one run have the same experts, which are built once.
        specs = {spec for model in models if model.heads for spec in model.loaded.release.info.experts.values()}
        self._experts = {spec: build_expert(spec) for spec in specs}

    def measure(self, asked: Asked) -> Mapping[Any, Any]:
        """Return the experts' features of the clip, by spec."""
        with tempfile.NamedTemporaryFile() as file, self._lock:
            file.write(asked.data)
            file.flush()
            return measure_clip(self._experts, Path(file.name))

    def read_out(self, model: DemoModel, asked: Asked, measured: Mapping[Any, Any]) -> dict[str, Any]:
        """Return the plot of the read-out of a model with heads."""
        from coat_core.report.read_out import predict_clip

        info = model.loaded.release.info
        stores = {key: measured[spec] for key, spec in info.experts.items()}
        trial = f"{info.arm}-{info.seed}"
        with self._lock:
            found = predict_clip(model.loaded.release, asked.example, asked.waveform, stores, trial=trial, response="", score=None)
        return plot_of(found)

    def close(self) -> None:
        """Answer the questions that were submitted, then end the threads."""
        for model in self.models:
            model.batcher.close()


@contextmanager
def load_models(names: Sequence[str], *, device: str = "cpu", dtype: str | None = None, base: str | None = None) -> Iterator[DemoModels]:
    """Yield the loaded models. Each answers one question about silence first, so that no visitor's answer is the slow first one.

    Args:
        names: `models:/name@alias`, `models:/name/version`, folders of releases or of exports.
        device: `cpu` or `cuda`.
        dtype: dtype of the weights; None: as in training, or as exported.
        base: folder or cached hub id of the base of every release; None: as stored.

    Raises:
        CoatError: a model or its base cannot be used.
    """
    from transformers.utils import logging

    logging.disable_progress_bar()
    lock = threading.Lock()
    with ExitStack() as stack:
        loaded = [stack.enter_context(loaded_model(name, device=device, dtype=dtype, base=base)) for name in names]
        labels = _labels(loaded)
        models = DemoModels([_demo_model(model, label, lock) for model, label in zip(loaded, labels, strict=True)], lock)
        stack.callback(models.close)
        silence = Query("silence", np.zeros(16_000, dtype=np.float32), "What do you hear?", name="first question")
        for model in models.models:
            model.batcher.submit(Job(silence, 1)).result()
        yield models


def default_models(workspace: Path) -> list[str]:
    """Return the releases of base, sft and coat of the first backbone in `models/`, as paths from the workspace.

    Raises:
        ReleaseError: there are none.
    """
    found: dict[str, list[str]] = {}
    for path in sorted((workspace / RELEASES).glob("*/coat.json")):
        backbone, _, trial = path.parent.name.partition("-")
        try:
            arm, _ = parse_trial(trial)
        except ValueError:
            continue
        if arm.name in _DEFAULT_ARMS:
            found.setdefault(backbone, []).append(trial)
    if not found:
        raise ReleaseError(
            "there are no releases here", field="MODEL", value=str(workspace / RELEASES),
            allowed="models:/NAME@ALIAS, models:/NAME/VERSION, folders of releases or of exports", next_step="train them: coat run",
        )  # fmt: skip
    backbone = next(iter(found))
    return [str(workspace / RELEASES / f"{backbone}-{trial}") for trial in first_trials(found[backbone])]


def _demo_model(loaded: LoadedModel, label: str, lock: threading.Lock) -> DemoModel:
    heads = loaded.release is not None and loaded.release.heads is not None
    batcher = Batcher(ReleaseAnswers(loaded.backbone, loaded.arm, lock), 1)
    return DemoModel(loaded, label, batcher, heads, is_tiny(loaded.backbone))


def _labels(models: Sequence[LoadedModel]) -> list[str]:
    """Return the arms, or where two models have the same arm, their names."""
    arms = [model.arm for model in models]
    return [model.arm if arms.count(model.arm) == 1 else f"{model.arm} · {model.name.removeprefix('models:/')}" for model in models]
