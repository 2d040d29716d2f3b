"""Generation of responses: stock greedy `generate` over left-padded batches of clips of similar length.

With an audio store, `generate` gets input embeddings instead of mel features, and the audio tower does not run.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from coat_core.audio_store.store import AudioStore
from coat_core.backbones.base import Backbone, Query
from coat_core.backbones.user_text import control_ids
from coat_core.batching import length_sorted_batches
from coat_core.corpus.audio import decode
from coat_core.corpus.examples import Example
from coat_core.description import DESCRIPTION_TOKENS, split_description
from coat_core.device import explain_out_of_memory
from coat_core.errors import OutOfMemoryError
from coat_core.evaluation.responses import Audio, Response, write_responses
from coat_core.evaluation.selection import select
from coat_core.progress import ProgressBar
from coat_core.settings import ARMS, EvaluationSettings

ExplainMemory = Callable[[Backbone, Sequence[Query], int, int], OutOfMemoryError]
"""Takes the backbone, the queries of a batch that ran out of memory, `max_new_tokens` and the bytes of the device; returns the error."""

Clips = Callable[[Example], NDArray[np.float32]]
"""Returns the waveform `[N]` (mono float32 at 16 kHz) of an example's clip."""

_KEPT_CLIPS = 2048


@dataclass(frozen=True)
class _Question:
    example: Example
    clip: Example
    """The example whose audio is played."""
    audio: Audio


def clips_of(corpus: Path, store: AudioStore | None = None) -> Clips:
    """Return a reader of the clips of a corpus; recent ones are cached. With a store, its arrays of the clips' lengths are returned."""
    if store is not None:
        return lambda example: store.waveform(example.sha256)

    @lru_cache(maxsize=_KEPT_CLIPS)
    def read(path: str) -> NDArray[np.float32]:
        return decode(corpus / path)

    return lambda example: read(example.audio)


def query_of(example: Example, clips: Clips, clip: Example | None = None) -> Query:
    """Return the query for an example and its clip, or the clip of another example."""
    played = clip or example
    return Query(key=played.sha256, waveform=clips(played), text=example.prompt, name=example.id)


def other_clips(examples: Sequence[Example], seed: int) -> dict[str, Example]:
    """Assign to each open-ended example another clip: example id → the example whose audio is played.

    The clips of a family's open-ended examples are shuffled by the seed and each is replaced by the next, so no question gets its own
    clip. If there is only one, the clips of the family's other examples join, and without these all clips. A single clip has no other.
    """
    result: dict[str, Example] = {}
    open_ended = [example for example in examples if example.choices is None]
    for family in dict.fromkeys(example.family for example in open_ended):
        members = [example for example in open_ended if example.family == family]
        family_examples = [example for example in examples if example.family == family]
        pools = (_clips(members), _clips([*members, *family_examples]), _clips([*members, *examples]))
        clips = next((pool for pool in pools if len(pool) > 1), None)
        if clips is None:
            continue
        random.Random(f"other clips {seed} {family}").shuffle(clips)
        following = {clip.sha256: after for clip, after in zip(clips, clips[1:] + clips[:1], strict=True)}
        result |= {example.id: following[example.sha256] for example in members}
    return result


def _clips(examples: Sequence[Example]) -> list[Example]:
    """Return one example for each clip."""
    return list({example.sha256: example for example in examples}.values())


