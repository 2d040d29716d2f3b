"""`coat ask`: answer one question about one clip with a registered version or a release folder, and draw the read-out."""

from __future__ import annotations

import difflib
import errno
import mimetypes
import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coat_core.errors import AudioError, CoatError, EvaluationError
from coat_core.loading import release_base
from coat_core.storage import sha256_file

if TYPE_CHECKING:
    from coat_core.corpus.examples import Example

TINY_PARAMETERS = 10_000_000
"""A base with fewer parameters is one of the tiny ones (about two million); small bases (docs/extending.md) have tens of millions."""


@dataclass(frozen=True)
class Answer:
    """One answer.

    Attributes:
        model: `models:/name@alias`, `models:/name/version`, or the release folder.
        version: number of the registered version; None for a folder.
        backbone: key of the LALM.
        trial: `<arm>-<seed>` of the release.
        audio: the audio file.
        question: the question, without the choices.
        choices: the choices, or None.
        answer: the model's text.
        choice: the choice that the answer names; None without choices, or if it names none.
        choice_note: why the answer names no choice; empty otherwise.
        description: what a release of arm `described` wrote before its answer; None for other arms.
        finished: whether the model ended its answer; False: it was cut off at the limit of tokens.
        seconds: duration of the generation, without loading, in seconds.
        tiny_base: whether the base is a tiny one, pretrained on synthetic data: its answers have no meaning.
    """

    model: str
    version: str | None
    backbone: str
    trial: str
    audio: str
    question: str
    choices: tuple[str, ...] | None
    answer: str
    choice: str | None
    choice_note: str
    description: str | None
    finished: bool
    seconds: float
    tiny_base: bool

    def notes(self) -> list[str]:
        """Return what a reader of the answer should know, one sentence each."""
        notes = _notes(self.answer, self.choices, self.choice, self.choice_note, finished=self.finished)
        if self.tiny_base:
            notes.append(f"warning: the base of {self.model} is a tiny one, pretrained on synthetic data: its answers have no meaning")
        return notes

    def to_json(self) -> dict[str, Any]:
        """Return the answer as JSON values."""
        return asdict(self)


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


def ask(
    model: str,
    audio: Path,
    question: str,
    *,
    show: Path | None = None,
    max_new_tokens: int = 24,
    device: str = "cpu",
    choices: Sequence[str] | None = None,
    base: str | None = None,
    report: Callable[[Answer], None] = lambda answer: None,
) -> str:
    """Return a model's answer to a question about a clip.

    Args:
        model: `models:/name@alias`, `models:/name/version` (both also without `models:/`), or a release folder.
        audio: an audio file.
        question: the question.
        show: PNG to which the read-out of the thinking block is drawn.
        max_new_tokens: maximum length of the answer, in tokens; a description before it may take `DESCRIPTION_TOKENS` more.
        device: `cpu` or `cuda`.
        choices: the choices; they follow the question as in the manifest.
        base: folder or cached hub id of the base; None: as in the release.
        report: called with the answer before the read-out is drawn, so that a read-out that fails loses no answer.

    Raises:
        CoatError: the model, its base or the audio cannot be used, the question is blank, the choices are not distinct, or (with `show`)
            the read-out cannot be drawn or written.
    """
    from transformers.utils import logging

    from coat_core.backbones.base import Query
    from coat_core.corpus.audio import decode
    from coat_core.description import DESCRIPTION_TOKENS, split_description
    from coat_core.evaluation.generate import generate_answers
    from coat_core.registry.references import model_uri, version_number
    from coat_core.registry.versions import unpack
    from coat_core.settings import ARMS
    from coat_core.thinking.release import load_release

    logging.disable_progress_bar()
    if show is not None and not _is_folder(show) and show.suffix.lower() != ".png":
        raise CoatError("the figure must be a PNG file", field="--show", value=str(show), allowed="a name that ends in .png")
    check_question(question)
    listed = check_choices(choices) if choices is not None else None
    _check_audio(audio)
    uri = model_uri(model)
    waveform = decode(audio)
    with tempfile.TemporaryDirectory() as temporary:
        folder = unpack(uri, Path(temporary)) if uri else Path(model)
        release = load_release(folder, device=device, base=base or (None if uri else release_base(folder)))
        example = example_of(audio.name, sha256_file(audio), len(waveform), question, listed)
        query = Query(key=example.sha256, waveform=waveform, text=example.prompt, name=audio.name)
        before = time.perf_counter()
        described = ARMS[release.info.arm].described
        generated = generate_answers(release.backbone, [query], max_new_tokens + (DESCRIPTION_TOKENS if described else 0))[0]
        seconds = time.perf_counter() - before
        description, text = split_description(generated.text) if described else (None, generated.text)
        choice, note = find_choice(listed, text)
        trial = f"{release.info.arm}-{release.info.seed}"
        report(
            Answer(
                uri or model, version_number(uri) if uri else None, release.info.backbone, trial, str(audio), question, listed,
                text, choice, note, description, generated.finished, round(seconds, 3), is_tiny(release.backbone),
            )
        )  # fmt: skip
        if show is not None:
            try:
                if _is_folder(show):
                    raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(show))
                _draw(release, example, waveform, audio, text, trial, show)
            except OSError as error:
                raise CoatError(
                    f"the figure cannot be written: {error.strerror or error}", field="--show", value=str(show),
                    next_step=f"choose another file; the answer is “{text}”",
                ) from error  # fmt: skip
    return text


