"""Questions through the application: the models' own answers, times, verdicts and read-outs; refusals; one question at a time."""

from __future__ import annotations

import asyncio
import base64
import json
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import aclosing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient

from coat_core.ask import ask, build_stores
from coat_core.corpus.audio import decode, flac_bytes
from coat_core.demo.app import ASK
from coat_core.demo.asking import question_events
from coat_core.demo.items import SavedItems
from coat_core.demo.models import DemoModel, DemoModels, default_models
from coat_core.demo.plot import plot_of
from coat_core.demo.request import read_question
from coat_core.demo.turns import Turns
from coat_core.errors import CoatError, ReleaseError
from coat_core.report.read_out import predict_clip
from coat_core.serving.batcher import Batcher
from coat_core.serving.limits import Limits
from tests.demo.conftest import LIMITS
from tests.testing.chain_runs import HANG_S
from tests.testing.echo_answers import Echo
from tests.testing.evaluations import KEY

EXAMPLE = "test-music-2"
TONE = (0.3 * np.sin(np.arange(16_000) / 5)).astype(np.float32)


def uri(data: bytes) -> str:
    return f"data:application/octet-stream;base64,{base64.b64encode(data).decode()}"


def events(client: TestClient, **body: Any) -> list[dict[str, Any]]:
    reply = client.post(ASK, json=body)
    assert reply.status_code == 200, reply.text
    return [json.loads(line) for line in reply.text.splitlines()]


def echo_models(*answers: Echo) -> DemoModels:
    """Models without heads that answer as they are told."""
    loaded: Any = SimpleNamespace(name="models/echo", backbone=SimpleNamespace(key=KEY), arm="sft", release=None)
    return DemoModels(
        [DemoModel(loaded, f"echo {number}", Batcher(a, 1), False, True) for number, a in enumerate(answers)], threading.Lock()
    )


def test_each_model_gives_its_own_answer_and_the_pieces_join_to_it(client: TestClient, models: DemoModels, tmp_path: Path) -> None:
    (tmp_path / "tone.flac").write_bytes(flac_bytes(TONE, 16_000))
    found = events(
        client,
        audio=uri((tmp_path / "tone.flac").read_bytes()),
        question="Which instrument plays?",
        choices=["flute", "violin"],
        max_tokens=8,
    )
    assert [e["event"] for e in found if e["event"] != "text"] == ["start", "answer"] * 3 + ["reading", "read_out", "end"]
    for number, model in enumerate(models.models):
        (answer,) = [e for e in found if e["event"] == "answer" and e["model"] == number]
        expected = ask(model.loaded.name, tmp_path / "tone.flac", "Which instrument plays?", choices=["flute", "violin"], max_new_tokens=8)
        assert answer["text"] == expected
        assert "".join(e["text"] for e in found if e["event"] == "text" and e["model"] == number) == expected
        assert 0.0 < answer["first_token_s"] <= answer["seconds"]
        assert answer["tokens"] <= 8
        assert (answer["verdict"], answer["right_answer"]) == (None, None)


def test_a_question_of_the_workspace_has_a_verdict_and_a_changed_one_has_none(client: TestClient, saved: SavedItems) -> None:
    example = saved.examples[EXAMPLE]
    asked = {"clip": EXAMPLE, "question": example.question, "choices": list(example.choices or ()), "max_tokens": 2}
    answers = [e for e in events(client, **asked) if e["event"] == "answer"]
    assert len(answers) == 3
    assert all(e["verdict"] in ("right", "wrong", "unscored") and e["right_answer"] == "a horn" for e in answers)
    changed = [e for e in events(client, **{**asked, "question": "What is it?"}) if e["event"] == "answer"]
    assert {e["verdict"] for e in changed} == {None}