def answer_release(
    release: Path,
    examples: Sequence[Example],
    corpus: Path,
    settings: EvaluationSettings,
    target: Path,
    *,
    device: str = "cpu",
    dtype: str | None = None,
    attention: str = "sdpa",
    explain_memory: ExplainMemory | None = None,
    audio: Path | None = None,
) -> None:
    """Answer the selected examples with a release and write its responses to the file `target` atomically.

    A release of arm `described` may take `DESCRIPTION_TOKENS` more tokens, and its responses are split into description and answer.

    Args:
        release: folder of the release.
        examples: rows of the accepted manifest; `select` chooses among them.
        corpus: folder that the rows' audio paths are relative to.
        settings: the evaluation section; `split`, `limit_per_family`, `max_new_tokens`, `batch_size` and `seed` are used.
        target: JSON Lines file of `Response` rows.
        device: `cpu` or `cuda`.
        dtype: dtype of the base's weights; None: the dtype that the release was trained with.
        attention: attention implementation of the model.
        explain_memory: returns the error of a batch that runs out of memory; None: the error recommends no value.
        audio: audio store of the base; None: the audio tower runs.

    Raises:
        AudioStoreError: the store is of another base, or lacks a clip.
        EvaluationError: the split is empty.
        ReleaseError: the release cannot be loaded; `load_release` lists further errors.
        OutOfMemoryError: a batch does not fit the device's memory.
    """
    from coat_core.thinking.release import load_release

    chosen = select(examples, settings)
    loaded = load_release(release, merge=True, device=device, dtype=dtype, attention=attention)
    store = AudioStore.open(audio, loaded.backbone) if audio is not None else None
    described = ARMS[loaded.info.arm].described
    responses = generate_responses(
        loaded.backbone, chosen, corpus, settings, explain_memory=explain_memory, store=store, described=described
    )
    write_responses(target, responses)


def generate_responses(
    backbone: Backbone,
    examples: Sequence[Example],
    corpus: Path,
    settings: EvaluationSettings,
    *,
    progress: bool = True,
    explain_memory: ExplainMemory | None = None,
    store: AudioStore | None = None,
    described: bool = False,
) -> list[Response]:
    """Answer every example with its own clip, and every open-ended one also with another clip (to measure the score of guessing).

    With a store of the backbone's audio tower, no clip is decoded and the tower does not run. If the model is `described`, it writes a
    description before each answer.

    Returns:
        Responses to the own clips, in the order of `examples`, then those to other clips, in the same order.

    Raises:
        AudioError: a clip cannot be decoded.
        AudioStoreError: the store lacks a clip.
        BackboneError: an example does not fit the model; the message names it.
        OutOfMemoryError: a batch does not fit the device's memory; `explain_memory` returns the error.
    """
    others = other_clips(examples, settings.seed)
    questions = [_Question(example, example, "own") for example in examples]
    questions += [_Question(example, others[example.id], "other") for example in examples if example.id in others]
    responses: dict[int, Response] = {}
    limit = settings.max_new_tokens + (DESCRIPTION_TOKENS if described else 0)
    clips = clips_of(corpus, store)
    explain = explain_memory or _out_of_memory
    with ProgressBar(total=len(questions), desc="answering", unit="question", recorded=progress, disable=None if progress else True) as bar:
        for rows in length_sorted_batches([question.clip.duration_s for question in questions], settings.batch_size):
            queries = [query_of(questions[i].example, clips, questions[i].clip) for i in rows]
            audio = None if store is None else [store.get(query.key) for query in queries]
            with explain_out_of_memory(_device(backbone), partial(explain, backbone, queries, limit)):
                answers = generate_answers(backbone, queries, limit, audio)
            responses |= {i: _response(questions[i], answer, described) for i, answer in zip(rows, answers, strict=True)}
            bar.update(len(rows))
    return [responses[i] for i in range(len(questions))]


def _response(question: _Question, answer: GeneratedAnswer, described: bool) -> Response:
    if not described:
        return Response(id=question.example.id, response=answer.text, audio=question.audio)
    description, text = split_description(answer.text)
    return Response(
        id=question.example.id, response=text, audio=question.audio, description=description, decoded_tokens=answer.decoded_tokens
    )


def _device(backbone: Backbone) -> torch.device:
    return backbone.embedding.weight.device


