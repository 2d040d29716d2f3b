"""A workspace with clips, three releases on a tiny base and scored responses; its models, loaded once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from coat_core.corpus.examples import write_manifest
from coat_core.demo.app import make_app
from coat_core.demo.items import SavedItems
from coat_core.demo.models import DemoModels, load_models
from coat_core.evaluation.responses import Response, write_responses
from coat_core.evaluation.scores import score_responses, write_scores
from coat_core.serving.limits import Limits
from tests.testing.evaluations import KEY, write_clips, write_random_release, write_stores

LIMITS = Limits(requests=8, batch=1, body_mb=1.0, audio_s=5.0, tokens=12)
ANSWERS = {"base-0": "a bell", "sft-1": "a horn", "sft-2": "a drum", "coat-1": "a horn"}
"""Saved answers to questions with choices: the right one is a horn. The answers to others are empty, so unscored, except in coat: right."""


@pytest.fixture(scope="session")
def workspace(tiny_bases: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tests do not change it."""
    folder = tmp_path_factory.mktemp("demo")
    examples = write_clips(folder / "data/corpus")
    write_manifest(folder / "data/accepted.jsonl", examples)
    write_stores(folder / "features", folder / "data/corpus", examples[:1])
    for arm in ("base", "sft", "coat"):
        write_random_release(folder / "models" / f"{KEY}-{arm}-0", tiny_bases[KEY], KEY, arm, folder / "features")
    tested = [example for example in examples if example.split == "test"]
    for trial, answer in ANSWERS.items():
        spoken = "one two three" if trial == "coat-1" else ""
        responses = [Response(id=e.id, response=answer if e.choices else spoken) for e in tested]
        write_responses(folder / "responses" / f"{KEY}-{trial}.jsonl", responses)
        write_scores(folder / "evaluation" / f"{KEY}-{trial}" / "scores.jsonl", score_responses(tested, responses))
    return folder


@pytest.fixture(scope="session")
def models(workspace: Path) -> Iterator[DemoModels]:
    with load_models([str(workspace / "models" / f"{KEY}-{arm}-0") for arm in ("base", "sft", "coat")]) as models:
        yield models


@pytest.fixture(scope="session")
def saved(workspace: Path) -> SavedItems:
    return SavedItems(workspace)


@pytest.fixture
def open_client(models: DemoModels, saved: SavedItems) -> Iterator[Callable[..., TestClient]]:
    """Return a function that opens a client of the application; its arguments are those of `make_app`."""
    with ExitStack() as stack:

        def call(
            models: DemoModels = models, limits: Limits = LIMITS, host: str = "127.0.0.1", credentials: str | None = None
        ) -> TestClient:
            app = make_app(models, saved, limits, host=host, credentials=credentials)
            return stack.enter_context(TestClient(app, base_url="http://127.0.0.1:7860"))

        yield call


@pytest.fixture
def client(open_client: Callable[..., TestClient]) -> TestClient:
    return open_client()