def test_the_read_out_is_that_of_coat_ask(client: TestClient, models: DemoModels, saved: SavedItems) -> None:
    example = saved.examples[EXAMPLE]
    found = events(client, clip=EXAMPLE, question=example.question, choices=list(example.choices or ()), max_tokens=1)
    (plot,) = [e for e in found if e["event"] == "read_out"]
    assert plot["model"] == 2
    path = saved.corpus / example.audio
    release = models.models[2].loaded.release
    expected = predict_clip(release, example, decode(path), build_stores(release, path), trial="coat-0", response="", score=None)
    assert plot["plot"] == json.loads(json.dumps(plot_of(expected)))
    assert plot["plot"]["duration_s"] == pytest.approx(example.duration_s)
    image = plot["plot"]["spectrogram"]["measured"]
    assert len(base64.b64decode(image["pixels"])) == image["rows"] * image["columns"]
    # The first row is the highest band; the tone of this clip is in a low one.
    pixels = np.frombuffer(base64.b64decode(image["pixels"]), np.uint8).reshape(image["rows"], -1)
    assert pixels[: image["rows"] // 2].max() < pixels[image["rows"] // 2 :].max() == 255
    assert plot["plot"]["pitch"] is not None
    assert len(plot["plot"]["curves"]) == 8


LONG = uri(flac_bytes(np.tile(TONE, 6), 16_000))
GOOD = {"clip": EXAMPLE, "question": "What is it?"}
WRONG: dict[str, tuple[Any, str]] = {
    "list": ([], "JSON object"),
    "unknown field": ({**GOOD, "temperature": 1}, "JSON object"),
    "no question": ({"clip": EXAMPLE}, "no question"),
    "blank question": ({**GOOD, "question": " \u200b"}, "blank"),
    "no clip": ({"question": "What?"}, "no clip"),
    "unknown clip": ({**GOOD, "clip": "../../etc/passwd"}, "no example"),
    "number as clip": ({**GOOD, "clip": 3}, "no example"),
    "path as audio": ({"audio": "/etc/passwd", "question": "What?"}, "no clip"),
    "text as audio": ({"audio": uri(b"this is a letter, not a sound" * 9), "question": "What?"}, "the audio file"),
    "empty audio": ({"audio": "data:audio/wav;base64,", "question": "What?"}, "base64"),
    "long audio": ({"audio": LONG, "question": "What?"}, "6"),
    "one choice": ({**GOOD, "choices": ["rain"]}, "choices"),
    "equal choices": ({**GOOD, "choices": ["rain", "Rain"]}, "choices"),
    "text as choices": ({**GOOD, "choices": "rain, wind"}, "list of texts"),
    "too many tokens": ({**GOOD, "max_tokens": 13}, "1 to 12"),
    "true as tokens": ({**GOOD, "max_tokens": True}, "1 to 12"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_wrong_question_is_422_with_the_reason(client: TestClient, kind: str) -> None:
    body, message = WRONG[kind]
    reply = client.post(ASK, json=body)
    assert reply.status_code == 422
    assert message in reply.json()["error"]["message"]
    assert "/tmp" not in reply.json()["error"]["message"]


def test_a_body_of_another_kind_is_refused(client: TestClient) -> None:
    for content in (b"", b"{", b"\xff", b"[" * 50_000):
        assert client.post(ASK, content=content, headers={"Content-Type": "application/json"}).status_code == 422
    # A form of another site can send JSON under these types, without asking this server first.
    for kind in ("multipart/form-data", "application/x-www-form-urlencoded", ""):
        assert client.post(ASK, content=json.dumps(GOOD), headers={"Content-Type": kind}).status_code == 415
    assert client.post(ASK, json={**GOOD, "audio": "x" * 1_100_000}).status_code == 413


def test_more_questions_than_allowed_are_503(open_client: Callable[..., TestClient]) -> None:
    echo = Echo()
    client = open_client(models=echo_models(echo), limits=Limits(requests=1))
    first: Future[Any] = Future()
    threading.Thread(target=lambda: first.set_result(client.post(ASK, json={**GOOD, "question": "wait"})), daemon=True).start()
    assert echo.entered.wait(HANG_S)
    assert client.post(ASK, json=GOOD).status_code == 503
    echo.gate.set()
    assert first.result().status_code == 200
    assert client.post(ASK, json=GOOD).status_code == 200


def test_a_model_that_fails_does_not_keep_the_others_from_answering(open_client: Callable[..., TestClient]) -> None:
    class Broken(Echo):
        def __call__(self, jobs: Any) -> Any:
            raise RuntimeError("secret path")

    client = open_client(models=echo_models(Broken(), Echo()))
    found = events(client, **GOOD)
    assert [e["event"] for e in found if e["event"] != "text"] == ["start", "error", "start", "answer", "end"]
    assert next(e for e in found if e["event"] == "error")["message"] == "the answer failed: RuntimeError"
    refused = events(open_client(models=echo_models(Echo())), **{**GOOD, "question": "refuse"})
    assert "too long" in next(e for e in refused if e["event"] == "error")["message"]


def test_a_slow_model_ends_with_a_message(open_client: Callable[..., TestClient]) -> None:
    echo = Echo()
    found = events(open_client(models=echo_models(echo), limits=Limits(timeout_s=0.05)), **{**GOOD, "question": "wait"})
    assert [e["event"] for e in found] == ["start", "error", "end"]
    assert "more than 0.05 s" in found[1]["message"]
    echo.gate.set()


def test_questions_are_answered_one_at_a_time_in_the_order_of_arrival(saved: SavedItems) -> None:
    asked = read_question(GOOD, saved.examples, saved.corpus, LIMITS)

    async def trial() -> None:
        turns, models = Turns(), echo_models(Echo())
        first, second, third = (question_events(asked, models, turns, HANG_S, 0.0) for _ in range(3))
        async with aclosing(first), aclosing(second), aclosing(third):
            assert (await anext(first))["event"] == "start"
            assert await anext(second) == {"event": "queued", "before": 1}
            assert await anext(third) == {"event": "queued", "before": 2}
            # The first visitor leaves: the others move up.
            await first.aclose()
            assert await anext(third) == {"event": "queued", "before": 1}
            assert (await anext(second))["event"] == "start"
            rest = [event["event"] async for event in second]
            assert rest[-2:] == ["answer", "end"]
            assert (await anext(third))["event"] == "start"
        assert (await anext(question_events(asked, models, turns, HANG_S, 0.0)))["event"] == "start"

    asyncio.run(trial())


def test_without_names_the_releases_of_the_workspace_are_taken(workspace: Path, tmp_path: Path) -> None:
    assert [Path(name).name for name in default_models(workspace)] == [f"{KEY}-{arm}-0" for arm in ("base", "sft", "coat")]
    with pytest.raises(ReleaseError, match="coat run"):
        default_models(tmp_path)


def test_a_clip_that_is_gone_is_named(saved: SavedItems, tmp_path: Path) -> None:
    with pytest.raises(CoatError, match="cannot be read"):
        read_question(GOOD, saved.examples, tmp_path, LIMITS)
