"""The OpenAI protocol of chat completions, as far as a model that answers one question about one clip can follow it.

Source: the OpenAI API reference, "Create chat completion" (parts `text` and `input_audio`), and vLLM's part `audio_url` with a data URI.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from coat_core.backbones.base import Query
from coat_core.corpus.audio_text import base64_bytes, data_uri_bytes, decode_bytes, is_data_uri, shown
from coat_core.corpus.normal_form import is_blank
from coat_core.errors import AudioError, EvaluationError
from coat_core.serving.batcher import Reply
from coat_core.serving.limits import Limits
from coat_core.storage import sha256_bytes

_WITHOUT_EFFECT: Mapping[str, tuple[Any, ...]] = {
    "temperature": (0,), "top_p": (1,), "n": (1,), "stop": ([],), "tools": ([],), "functions": ([],), "logprobs": (False,),
    "presence_penalty": (0,), "frequency_penalty": (0,), "modalities": (["text"],), "response_format": ({"type": "text"},),
}  # fmt: skip
"""Fields that would change the answer, with the values at which they do not. Other fields (`user`, `seed`, …) are ignored."""
_PARTS = "one part of type text, and one of type input_audio (or audio_url with a data URI)"


@dataclass(frozen=True)
class ChatRequest:
    """A request for a chat completion.

    Attributes:
        query: the question and its audio.
        max_tokens: most tokens of the answer.
        stream: whether the answer is wanted in pieces.
        usage: whether a stream ends with the numbers of tokens.
    """

    query: Query
    max_tokens: int
    stream: bool
    usage: bool


def read_request(body: Any, model: str, limits: Limits) -> ChatRequest:
    """Return the request in a JSON body.

    Args:
        body: the parsed body.
        model: name of the served model.
        limits: limits of the server.

    Raises:
        CoatError: a field is missing, wrong or beyond a limit; the message names it.
    """
    if not isinstance(body, dict):
        raise EvaluationError("the body is no JSON object", field="body", value=shown(repr(body)))
    if body.get("model", model) not in (model, "default"):
        raise EvaluationError("this server has another model", field="model", value=body["model"], allowed=(model, "default"))
    for name, allowed in _WITHOUT_EFFECT.items():
        if body.get(name) is not None and body[name] not in allowed:
            message = "the server answers greedily, with one text"
            raise EvaluationError(message, field=name, value=shown(repr(body[name])), allowed=f"{allowed[0]}, or leave it out")
    text, audio = _parts(body.get("messages"))
    if is_blank(text):
        raise EvaluationError("the question is empty", field="messages[0].content", value=shown(text), allowed="a text that is not blank")
    waveform = decode_bytes(_bytes(audio), max_duration_s=limits.audio_s)
    query = Query(key=sha256_bytes(waveform.tobytes()), waveform=waveform, text=text, name="messages[0]")
    options = body.get("stream_options")
    usage = isinstance(options, dict) and options.get("include_usage") is True
    return ChatRequest(query, _max_tokens(body, limits), _flag(body, "stream"), usage)


def _flag(body: Mapping[str, Any], name: str) -> bool:
    value = body.get(name)
    if value is not None and not isinstance(value, bool):
        raise EvaluationError("the value is no boolean", field=name, value=shown(repr(value)), allowed="true or false")
    return bool(value)


def _max_tokens(body: Mapping[str, Any], limits: Limits) -> int:
    default = min(64, limits.tokens)
    for name in ("max_completion_tokens", "max_tokens"):
        value = body.get(name)
        if value is not None:
            return checked_tokens(value, name, limits)
    return default


def checked_tokens(value: Any, field: str, limits: Limits) -> int:
    """Return the wanted length of an answer.

    Raises:
        EvaluationError: it is no integer, or beyond the limit.
    """
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= limits.tokens:
        raise EvaluationError("the length is not allowed", field=field, value=shown(repr(value)), allowed=f"1 to {limits.tokens}")
    return value


def _parts(messages: Any) -> tuple[str, str]:
    """Return the text and the audio of the one user message."""
    if not isinstance(messages, list) or len(messages) != 1 or not isinstance(messages[0], dict) or messages[0].get("role") != "user":
        roles = [message.get("role") if isinstance(message, dict) else None for message in messages] if isinstance(messages, list) else None
        message = "the model was trained to answer one question, without a system message or earlier turns"
        raise EvaluationError(message, field="messages", value=f"roles {roles}", allowed="one message of role user")
    content = messages[0].get("content")
    texts: list[str] = []
    audios: list[str] = []
    for number, part in enumerate(content if isinstance(content, list) else []):
        kind = part.get("type") if isinstance(part, dict) else None
        if kind not in ("text", "input_audio", "audio_url"):
            where = f"messages[0].content[{number}].type"
            raise EvaluationError("unknown part", field=where, value=shown(repr(kind)), allowed=("text", "input_audio", "audio_url"))
        value = part.get(kind)
        if kind != "text":
            value = value.get("data" if kind == "input_audio" else "url") if isinstance(value, dict) else None
        if not isinstance(value, str):
            raise EvaluationError("the part has no content", field=f"messages[0].content[{number}].{kind}", value=None, allowed=_PARTS)
        (texts if kind == "text" else audios).append(value)
    if len(texts) != 1 or len(audios) != 1:
        found = f"{len(texts)} texts, {len(audios)} audios"
        raise EvaluationError("the model answers one question about one clip", field="messages[0].content", value=found, allowed=_PARTS)
    return texts[0], audios[0]


def _bytes(audio: str) -> bytes:
    if is_data_uri(audio):
        return data_uri_bytes(audio)
    data = base64_bytes(audio)
    if data is None:
        message = "the audio is no base64; the server reads no files and fetches no addresses"
        raise AudioError(message, field="audio", value=shown(audio), allowed="an audio file in base64, or data:audio/…;base64,…")
    return data


def completion(model: str, reply: Reply) -> dict[str, Any]:
    """Return the body of an answer in one piece."""
    choice = {"index": 0, "message": {"role": "assistant", "content": reply.text}, "finish_reason": _reason(reply), "logprobs": None}
    return {**_head("chat.completion", model), "choices": [choice], "usage": _usage(reply)}


class Chunks:
    """The chunks of one streamed answer, which share an id.

    Args:
        model: name of the served model.
    """

    def __init__(self, model: str) -> None:
        self._head = _head("chat.completion.chunk", model)

    def text(self, piece: str, *, first: bool) -> dict[str, Any]:
        """Return the chunk of a piece of the answer."""
        return self._chunk({**({"role": "assistant"} if first else {}), "content": piece}, None)

    def last(self, reply: Reply) -> dict[str, Any]:
        """Return the chunk that says why the answer ended."""
        return self._chunk({}, _reason(reply))

    def usage(self, reply: Reply) -> dict[str, Any]:
        """Return the chunk with the numbers of tokens."""
        return {**self._head, "choices": [], "usage": _usage(reply)}

    def _chunk(self, delta: Mapping[str, str], reason: str | None) -> dict[str, Any]:
        return {**self._head, "choices": [{"index": 0, "delta": delta, "finish_reason": reason, "logprobs": None}]}


def error_body(message: str, kind: str, *, field: str | None = None) -> dict[str, Any]:
    """Return the body of an error."""
    return {"error": {"message": message, "type": kind, "param": field, "code": None}}


def model_list(names: Iterable[str]) -> dict[str, Any]:
    """Return the body of the list of models."""
    return {"object": "list", "data": [{"id": name, "object": "model", "created": 0, "owned_by": "coat"} for name in names]}


def _head(kind: str, model: str) -> dict[str, Any]:
    return {"id": f"chatcmpl-{uuid.uuid4().hex}", "object": kind, "created": int(time.time()), "model": model}


def _reason(reply: Reply) -> str:
    return "stop" if reply.finished else "length"


def _usage(reply: Reply) -> dict[str, int]:
    total = reply.prompt_tokens + reply.decoded_tokens
    return {"prompt_tokens": reply.prompt_tokens, "completion_tokens": reply.decoded_tokens, "total_tokens": total}
