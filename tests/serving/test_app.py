"""The server's application over an invented model: the protocol, its refusals, its limits and its metrics."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

import pytest
from starlette.testclient import TestClient

from coat_core.registry.packaging import tone_base64
from coat_core.serving.app import COMPLETIONS, make_app
from coat_core.serving.limits import Limits
from tests.testing.chain_runs import HANG_S, wait_for
from tests.testing.echo_answers import Echo

NAME, TONE = "coat-tiny/1", tone_base64()


@pytest.fixture
def echo() -> Echo:
    return Echo()


@pytest.fixture
def client(echo: Echo) -> Iterator[TestClient]:
    with TestClient(make_app(NAME, echo, Limits(requests=3, batch=4, body_mb=0.1, audio_s=2.0, tokens=5))) as client:
        yield client


def body(text: str = "What is it?", audio: str = TONE, **fields: Any) -> dict[str, Any]:
    parts = [{"type": "input_audio", "input_audio": {"data": audio, "format": "wav"}}, {"type": "text", "text": text}]
    return {"model": NAME, "messages": [{"role": "user", "content": parts}], **fields}


def test_a_completion_has_the_fields_of_the_protocol(client: TestClient) -> None:
    reply = client.post(COMPLETIONS, json=body())
    assert reply.status_code == 200
    found = reply.json()
    assert found["object"] == "chat.completion"
    assert found["model"] == NAME
    (choice,) = found["choices"]
    assert choice["message"] == {"role": "assistant", "content": "What is it?"}
    assert choice["finish_reason"] == "stop"
    assert found["usage"] == {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
    assert client.get("/v1/models").json()["data"][0]["id"] == NAME
    cut = client.post(COMPLETIONS, json=body("one two three four", max_completion_tokens=2)).json()["choices"][0]
    assert (cut["message"]["content"], cut["finish_reason"]) == ("one two", "length")


def test_a_data_uri_is_audio_too(client: TestClient) -> None:
    parts = [{"type": "text", "text": "What?"}, {"type": "audio_url", "audio_url": {"url": f"data:audio/wav;base64,{TONE}"}}]
    reply = client.post(COMPLETIONS, json={"messages": [{"role": "user", "content": parts}], "temperature": 0, "seed": 3, "user": "me"})
    assert reply.json()["choices"][0]["message"]["content"] == "What?"


def test_a_stream_ends_with_reason_usage_and_done(client: TestClient) -> None:
    reply = client.post(COMPLETIONS, json=body("one two three", stream=True, stream_options={"include_usage": True}))
    assert reply.headers["content-type"].startswith("text/event-stream")
    lines = [line.removeprefix("data: ") for line in reply.text.splitlines() if line]
    assert lines[-1] == "[DONE]"
    chunks = [json.loads(line) for line in lines[:-1]]
    assert len({chunk["id"] for chunk in chunks}) == 1
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks if chunk["choices"]]
    assert deltas[0]["role"] == "assistant"
    assert [delta.get("content", "") for delta in deltas] == ["one", " two", " three", ""]
    assert chunks[-2]["choices"][0]["finish_reason"] == "stop"
    assert chunks[-1]["usage"]["completion_tokens"] == 3


def _in_flight(client: TestClient) -> int:
    (line,) = [line for line in client.get("/metrics").text.splitlines() if line.startswith("coat_requests_in_flight ")]
    return int(float(line.split()[1]))


def _post_later(client: TestClient, text: str) -> Future[Any]:
    found: Future[Any] = Future()
    threading.Thread(target=lambda: found.set_result(client.post(COMPLETIONS, json=body(text))), daemon=True).start()
    return found


@contextmanager
def _waiting(client: TestClient, echo: Echo) -> Iterator[Future[Any]]:
    """The model computes the answer to one question until the block ends."""
    first = _post_later(client, "wait")
    assert echo.entered.wait(HANG_S)
    yield first
    echo.gate.set()


def without(name: str) -> dict[str, Any]:
    parts = [part for part in body()["messages"][0]["content"] if part["type"] != name]
    return {"messages": [{"role": "user", "content": parts}]}


LONG = base64.b64encode(base64.b64decode(tone_base64(duration_s=2.5))).decode()
WRONG: dict[str, tuple[Any, str, str]] = {
    "list": ([], "body", "no JSON object"),
    "other model": (body(model="gpt-4o-audio"), "model", NAME),
    "temperature": (body(temperature=0.7), "temperature", "greedily"),
    "two answers": (body(n=2), "n", "greedily"),
    "tools": (body(tools=[{"type": "function"}]), "tools", "greedily"),
    "no messages": ({"model": NAME}, "messages", "one message of role user"),
    "system message": ({"messages": [{"role": "system", "content": "Be brief."}, *body()["messages"]]}, "messages", "one message"),
    "text alone": ({"messages": [{"role": "user", "content": "Hello"}]}, "messages[0].content", "0 texts, 0 audios"),
    "no audio": (without("input_audio"), "messages[0].content", "1 texts, 0 audios"),
    "no text": (without("text"), "messages[0].content", "0 texts, 1 audios"),
    "image": ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content[0].type", "unknown part"),
    "no data": ({"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]}, "messages[0].content[0].input_audio", "no content"),
    "blank question": (body(" \u200b"), "messages[0].content", "empty"),
    "path": (body(audio="/etc/passwd.wav"), "audio", "reads no files"),
    "address": (body(audio="http://127.0.0.1/clip.wav"), "audio", "fetches no addresses"),
    "no audio file": (body(audio=base64.b64encode(b"no audio, but text" * 9).decode()), "", "base64"),
    "long audio": (body(audio=LONG), "", "2.5"),
    "too many tokens": (body(max_tokens=6), "max_tokens", "1 to 5"),
    "no number": (body(max_tokens="many"), "max_tokens", "1 to 5"),
    "stream": (body(stream="yes"), "stream", "true or false"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_wrong_request_is_422_and_names_the_field(client: TestClient, echo: Echo, kind: str) -> None:
    content, field, message = WRONG[kind]
    reply = client.post(COMPLETIONS, json=content)
    assert reply.status_code == 422
    error = reply.json()["error"]
    assert error["type"] == "invalid_request_error"
    assert (error["param"] or "") == field
    assert message in error["message"]
    assert "/tmp" not in error["message"]
    assert not echo.batches


def test_a_body_that_is_no_json_is_422(client: TestClient) -> None:
    for content in (b"", b"{", b"\xff\xfe", b"[" * 50_000):
        assert client.post(COMPLETIONS, content=content).status_code == 422


def test_a_large_body_is_413_with_and_without_its_length(client: TestClient, echo: Echo) -> None:
    assert client.post(COMPLETIONS, json=body("long " * 30_000)).status_code == 413
    assert client.post(COMPLETIONS, content=(b"x" * 1000 for _ in range(200))).status_code == 413
    assert client.post("/elsewhere", content=b"x" * 200_000).status_code == 413
    assert not echo.batches


def test_a_refused_question_does_not_fail_the_others_of_its_batch(client: TestClient, echo: Echo) -> None:
    with _waiting(client, echo):
        replies = [_post_later(client, text) for text in ("refuse", "good")]
        assert wait_for(lambda: _in_flight(client) == 3)
    results = [thread.result() for thread in replies]
    assert [result.status_code for result in results] == [422, 200]
    assert results[0].json()["error"]["param"] == "audio"
    assert ["good"] in echo.batches or ["refuse", "good"] in echo.batches or ["good", "refuse"] in echo.batches


def test_more_requests_than_allowed_are_503_and_the_others_are_answered(client: TestClient, echo: Echo) -> None:
    with _waiting(client, echo) as first:
        others = [_post_later(client, f"question {number}") for number in range(2)]
        assert wait_for(lambda: _in_flight(client) == 3)
        refused = client.post(COMPLETIONS, json=body("one more"))
        assert refused.status_code == 503
        assert refused.headers["retry-after"] == "1"
    assert first.result().status_code == 200
    assert sorted(other.result().json()["choices"][0]["message"]["content"] for other in others) == ["question 0", "question 1"]
    # The questions that arrived while the model computed were answered together.
    assert sorted(echo.batches[-1]) == ["question 0", "question 1"]
    assert client.post(COMPLETIONS, json=body("one more")).status_code == 200


def test_an_answer_that_takes_too_long_is_504(echo: Echo) -> None:
    with TestClient(make_app(NAME, echo, Limits(timeout_s=0.05))) as client:
        assert client.post(COMPLETIONS, json=body("wait")).status_code == 504
        late = client.post(COMPLETIONS, json=body("never computed", stream=True))
        assert "no answer within" in late.text
        echo.gate.set()
    assert ["never computed"] not in echo.batches


def test_a_failure_of_the_model_is_500_and_the_next_question_is_answered(echo: Echo) -> None:
    with TestClient(make_app(NAME, echo, Limits()), raise_server_exceptions=False) as client:
        assert client.post(COMPLETIONS, json=body("fail")).status_code == 500
        assert "the answer failed: RuntimeError" in client.post(COMPLETIONS, json=body("fail", stream=True)).text
        assert client.post(COMPLETIONS, json=body("good")).status_code == 200


def test_metrics_count_requests_batches_and_tokens(client: TestClient) -> None:
    client.post(COMPLETIONS, json=body("one two"))
    client.post(COMPLETIONS, json=body("one", stream=True))
    client.post(COMPLETIONS, json=[])
    client.post("/unknown/path", json={})
    lines = client.get("/metrics").text.splitlines()
    assert f'coat_requests_total{{path="{COMPLETIONS}",status="200"}} 2.0' in lines
    assert f'coat_requests_total{{path="{COMPLETIONS}",status="422"}} 1.0' in lines
    assert 'coat_requests_total{path="other",status="404"} 1.0' in lines
    assert 'coat_tokens_total{kind="answer"} 3.0' in lines
    assert "coat_batch_size_count 2.0" in lines
    assert "coat_first_text_seconds_count 1.0" in lines
    assert "coat_requests_in_flight 0.0" in lines
