"""Answers of a tiny release: alone, in a batch, in pieces, and cut at each question's own limit."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest

from coat_core.backbones.base import Query
from coat_core.serving.answers import ReleaseAnswers
from coat_core.serving.batcher import Job
from coat_core.thinking.release import load_release
from tests.testing.served import write_loadable_release

BASES = Path(__file__).parents[2] / "bases"
QUESTIONS = ("What do you hear?", "Which instrument plays? Choices: flute, piano.", "What does the speaker say?")


@pytest.fixture(scope="module", params=["qwen2_audio", "qwen2_5_omni", "audio_flamingo_3"])
def answers(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ReleaseAnswers:
    """A release on a pretrained tiny base, whose answers are words."""
    workspace = tmp_path_factory.mktemp("release")
    release = write_loadable_release(workspace, {request.param: BASES / request.param}, request.param, scale=0.02)
    loaded = load_release(release, merge=True, base=str(BASES / request.param))
    return ReleaseAnswers(loaded.backbone, loaded.info.arm, threading.Lock())


def jobs(*limits: int, pieces: dict[int, list[str]] | None = None) -> list[Job]:
    rng = np.random.default_rng(3)
    clips = [(0.1 * rng.standard_normal(16_000 * (1 + number))).astype(np.float32) for number in range(len(limits))]
    found = []
    for number, (clip, limit) in enumerate(zip(clips, limits, strict=True)):
        taken = None if pieces is None else pieces.setdefault(number, []).append
        found.append(Job(Query(f"clip {number}", clip, QUESTIONS[number]), limit, taken))
    return found


def test_a_batch_gives_the_answers_of_its_questions_alone(answers: ReleaseAnswers) -> None:
    together = answers(jobs(24, 24, 24))
    alone = [answers([job])[0] for job in jobs(24, 24, 24)]
    assert together == alone
    assert all(reply.text and reply.prompt_tokens > 8 and reply.decoded_tokens > 0 for reply in alone)
    assert all(reply.first_token_s is not None and 0.0 < reply.first_token_s <= reply.seconds for reply in together)


def test_the_pieces_of_a_stream_join_to_the_answer(answers: ReleaseAnswers) -> None:
    pieces: dict[int, list[str]] = {}
    replies = answers(jobs(24, 24, 24, pieces=pieces))
    assert ["".join(pieces[number]) for number in range(3)] == [reply.text for reply in replies]


def test_each_answer_is_cut_at_its_own_limit(answers: ReleaseAnswers) -> None:
    full = answers(jobs(24, 24, 24))
    pieces: dict[int, list[str]] = {}
    cut = answers(jobs(1, 24, 1, pieces=pieces))
    assert cut[1] == full[1]
    for number in (0, 2):
        assert cut[number].decoded_tokens == 1
        assert full[number].text.startswith(cut[number].text)
        assert cut[number].finished == (full[number].decoded_tokens == 1)
        assert "".join(pieces[number]) == cut[number].text