def ask_resident(
    server: str, model: str, audio: Path, question: str, *, max_new_tokens: int = 24, choices: Sequence[str] | None = None
) -> tuple[str, list[str]]:
    """Return the answer of a running `coat serve` to a question about a clip, and notes for its reader.

    Args:
        server: address of the server.
        model: the served version; the server refuses another one.
        audio: an audio file.
        question: the question.
        max_new_tokens: maximum length of the answer, in tokens.
        choices: the choices; they follow the question as in the manifest.

    Raises:
        CoatError: the file is missing, no server answers, it refuses the question, the question is blank, or the choices are not distinct.
    """
    from coat_core.serving.client import ask_server

    check_question(question)
    listed = check_choices(choices) if choices is not None else None
    _check_audio(audio)
    answer, finished = ask_server(
        server, model, audio, example_of(audio.name, sha256_file(audio), 0, question, listed).prompt, max_tokens=max_new_tokens
    )
    choice, note = find_choice(listed, answer)
    return answer, _notes(answer, listed, choice, note, finished=finished)


def _notes(answer: str, choices: Sequence[str] | None, choice: str | None, choice_note: str, *, finished: bool) -> list[str]:
    notes = [] if answer.strip() else ["the answer is empty"]
    if choices is not None:
        notes.append(f"choice: {choice}" if choice is not None else f"the answer names no choice: {choice_note}")
    if not finished:
        notes.append("the answer was cut off; allow more tokens with --max-new-tokens")
    return notes


def check_choices(choices: Sequence[str]) -> tuple[str, ...]:
    """Return the choices without surrounding spaces.

    Raises:
        EvaluationError: fewer than two, or two that an answer cannot tell apart.
    """
    from coat_core.corpus.contract.answers import indistinct

    listed = tuple(choice.strip() for choice in choices)
    if mistake := indistinct(listed):
        raise EvaluationError(
            mistake, field="--choices", value=", ".join(listed), allowed="choices with a comma between them: --choices 'rain,wind'"
        )
    return listed


def check_question(question: str) -> None:
    """Check that a question is Unicode text with a visible character.

    Raises:
        EvaluationError: it is not.
    """
    from coat_core.corpus.normal_form import is_blank

    if is_blank(question):
        raise EvaluationError("the question is blank", field="question", value=question, allowed="text with a visible character")
    try:
        question.encode()
    except UnicodeEncodeError as error:
        raise EvaluationError(f"the question is not valid Unicode: {error.reason}", field="question", value=ascii(question)) from error


