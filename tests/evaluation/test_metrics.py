from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from coat_core.corpus.examples import FAMILIES, Example
from coat_core.errors import EvaluationError
from coat_core.evaluation.metrics import score_trial
from coat_core.evaluation.responses import Response, read_responses, write_responses
from coat_core.evaluation.scores import read_scores
from coat_core.storage import read_json, sha256_tree
from tests.testing.evaluations import EVALUATION, identity_of, make_examples

IDENTITY = identity_of("coat-0")


def write_answers(path: Path, examples: list[Example]) -> Path:
    """Write right answers to every other example, and "one" for every open-ended example with another clip."""
    own = [Response(id=example.id, response=example.answer if i % 2 else "") for i, example in enumerate(examples)]
    other = [Response(id=example.id, response="one", audio="other") for example in examples if example.choices is None]
    write_responses(path, own + other)
    return path


def test_saved_responses_are_scored(tmp_path: Path) -> None:
    examples = make_examples(6)
    responses = write_answers(tmp_path / "responses.jsonl", examples)
    metrics, again = (score_trial(responses, examples, EVALUATION, tmp_path / name, IDENTITY) for name in ("a", "b"))
    assert metrics == again == read_json(tmp_path / "a/metrics.json")
    assert sha256_tree(tmp_path / "a") == sha256_tree(tmp_path / "b")
    scores = read_scores(tmp_path / "a/scores.jsonl")
    assert [(row.id, row.audio) for row in scores] == [(row.id, row.audio) for row in read_responses(responses)]
    assert {row.value for row in scores if row.audio == "own"} == {0.0, 1.0}
    assert (metrics["backbone"], metrics["arm"], metrics["seed"], metrics["n"]) == ("qwen2_audio", "coat", 0, 30)
    assert (metrics["mean_accuracy"], metrics["unscored_share"]) == (0.5, 0.5)
    assert set(metrics["families"]) == set(FAMILIES)


def test_a_failed_scoring_leaves_no_output_and_can_be_repeated(tmp_path: Path) -> None:
    examples = make_examples(6)
    responses = write_answers(tmp_path / "responses.jsonl", examples)
    with pytest.raises(EvaluationError, match="do not match"):
        score_trial(responses, examples[:-1], EVALUATION, tmp_path / "out", IDENTITY)
    assert [path.name for path in tmp_path.iterdir()] == ["responses.jsonl"]
    score_trial(responses, examples, EVALUATION, tmp_path / "out", IDENTITY)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["metrics.json", "scores.jsonl"]


def test_an_example_that_cannot_be_scored_does_not_end_the_evaluation(tmp_path: Path) -> None:
    examples = make_examples(6)
    responses = write_answers(tmp_path / "responses.jsonl", examples)
    # The contract quarantines such rows: an answer that is not among the choices, a transcript of fillers.
    wrong = [example.model_copy(update={"answer": "a whistle" if example.choices else "um"}) for example in examples]
    score_trial(responses, wrong, EVALUATION, tmp_path / "out", IDENTITY)
    rows = read_scores(tmp_path / "out/scores.jsonl")
    assert {row.score for row in rows} == {None}
    assert all(row.unscored and row.unscored.startswith("the answer") for row in rows if row.audio == "own")


def test_responses_of_another_manifest_are_refused(tmp_path: Path) -> None:
    responses = write_answers(tmp_path / "responses.jsonl", make_examples(6))
    with pytest.raises(EvaluationError, match="do not match"):
        score_trial(responses, make_examples(5), EVALUATION, tmp_path / "out", IDENTITY)
    with pytest.raises(EvaluationError, match="missing"):
        score_trial(tmp_path / "absent.jsonl", make_examples(6), EVALUATION, tmp_path / "out", IDENTITY)


def test_an_invalid_row_is_named(tmp_path: Path) -> None:
    (tmp_path / "responses.jsonl").write_text('{"id": "test-music-0", "response": 3}\n')
    with pytest.raises(EvaluationError, match=r"test-music-0.*response"):
        read_responses(tmp_path / "responses.jsonl")


def test_the_score_stage_does_not_import_models() -> None:
    code = (
        "import sys, coat_core.evaluation.metrics as metrics; "
        "assert metrics.score_trial; "
        "loaded = [name for name in sys.modules if name == 'torch' or name.startswith(('coat_core.backbones', 'coat_core.thinking'))]; "
        "assert not loaded, loaded"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=1800)
