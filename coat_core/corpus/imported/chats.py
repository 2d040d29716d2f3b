"""Chat rows: `messages` of ms-swift, `conversations` of LLaMA-Factory (ShareGPT), and `query` with `response`.

A row has one audio file, an optional system message, and user and assistant messages in turn. The last assistant message is the answer.
What stands before it, without the `<audio>` tag and each message on lines of its own, is the question.
"""

from __future__ import annotations

import re
from typing import Any

from coat_core.corpus.imported.lines import Row

TAG = "<audio>"
_ROLES = {"user": "user", "human": "user", "assistant": "assistant", "gpt": "assistant", "system": "system"}
_DEFAULT_SYSTEM = "You are a helpful assistant."
_LISTS = ("messages", "conversations")


def is_chat(row: Row) -> bool:
    """Return whether a row is a chat."""
    return any(key in row for key in _LISTS) or ("query" in row and "response" in row)


def read_chat(row: Row) -> tuple[Row, list[str]]:
    """Return the row with `audio`, `question` and `answer`, and what is ignored.

    Raises:
        ValueError: the chat has several audio files, or is invalid.
    """
    rest = dict(row)
    ignored: list[str] = []
    if isinstance(rest.get("channel"), str) and not re.fullmatch(r"\s*\d+\s*|average", rest["channel"]):
        # In ms-swift this is a label of the data, not a channel of the audio.
        del rest["channel"]
        ignored.append("channel (a label of the chat)")
    messages = _messages(rest, ignored)
    audios: list[Any] = []
    texts = [(role, _text(content, role, audios)) for role, content in messages]
    audios = [*_audios(rest), *audios]
    for key in ("images", "image", "videos", "video", "tools"):
        if rest.pop(key, None):
            raise ValueError(f"the row has {key}, allowed: one audio file")
    if "system" in rest:
        texts.insert(0, ("system", _text(rest.pop("system"), "system", [])))
    systems = [text for role, text in texts if role == "system"]
    turns = [(role, text) for role, text in texts if role != "system"]
    if not turns or [role for role, _ in turns] != ["user", "assistant"] * (len(turns) // 2):
        roles = ", ".join(role for role, _ in turns) or "none"
        raise ValueError(f"the turns are {roles}, allowed: user and assistant in turn; the last assistant turn is the answer")
    if len(systems) > 1 or (systems and texts[0][0] != "system"):
        raise ValueError("the system message must be one, before the user turn")
    if len(audios) != 1:
        raise ValueError(f"the row names {len(audios)} audio files, allowed: one (several audio files in one row are not supported)")
    questions, answer = [text for role, text in turns if role == "user"], turns[-1][1]
    written = sum(text.count(TAG) for _, text in texts)
    if written > 1 or written > sum(text.count(TAG) for text in questions):
        raise ValueError(f"the tag {TAG} must occur at most once, in a user turn")
    if not all(map(str.strip, questions)) or not _without_tag(questions[-1]).strip():
        raise ValueError("the question is blank")
    question = "\n".join(filter(None, (_without_tag(text) for _, text in turns[:-1])))
    if "</audio>" in question:
        raise ValueError("the question names an audio file inside <audio>…</audio>; name it in `audios`")
    if systems and systems[0].strip() == _DEFAULT_SYSTEM:
        ignored.append("system (the default text)")
    elif systems and systems[0].strip():
        question = f"{systems[0].strip()}\n{question}"
    for key, value in (("question", question), ("answer", answer), ("audio", audios[0])):
        if rest.get(key) is not None and rest[key] != value:
            raise ValueError(f"{key} is given twice: in the chat and in the key {key!r}")
        rest[key] = value
    return rest, ignored


def _messages(rest: Row, ignored: list[str]) -> list[tuple[str, Any]]:
    """Remove the chat from the row and return role and content of its messages."""
    if sum(key in rest for key in (*_LISTS, "query")) > 1:
        raise ValueError("the chat is given twice, allowed: one of messages, conversations, query with response")
    if "query" in rest:
        turns = [*_history(rest), (rest.pop("query"), rest.pop("response"))]
        return [message for query, response in turns for message in (("user", query), ("assistant", response))]
    name = "messages" if "messages" in rest else "conversations"
    messages = rest.pop(name)
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        raise ValueError(f"{name} is not a list of objects with role and content, or from and value")
    result = []
    for number, message in enumerate(messages, 1):
        role_key, text_key = ("from", "value") if "from" in message else ("role", "content")
        role = message.get(role_key)
        if not isinstance(role, str) or role not in _ROLES:
            raise ValueError(f"message {number} of {name} has the {role_key} {str(role)[:40]!r}, allowed: {', '.join(_ROLES)}")
        if message.get("loss") is False and _ROLES[role] == "assistant" and number == len(messages):
            raise ValueError(f"message {number} of {name} has loss false, so the row has no answer to train on")
        ignored.extend(f"{name}.{key}" for key in message if key not in (role_key, text_key))
        result.append((_ROLES[role], message.get(text_key)))
    return result


def _history(rest: Row) -> list[tuple[Any, Any]]:
    """Remove the earlier turns from a row and return them, query and response."""
    history = rest.pop("history", None) or []
    if not isinstance(history, list) or not all(isinstance(turn, list) and len(turn) == 2 for turn in history):
        raise ValueError("history is not a list of [query, response]")
    return [(query, response) for query, response in history]


def _text(content: Any, role: str, audios: list[Any]) -> str:
    """Return the text of a message; audio parts of its content are added to `audios`."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise ValueError(f"the {role} message is {str(content)[:40]!r}, allowed: text")
    texts = []
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "text" and isinstance(part.get("text"), str):
            texts.append(part["text"])
        elif kind == "audio" and role == "user":
            audios.append(part.get("audio") or part.get("audio_url") or part.get("path"))
        else:
            raise ValueError(f"a part of the {role} message is {str(part)[:40]!r}, allowed: text, and one audio part of the user")
    return "\n".join(texts)


def _audios(rest: Row) -> list[Any]:
    found: list[Any] = []
    for key in ("audios", "audio"):
        value = rest.pop(key, [])
        found.extend(value if isinstance(value, list) else [value])
    return found


def _without_tag(question: str) -> str:
    before, tag, after = question.partition(TAG)
    if not tag:
        return question
    return " ".join(part for part in (before.rstrip(), after.lstrip()) if part) if before.strip() else after.lstrip()
