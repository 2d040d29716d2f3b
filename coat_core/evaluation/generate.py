"""Responses of a model: stock greedy `generate` over left-padded batches of like length, in manifest order."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from coat_core.backbones.base import SAMPLE_RATE_HZ, Backbone, Query
from coat_core.corpus.audio import decode
from coat_core.corpus.examples import Example
from coat_core.device import memory_watch
from coat_core.errors import OutOfMemoryError
from coat_core.evaluation.responses import Audio, Response
from coat_core.settings import EvaluationSettings
from coat_core.sizing.meta import shape_of
from coat_core.sizing.out_of_memory import inference_error
from coat_core.sizing.workload import InferenceLoad

Clips = Callable[[str], NDArray[np.float32]]

_KEPT_CLIPS = 2048


@dataclass(frozen=True)
class _Question:
    example: Example
    clip: Example
    """Whose audio is played."""
    audio: Audio


def clips_of(corpus: Path) -> Clips:
    """Return a reader of waveforms (mono float32 at 16 kHz) by path relative to the corpus; a clip is decoded once."""

    @lru_cache(maxsize=_KEPT_CLIPS)
    def read(path: str) -> NDArray[np.float32]:
        return decode(corpus / path)

    return read


def query_of(example: Example, clips: Clips, clip: Example | None = None) -> Query:
    """Return the question of an example about its clip, or about another example's clip."""
    played = clip or example
    return Query(key=played.sha256, waveform=clips(played.audio), text=example.prompt, name=example.id)


def select(examples: Sequence[Example], settings: EvaluationSettings) -> list[Example]:
    """Return the examples to evaluate: those of the split, at most `limit_per_family` of each family, in manifest order."""
    counts: dict[str, int] = {}
    chosen = []
    for example in examples:
        if example.split != settings.split:
            continue
        counts[example.family] = counts.get(example.family, 0) + 1
        if settings.limit_per_family is None or counts[example.family] <= settings.limit_per_family:
            chosen.append(example)
    return chosen


def other_clips(examples: Sequence[Example], seed: int) -> dict[str, Example]:
    """Give each open-ended example another clip of its family: example id → the example whose audio is played.

    The clips of a family are shuffled by the seed and each question gets the next one, so no clip meets its own question.
    A family with one clip only gets none.
    """
    result: dict[str, Example] = {}
    opens = [example for example in examples if example.choices is None]
    for family in dict.fromkeys(example.family for example in opens):
        members = [example for example in opens if example.family == family]
        clips = list({example.sha256: example for example in members}.values())
        if len(clips) < 2:
            continue
        random.Random(f"other clips {seed} {family}").shuffle(clips)
        following = {clip.sha256: after for clip, after in zip(clips, clips[1:] + clips[:1], strict=True)}
        result |= {example.id: following[example.sha256] for example in members}
    return result


def generate_responses(
    backbone: Backbone, examples: Sequence[Example], corpus: Path, settings: EvaluationSettings, *, progress: bool = True
) -> list[Response]:
    """Ask every example about its own clip, and every open-ended one about another clip too (what guessing earns).

    Returns:
        Responses with the own audio, in the order of `examples`, then those with another clip's, in the same order.

    Raises:
        AudioError: a clip cannot be decoded.
        BackboneError: an example does not fit the model; it is named.
        OutOfMemoryError: the device is too small for a batch; one that would fit is named.
    """
    others = other_clips(examples, settings.seed)
    questions = [_Question(example, example, "own") for example in examples]
    questions += [_Question(example, others[example.id], "other") for example in examples if example.id in others]
    texts: list[str] = [""] * len(questions)
    clips = clips_of(corpus)
    with tqdm(total=len(questions), desc="answering", unit="question", disable=None if progress else True) as bar:
        for rows in length_batches([question.clip.duration_s for question in questions], settings.batch_size):
            queries = [query_of(questions[i].example, clips, questions[i].clip) for i in rows]
            with memory_watch(_device(backbone), lambda budget, queries=queries: _too_large(backbone, queries, settings, budget)):  # type: ignore[misc]
                answers = generate_texts(backbone, queries, settings.max_new_tokens)
            for i, text in zip(rows, answers, strict=True):
                texts[i] = text
            bar.update(len(rows))
    return [Response(id=q.example.id, response=text, audio=q.audio) for q, text in zip(questions, texts, strict=True)]


def _device(backbone: Backbone) -> torch.device:
    return backbone.embedding.weight.device


def _too_large(backbone: Backbone, queries: Sequence[Query], settings: EvaluationSettings, budget: int) -> OutOfMemoryError:
    lalm: Any = backbone
    prompts = backbone.encode(queries, generation=True).input_ids.shape[1]
    audio_s = max(len(query.waveform) for query in queries) / SAMPLE_RATE_HZ
    dtype = str(lalm.model.dtype).removeprefix("torch.")
    text = max(prompts - round(audio_s * backbone.audio_token_rate_hz), 0)
    load = InferenceLoad(len(queries), audio_s, text, settings.max_new_tokens, dtype)
    return inference_error(shape_of(lalm), load, budget, field="evaluation.batch_size")


def length_batches(durations_s: Sequence[float], size: int) -> Iterator[list[int]]:
    """Yield row numbers in batches of like duration, longest first, so that memory runs out at once or never."""
    order = sorted(range(len(durations_s)), key=lambda i: (-durations_s[i], i))
    for start in range(0, len(order), size):
        yield order[start : start + size]


@torch.inference_mode()
def generate_texts(backbone: Backbone, queries: Sequence[Query], max_new_tokens: int) -> list[str]:
    """Return the greedy answers to queries, cut at the end of turn.

    Everything else about the generation (what is suppressed, what ends it) is the generation config of the release.

    Raises:
        BackboneError: a query does not fit the model; it is named.
    """
    batch = backbone.encode(queries, generation=True)
    inputs = backbone.generation_inputs(batch)
    model: Any = backbone.model
    ids = model.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False)[:, batch.input_ids.shape[1] :]
    return [answer_text(backbone, row) for row in ids.tolist()]


def answer_text(backbone: Backbone, ids: Sequence[int]) -> str:
    """Return generated ids as text, up to the end of turn, without special tokens."""
    end = backbone.tokenizer.convert_tokens_to_ids(backbone.end_of_turn)
    kept = ids[: ids.index(end)] if end in ids else ids
    return str(backbone.tokenizer.decode(kept, skip_special_tokens=True)).strip()
