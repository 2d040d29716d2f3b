"""Progress artifacts of the run page: what is sent, how often, and that a server which is slow or away stops nothing."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import UUID, uuid4

import pytest

from coat_core.progress import Progress
from flows import progress_artifacts
from flows.progress_artifacts import ProgressArtifacts, artifact_key

TASK, RUN = str(uuid4()), str(uuid4())
LOGGER = logging.getLogger("test")


class Api:
    """Stands for the client of the API: keeps the requests, and fails as long as it is away."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, float, str]] = []
        self.created: list[Any] = []
        self.away = False
        self.attempts = 0

    def create_artifact(self, request: Any) -> SimpleNamespace:
        self._answer("create", request)
        self.created.append(request)
        return SimpleNamespace(id=uuid4())

    def update_artifact(self, artifact: UUID, request: Any) -> None:
        self._answer("update", request)

    def _answer(self, kind: str, request: Any) -> None:
        self.attempts += 1
        if self.away:
            raise ConnectionError("away")
        self.sent.append((kind, request.data, request.description))


@pytest.fixture
def in_task(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress_artifacts, "flow_run", SimpleNamespace(id=RUN))
    monkeypatch.setattr(progress_artifacts, "task_run", SimpleNamespace(id=TASK))


class Watched:
    """A stage with a progress file, and a clock that the test sets."""

    def __init__(self, folder: Path, stage: str = "train@qwen2_audio-coat-0") -> None:
        self.now, self.stage, self.file, self.api = 0.0, stage, folder / "stage.json", Api()
        self.artifacts = ProgressArtifacts(LOGGER, lambda: self.now)
        self.artifacts.follow(stage, self.file)

    def at(self, now: float, done: int, total: int = 100, *, last: bool = False) -> None:
        self.now = now
        Progress("training", "step", done, total, 0, now, {"loss": 0.5}).write(self.file)
        self.artifacts.send(self.api, last=last)  # type: ignore[arg-type]


@pytest.fixture
def watched(tmp_path: Path, in_task: None) -> Watched:
    return Watched(tmp_path)


@pytest.mark.parametrize("stage", ["train@qwen2_audio-coat-0", "answer@qwen2.5_omni-Base_x", "report"])
def test_a_key_is_one_that_prefect_accepts(stage: str) -> None:
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", artifact_key(stage))
    assert artifact_key(stage) == artifact_key(stage)
    assert artifact_key("train@a-coat-0") == "progress-train-a-coat-0"


def test_an_artifact_belongs_to_its_task_run_and_ends_at_100(watched: Watched) -> None:
    watched.at(5.0, 25)
    watched.artifacts.complete(watched.stage, 65.0)
    watched.at(6.0, 100)
    assert watched.api.sent == [
        ("create", 25.0, "training  step 25/100  25%  loss 0.500  5 s  ETA 15 s"),
        ("update", 100.0, "train@qwen2_audio-coat-0  completed in 1 min 05 s"),
    ]
    (created,) = watched.api.created
    assert (created.type, created.key) == ("progress", "progress-train-qwen2-audio-coat-0")
    assert (str(created.task_run_id), str(created.flow_run_id)) == (TASK, RUN)
    watched.at(1000.0, 100, last=True)
    assert watched.api.attempts == 2, "100 is sent once"


def test_updates_are_rare(watched: Watched) -> None:
    for second in range(601):
        watched.at(float(second), second, total=6000)
    assert watched.api.attempts == 11, "1 % a minute: one request for each percent"
    fast = Watched(watched.file.parent)
    for second in range(101):
        fast.at(float(second), second)
    assert fast.api.attempts == 11, "1 % a second: one request in 10 s"
    slow = Watched(watched.file.parent)
    for second in range(601):
        slow.at(float(second), 1)
    assert slow.api.attempts == 6, "nothing new: one request in two minutes"


def test_a_running_stage_is_below_100(watched: Watched) -> None:
    """A stage has several loops, and each ends at its total."""
    watched.at(0.0, 100)
    watched.at(20.0, 10)
    assert [percent for _, percent, _ in watched.api.sent] == [99.0, 10.0]