def _check_audio(audio: Path) -> None:
    """Check that the path is a file.

    Raises:
        AudioError: it is missing, a folder or not a regular file.
    """
    if audio.is_file():
        return
    if audio.is_dir():
        names = sorted(path.name for path in audio.iterdir() if path.is_file())
        inside = [name for name in names if (mimetypes.guess_type(name)[0] or "").startswith("audio/")]
        raise AudioError(
            "this is a folder, not an audio file", field="audio", value=str(audio), allowed="the path of one audio file",
            next_step=f"name one file, for example {audio / inside[0]}" if inside else "name one file",
        )  # fmt: skip
    if audio.exists():
        raise AudioError("this is not a regular file", field="audio", value=str(audio), allowed="the path of one audio file")
    siblings = [path.name for path in audio.parent.iterdir()] if audio.parent.is_dir() else []
    near = difflib.get_close_matches(audio.name, siblings, n=1)
    raise AudioError(
        "there is no such audio file", field="audio", value=str(audio), allowed="the path of one audio file",
        next_step=f"did you mean {audio.parent / near[0]}?" if near else "correct the path; it is relative to the working folder",
    )  # fmt: skip


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:
        return False


def is_tiny(backbone: Any) -> bool:
    """Return whether the base of a backbone is a tiny one."""
    return bool(sum(parameter.numel() for parameter in backbone.model.parameters()) < TINY_PARAMETERS)


def find_choice(choices: Sequence[str] | None, text: str) -> tuple[str | None, str]:
    """Return the choice that an answer names, and why it names none."""
    from coat_core.corpus.normal_form import normalise_option
    from coat_core.evaluation.scorers import read_choice

    if choices is None:
        return None, ""
    read = read_choice([normalise_option(choice) for choice in choices], text)
    return (choices[read], "") if isinstance(read, int) else (None, read.reason)


def example_of(name: str, sha256: str, samples: int, question: str, choices: tuple[str, ...] | None) -> Example:
    """Return a question about a clip as an example whose right answer is unknown.

    Args:
        name: name of the clip.
        sha256: of the file's bytes.
        samples: length of the clip at 16 kHz.
        question: the question, without the choices.
        choices: the choices, or None.
    """
    from coat_core.corpus.examples import Example

    return Example(
        id=name,
        audio=name,
        sha256=sha256,
        duration_s=samples / 16_000,
        sample_rate_hz=16_000,
        split="test",
        group="",
        family="understanding",
        task="ask",
        question=question,
        choices=choices,
        answer="",
        source="",
        licence="",
    )


def build_experts(release: Any) -> dict[str, Any]:
    """Return the experts of a release, by key; neural ones load their weights."""
    from coat_core.experts.catalogue import build_expert

    return {key: build_expert(spec) for key, spec in release.info.experts.items()}


def build_stores(release: Any, audio: Path) -> dict[str, Any]:
    """Return for each expert of a release its features of one clip, by key."""
    return measure_clip(build_experts(release), audio)


def measure_clip(experts: Mapping[str, Any], audio: Path) -> dict[str, Any]:
    """Return for each expert its features of one clip, with the reading methods of an `ExpertStore`.

    Raises:
        AudioError: the file cannot be decoded.
    """
    import numpy as np

    from coat_core.corpus.audio import decode

    stores = {}
    for key, expert in experts.items():
        samples = decode(audio, sample_rate_hz=expert.spec.sample_rate_hz)
        features, mask = expert(samples[None], np.array([len(samples)]))
        stores[key] = _Measured(expert.spec, features[0], mask[0])
    return stores


def _draw(release: Any, example: Any, waveform: Any, audio: Path, answer: str, trial: str, target: Path) -> None:
    from coat_core.report.figures import draw_read_out
    from coat_core.report.read_out import predict_clip

    stores = build_stores(release, audio)
    draw_read_out(predict_clip(release, example, waveform, stores, trial=trial, response=answer, score=None), target)