def _out_of_memory(backbone: Backbone, queries: Sequence[Query], max_new_tokens: int, budget: int) -> OutOfMemoryError:
    return OutOfMemoryError(
        "answering ran out of the device's memory",
        field="evaluation.batch_size",
        value=f"{len(queries)} clips at once",
        allowed=f"{budget / 1e9:.1f} GB on this device",
        next_step="lower evaluation.batch_size",
    )


@dataclass(frozen=True)
class GeneratedAnswer:
    """A greedy answer.

    Attributes:
        text: the answer up to the end of turn, without special tokens.
        finished: whether the model ended its turn; False: the answer was cut off at `max_new_tokens`.
        control_tokens: control tokens that the model generated before the end of turn, in order; special ones are not in `text`.
        decoded_tokens: number of generated tokens, end of turn included.
        prompt_tokens: number of tokens of the prompt, audio and block included.
        ids: the generated ids before the end of turn.
    """

    text: str
    finished: bool
    control_tokens: tuple[str, ...]
    decoded_tokens: int
    prompt_tokens: int = field(default=0, compare=False)
    ids: tuple[int, ...] = field(default=(), compare=False)


def generate_texts(backbone: Backbone, queries: Sequence[Query], max_new_tokens: int, audio: Sequence[Tensor] | None = None) -> list[str]:
    """Return the greedy answers to queries, cut at the end of turn.

    Suppressed tokens and end tokens come from the generation config of the release. `audio` is as in `generate_answers`.

    Raises:
        BackboneError: a query does not fit the model; the message names it.
    """
    return [answer.text for answer in generate_answers(backbone, queries, max_new_tokens, audio)]


@torch.inference_mode()
def generate_answers(
    backbone: Backbone, queries: Sequence[Query], max_new_tokens: int, audio: Sequence[Tensor] | None = None, streamer: Any = None
) -> list[GeneratedAnswer]:
    """Return the greedy answers to queries, each with whether it is complete and which control tokens it contains.

    Args:
        backbone: the LALM.
        queries: the questions; with `audio`, only the lengths of their waveforms are used.
        max_new_tokens: tokens after which an answer is cut off.
        audio: output of the audio tower `[A, D]` for each query; None: the tower runs, as with the stock processor.
        streamer: receives the ids `[B]` of each step, as the streamers of transformers do.

    Raises:
        BackboneError: a query does not fit the model; the message names it.
    """
    batch = backbone.encode(queries, generation=True)
    inputs = backbone.generation_inputs(batch, audio)
    model: Any = backbone.model
    ids = model.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False, streamer=streamer)[:, batch.input_ids.shape[1] :]
    stops = stop_ids(backbone)
    control = control_ids(backbone.tokenizer)
    answers = []
    for row, prompt in zip(ids.tolist(), batch.attention_mask.sum(1).tolist(), strict=True):
        length = next((at for at, token in enumerate(row) if token in stops), len(row))
        found = [token for token in row[:length] if token in control]
        names = tuple(map(str, backbone.tokenizer.convert_ids_to_tokens(found)))
        finished = length < len(row)
        text = answer_text(backbone, row[:length])
        answers.append(GeneratedAnswer(text, finished, names, length + finished, prompt, tuple(row[:length])))
    return answers


def stop_ids(backbone: Backbone) -> set[int]:
    """Return the ids at which generation of a row ends: the end of turn and those of the generation config."""
    model: Any = backbone.model
    configured = model.generation_config.eos_token_id
    listed = configured if isinstance(configured, list) else [configured]
    return {int(backbone.tokenizer.convert_tokens_to_ids(backbone.end_of_turn)), *(int(stop) for stop in listed if stop is not None)}


def answer_text(backbone: Backbone, ids: Sequence[int]) -> str:
    """Return generated ids as text, up to the end of turn, without special tokens."""
    end = backbone.tokenizer.convert_tokens_to_ids(backbone.end_of_turn)
    kept = ids[: ids.index(end)] if end in ids else ids
    return str(backbone.tokenizer.decode(kept, skip_special_tokens=True)).strip()