def test_a_repeated_stage_keeps_its_artifact(watched: Watched) -> None:
    watched.at(0.0, 40)
    watched.artifacts.follow(watched.stage, watched.file)
    watched.at(1.0, 10)
    assert [(kind, percent) for kind, percent, _ in watched.api.sent] == [("create", 40.0), ("update", 10.0)]


@pytest.mark.usefixtures("in_task")
def test_a_stage_without_a_loop_has_an_artifact_once_it_has_run(tmp_path: Path) -> None:
    api, artifacts = Api(), ProgressArtifacts(LOGGER)
    for stage in ("score@a", "report"):
        artifacts.follow(stage, tmp_path / f"{stage}.json")
    artifacts.send(api)  # type: ignore[arg-type]
    assert api.sent == []
    artifacts.complete("score@a", 3.0)
    artifacts.send(api, last=True)  # type: ignore[arg-type]
    assert api.sent == [("create", 100.0, "score@a  completed in 3 s")], "DVC skipped the other one"


def test_outside_of_a_task_nothing_is_sent(tmp_path: Path) -> None:
    watched = Watched(tmp_path)
    watched.at(0.0, 10)
    watched.artifacts.complete(watched.stage, 1.0)
    watched.at(100.0, 10, last=True)
    assert watched.api.attempts == 0


def test_what_failed_is_sent_later_and_reported_once(watched: Watched, caplog: pytest.LogCaptureFixture) -> None:
    watched.api.away = True
    for second in range(25):
        watched.at(float(second), second)
    assert watched.api.attempts == 3
    watched.artifacts.complete(watched.stage, 25.0)
    for second in range(25, 30):
        watched.at(float(second), second)
    assert watched.api.attempts == 3, "the last update is not repeated more often than the others"
    watched.api.away = False
    watched.at(29.5, 29, last=True)
    assert [(kind, percent) for kind, percent, _ in watched.api.sent] == [("create", 100.0)]
    (message,) = caplog.messages
    assert message == "the run page does not show the progress of all stages: away"


def test_one_refused_artifact_does_not_stop_the_others(tmp_path: Path, in_task: None) -> None:
    class Refusing(Api):
        def _answer(self, kind: str, request: Any) -> None:
            if request.key == "progress-a":
                raise ValueError("refused")
            super()._answer(kind, request)

    api, artifacts = Refusing(), ProgressArtifacts(LOGGER)
    for stage in "ab":
        artifacts.follow(stage, tmp_path / stage)
        artifacts.complete(stage, 1.0)
    artifacts.send(api)  # type: ignore[arg-type]
    assert [created.key for created in api.created] == ["progress-b"]


@pytest.mark.parametrize("error", [None, ValueError, KeyboardInterrupt])
def test_an_api_that_never_answers_does_not_keep_the_run(
    tmp_path: Path, in_task: None, monkeypatch: pytest.MonkeyPatch, error: type[BaseException] | None
) -> None:
    asked, answered = threading.Event(), threading.Event()

    class Hanging(Api):
        def _answer(self, kind: str, request: Any) -> None:
            asked.set()
            answered.wait()

    @contextmanager
    def client() -> Iterator[Hanging]:
        yield Hanging()

    monkeypatch.setattr(progress_artifacts, "CLOSE_LIMIT_S", 0.1)
    artifacts = ProgressArtifacts(LOGGER, client=client)  # type: ignore[arg-type]

    def run() -> None:
        with artifacts.open():
            artifacts.follow("a", tmp_path / "a")
            artifacts.complete("a", 1.0)
            asked.wait()
            if error is not None:
                raise error

    try:
        if error is None:
            run()
        else:
            with pytest.raises(error):
                run()
        assert not answered.is_set()
    finally:
        answered.set()
    ended = [thread for thread in threading.enumerate() if thread.name == "progress artifacts"]
    for thread in ended:
        thread.join()


def test_a_client_that_cannot_be_made_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    def client() -> Any:
        raise OSError("no route")

    with ProgressArtifacts(LOGGER, client=client).open():
        pass
    assert caplog.messages == ["the run page does not show the progress of all stages: no route"]
