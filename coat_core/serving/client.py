"""A client of `coat serve`, with the standard library only: a question to a resident model takes no time to load one."""

from __future__ import annotations

import base64
import http.client
import json
import urllib.error
import urllib.request
from pathlib import Path

from coat_core.errors import AudioError, CoatError, EvaluationError

_PATH = "/v1/chat/completions"
_NEXT_STEP = "start one: coat serve MODEL --port 5000"


def ask_server(server: str, model: str, audio: Path, text: str, *, max_tokens: int, timeout_s: float = 600.0) -> tuple[str, bool]:
    """Return the answer of a server, and whether it is complete.

    Args:
        server: address of the server, for example `http://127.0.0.1:5000`.
        model: the model that must answer, with or without `models:/`; the server refuses the name of another one.
        audio: an audio file of this machine; its bytes are sent.
        text: the question, with its choices.
        max_tokens: maximum length of the answer, in tokens.
        timeout_s: longest time to wait.

    Raises:
        AudioError: the file cannot be read.
        CoatError: no server answers at the address, or it refuses the question.
    """
    try:
        data = base64.b64encode(audio.read_bytes()).decode()
    except OSError as error:
        raise AudioError(f"the audio file cannot be read: {error.strerror}", field="audio", value=str(audio)) from error
    parts = [{"type": "input_audio", "input_audio": {"data": data, "format": audio.suffix[1:] or "wav"}}, {"type": "text", "text": text}]
    body = {"model": model.removeprefix("models:/"), "messages": [{"role": "user", "content": parts}], "max_tokens": max_tokens}
    try:
        request = urllib.request.Request(server.rstrip("/") + _PATH, json.dumps(body).encode(), {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=timeout_s) as reply:
            choice = json.loads(reply.read())["choices"][0]
            return str(choice["message"]["content"]), choice["finish_reason"] == "stop"
    except urllib.error.HTTPError as error:
        raise EvaluationError(f"the server refuses the question: {_reason(error)}", field="--server", value=server) from error
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise CoatError(f"no server answers: {reason}", field="--server", value=server, next_step=_NEXT_STEP) from error
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise CoatError("this is no address of a server of coat", field="--server", value=server, next_step=_NEXT_STEP) from error


def _reason(error: urllib.error.HTTPError) -> str:
    try:
        return str(json.loads(error.read())["error"]["message"])
    except (ValueError, KeyError, TypeError, OSError):
        return f"status {error.code}"
