"""Selection of an evaluation set, and the hash that identifies it."""

from __future__ import annotations

from typing import Any

import pytest

from coat_core.corpus.examples import Example
from coat_core.errors import CorpusError, EvaluationError
from coat_core.evaluation.responses import Response
from coat_core.evaluation.scores import score_responses
from coat_core.evaluation.selection import evaluation_set, select
from coat_core.settings import EvaluationSettings


def make(**changes: Any) -> Example:
    fields = {"id": "a", "audio": "audio/a.wav", "sha256": "0" * 64, "duration_s": 1.0, "sample_rate_hz": 16000, "split": "test"}
    text = {"group": "g", "family": "music", "task": "t", "question": "Which?", "answer": "x", "source": "s", "licence": "l"}
    return Example.model_validate({**fields, **text, "choices": ("x", "y"), **changes})


SECOND = make(id="b", sha256="2" * 64)
OTHER: dict[str, list[Example]] = {
    "audio": [make(sha256="1" * 64), SECOND],
    "question": [make(question="Which one?"), SECOND],
    "choices": [make(choices=("x", "z")), SECOND],
    "order of the choices": [make(choices=("y", "x")), SECOND],
    "more choices": [make(choices=("x", "y", "z")), SECOND],
    "no choices": [make(choices=None), SECOND],
    "answer": [make(answer="y"), SECOND],
    "id": [make(id="c"), SECOND],
    "family": [make(family="emotion"), SECOND],
    "group": [make(group="h"), SECOND],
    "order of the examples": [SECOND, make()],
    "audio of the second": [make(), make(id="b", sha256="1" * 64)],
    "audio exchanged": [make(sha256="2" * 64), make(id="b")],
    "fewer examples": [make()],
    "boundary of question and answer": [make(question="Which?x", answer=""), SECOND],
    "choices joined": [make(choices=("x,y",)), SECOND],
}


@pytest.mark.parametrize("kind", OTHER)
def test_sets_that_differ_have_different_hashes(kind: str) -> None:
    assert evaluation_set(OTHER[kind]) != evaluation_set([make(), SECOND])


def test_all_hashes_differ_and_the_location_of_the_audio_does_not_matter() -> None:
    hashes = {evaluation_set(examples) for examples in OTHER.values()}
    assert len(hashes) == len(OTHER)
    moved = make(audio="other/a.wav", source="other", licence="other", task="other")
    assert evaluation_set([moved, SECOND]) == evaluation_set([make(), SECOND])


def test_two_examples_with_one_id_are_refused() -> None:
    examples = [make(), make(answer="y")]
    responses = [Response(id="a", response="x")] * 2
    with pytest.raises(EvaluationError, match="two examples have the same id"):
        score_responses(examples, responses)


def test_an_unlabelled_example_is_neither_selected_nor_identified() -> None:
    unlabelled = make(id="u", answer=None, choices=None)
    settings = EvaluationSettings(split="test", limit_per_family=1)
    assert select([unlabelled, make(), SECOND], settings) == [make()]
    with pytest.raises(EvaluationError, match=r"the split contains no labelled examples; field: evaluation\.split; value: 'test'"):
        select([unlabelled], settings)
    with pytest.raises(CorpusError, match="the example is unlabelled"):
        evaluation_set([make(), unlabelled])
