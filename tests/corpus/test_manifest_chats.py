"""Chat rows of ms-swift and LLaMA-Factory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from coat_core.errors import CorpusError
from tests.testing.manifests import import_rows, import_text, write_tones


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write_tones(tmp_path / "data", "a.wav", "b.wav")
    return tmp_path / "data"


def turn(role: str, content: Any) -> dict[str, Any]:
    return {"role": role, "content": content}


def chat(question: Any = "<audio>Who speaks?", answer: Any = "Kim", **keys: Any) -> dict[str, Any]:
    return {"messages": [turn("user", question), turn("assistant", answer)], "audios": ["a.wav"], **keys}


ROWS: dict[str, tuple[dict[str, Any], str]] = {
    "ms-swift": (chat(), "Who speaks?"),
    "audios as text": (chat(audios="a.wav"), "Who speaks?"),
    "audio": ({**chat(), "audios": [], "audio": "a.wav"}, "Who speaks?"),
    "tag at the end": (chat("Who speaks?\n<audio>"), "Who speaks?"),
    "tag between words": (chat("Here: <audio> Who speaks?"), "Here: Who speaks?"),
    "no tag": (chat("Who speaks?"), "Who speaks?"),
    "LLaMA-Factory": (
        {"conversations": [{"from": "human", "value": "<audio>Who speaks?"}, {"from": "gpt", "value": "Kim"}], "audios": ["a.wav"]},
        "Who speaks?",
    ),
    "default system message": (
        {"messages": [turn("system", "You are a helpful assistant."), *chat()["messages"]], "audios": ["a.wav"]},
        "Who speaks?",
    ),
    "system message": (
        {"messages": [turn("system", "Use one word."), *chat()["messages"]], "audios": ["a.wav"]},
        "Use one word.\nWho speaks?",
    ),
    "system key": (chat(system="Use one word."), "Use one word.\nWho speaks?"),
    "query and response": ({"query": "<audio>Who speaks?", "response": "Kim", "history": [], "audios": ["a.wav"]}, "Who speaks?"),
    "several turns": (
        {
            "messages": [turn("user", "<audio>What is it?"), turn("assistant", "Speech."), *chat("Who speaks?")["messages"]],
            "audios": ["a.wav"],
        },
        "What is it?\nSpeech.\nWho speaks?",
    ),
    "audio in a turn of its own": (
        {"messages": [turn("user", "<audio>"), turn("assistant", "Yes?"), *chat("Who speaks?")["messages"]], "audios": ["a.wav"]},
        "Yes?\nWho speaks?",
    ),
    "history": (
        {"query": "Who speaks?", "response": "Kim", "history": [["<audio>What is it?", "Speech."]], "audios": ["a.wav"]},
        "What is it?\nSpeech.\nWho speaks?",
    ),
    "label of the data": (chat(channel="chat"), "Who speaks?"),
    "parts": (
        {
            "messages": [
                turn("user", [{"type": "audio", "audio": "a.wav"}, {"type": "text", "text": "Who speaks?"}]),
                turn("assistant", [{"type": "text", "text": "Kim"}]),
            ]
        },
        "Who speaks?",
    ),
}


@pytest.mark.parametrize("kind", ROWS)
@pytest.mark.parametrize("form", ["lines", "array"])
def test_a_chat_row_is_a_question_with_its_answer(data: Path, kind: str, form: str) -> None:
    row, question = ROWS[kind]
    lines = import_rows(data, [row]) if form == "lines" else import_text(data, json.dumps([row], indent=2), "data.json")
    (example,) = lines
    assert (example.question, example.answer, example.family, example.choices) == (question, "Kim", "understanding", None)


def test_a_chat_row_keeps_the_other_keys(data: Path) -> None:
    (example,) = import_rows(data, [chat(split="test", group="g", id="one", family="emotion")])
    assert (example.split, example.group, example.id, example.family) == ("test", "g", "one", "emotion")


@pytest.mark.parametrize(
    ("row", "words"),
    [
        pytest.param(
            {"messages": [*chat()["messages"], turn("assistant", "And?")], "audios": ["a.wav"]},
            "the turns are user, assistant, assistant, allowed: user and assistant in turn",
            id="two answers",
        ),
        pytest.param(chat(audios=["a.wav", "b.wav"]), "the row names 2 audio files, allowed: one", id="two audio files"),
        pytest.param(chat(audios=[]), "the row names 0 audio files, allowed: one", id="no audio file"),
        pytest.param(chat("<audio><audio>Who?"), "the tag <audio> must occur at most once", id="two tags"),
        pytest.param(chat(answer="<audio>"), "the tag <audio> must occur at most once, in a user turn", id="tag in the answer"),
        pytest.param(chat("<audio>a.wav</audio>Who?"), "name it in `audios`", id="name inside the tag"),
        pytest.param(chat("<audio>"), "the question is blank", id="blank question"),
        pytest.param(chat("<audio>\u200b"), "question is '\\u200b', allowed: text that is not blank", id="zero-width question"),
        pytest.param(chat(answer=""), "answer is '', allowed", id="empty answer"),
        pytest.param(chat(answer=None), "the assistant message is 'None', allowed: text", id="no answer"),
        pytest.param({"messages": [turn("user", "Who?")], "audios": ["a.wav"]}, "the turns are user, allowed", id="no assistant turn"),
        pytest.param({"messages": "Who?", "audios": ["a.wav"]}, "messages is not a list of objects", id="messages as text"),
        pytest.param(
            {"messages": [*chat()["messages"], turn("tool", "x")], "audios": ["a.wav"]},
            "message 3 of messages has the role 'tool'",
            id="tool",
        ),
        pytest.param(chat(images=["a.png"]), "the row has images", id="images"),
        pytest.param(chat(audios=[7]), "the audio file is 7", id="number as audio"),
        pytest.param(chat(question=[turn("user", "x")]), "a part of the user message is", id="part without a type"),
        pytest.param(chat(history=[["a", "b"]], query="x"), "the chat is given twice", id="two chats"),
        pytest.param({"query": "Who?", "response": "x", "history": ["a"], "audios": ["a.wav"]}, "history is not a list of", id="history"),
        pytest.param({"instruction": "Who?", "output": "Kim", "audios": ["a.wav"]}, "the key 'instruction'", id="alpaca"),
    ],
)
def test_a_chat_that_is_not_one_question_is_named(data: Path, row: dict[str, Any], words: str) -> None:
    with pytest.raises(CorpusError) as raised:
        import_rows(data, [chat(), row])
    assert "rows.jsonl: line 2, row 2: " in str(raised.value)
    assert words in str(raised.value)
