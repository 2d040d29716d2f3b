"""`coat ask`: answer one question about one clip with a registered version or a release folder, and draw the read-out."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coat_core.errors import CoatError
from coat_core.storage import sha256_file


@dataclass(frozen=True)
class _Measured:
    """An expert's frames of one clip, with the reading methods of an `ExpertStore`."""

    spec: Any
    features: Any
    mask: Any

    def __contains__(self, sha256: str) -> bool:
        return True

    def get(self, sha256: str) -> tuple[Any, Any]:
        return self.features, self.mask


def ask(model: str, audio: Path, question: str, *, show: Path | None = None, max_new_tokens: int = 24, device: str = "cpu") -> str:
    """Return a model's answer to a question about a clip.

    Args:
        model: `models:/name@alias`, `models:/name/version`, or a release folder.
        audio: an audio file.
        question: the question; choices may follow it, as in `… Choices: rain, wind.`
        show: PNG to which the read-out of the thinking block is drawn.
        max_new_tokens: maximum length of the answer, in tokens.
        device: `cpu` or `cuda`.

    Raises:
        CoatError: the model, the audio or (with `show`) the heads are missing.
    """
    from transformers.utils import logging

    from coat_core.backbones.base import Query
    from coat_core.corpus.audio import decode
    from coat_core.evaluation.generate import generate_texts
    from coat_core.registry.lineage import MODEL_PREFIX
    from coat_core.registry.versions import unpack
    from coat_core.thinking.release import load_release

    logging.disable_progress_bar()
    if show is not None and show.suffix.lower() != ".png":
        raise CoatError("the figure must be a PNG file", field="--show", value=str(show), allowed="a name that ends in .png")
    waveform = decode(audio)
    with tempfile.TemporaryDirectory() as temporary:
        folder = unpack(model, Path(temporary)) if model.startswith(MODEL_PREFIX) else Path(model)
        release = load_release(folder, device=device)
        query = Query(key=sha256_file(audio), waveform=waveform, text=question, name=audio.name)
        answer = generate_texts(release.backbone, [query], max_new_tokens)[0]
        if show is not None:
            _draw(release, query, audio, answer, show)
    return answer


def _draw(release: Any, query: Any, audio: Path, answer: str, target: Path) -> None:
    import numpy as np

    from coat_core.corpus.audio import decode
    from coat_core.corpus.examples import Example
    from coat_core.experts.catalogue import build_expert
    from coat_core.report.figures import draw_read_out
    from coat_core.report.read_out import predict_clip

    stores = {}
    for key, spec in release.info.experts.items():
        expert = build_expert(spec)
        waveform = decode(audio, sample_rate_hz=spec.sample_rate_hz)
        features, mask = expert(waveform[None], np.array([len(waveform)]))
        stores[key] = _Measured(expert.spec, features[0], mask[0])
    example = Example(
        id=audio.name,
        audio=audio.name,
        sha256=query.key,
        duration_s=len(query.waveform) / 16_000,
        sample_rate_hz=16_000,
        split="test",
        group="",
        family="understanding",
        task="ask",
        question=query.text,
        choices=None,
        answer="",
        source="",
        licence="",
    )
    trial = f"{release.info.arm}-{release.info.seed}"
    draw_read_out(predict_clip(release, example, query.waveform, stores, trial=trial, response=answer, score=None), target)
