"""The promotion recipe, through both of its callers: the command `coat promote` and the task of the flow."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from coat_core.cli import app
from coat_core.corpus.examples import Example, write_manifest
from coat_core.errors import RegistryError
from coat_core.evaluation.metrics import score_trial
from coat_core.evaluation.responses import Response, write_responses
from coat_core.registry.cold_load import ColdLoad
from coat_core.registry.database import connect
from coat_core.registry.promotion import promote_candidate
from coat_core.registry.releases import register_trial
from coat_core.settings import load_settings
from coat_core.storage import write_text
from tests.testing.scores import FAMILIES

ROOT = Path(__file__).resolve().parents[2]
NAME, TRIAL = "coat-qwen2-audio", "qwen2_audio-coat-0"


def make_examples(questions: str) -> list[Example]:
    """Return ten test examples for each family, and one validation example."""
    common: dict[str, Any] = {
        "duration_s": 1.0, "sample_rate_hz": 16_000, "task": "t", "question": "Which animal?", "choices": ("dog", "cat"), "answer": "dog",
        "source": "generated", "licence": "CC0-1.0",
    }  # fmt: skip
    ids = [("test", family, f"{questions}-{family}-{i}") for family in FAMILIES for i in range(10)]
    return [
        Example(id=name, audio=f"{name}.wav", sha256=name, group=name, split=split, family=family, **common)  # type: ignore[arg-type]
        for split, family, name in [*ids, ("validation", "music", f"{questions}-validation")]
    ]


def answer(examples: list[Example], right: int, target: Path) -> None:
    """Write responses with `right` right answers in each family."""
    asked = [example for example in examples if example.split == "test"]
    write_responses(target, [Response(id=e.id, response="dog" if int(e.id.rpartition("-")[2]) < right else "cat") for e in asked])


@pytest.fixture
def evaluate(workspace: Path, tmp_path: Path, add_trial: Callable[..., str]) -> Callable[[int, str], str]:
    """Return a function (right answers per family, name of the evaluation set) that makes a candidate and its evaluation."""

    def make(right: int, questions: str) -> str:
        trial = add_trial(TRIAL, content=f"{right} {questions}")
        examples = make_examples(questions)
        write_manifest(workspace / "data/accepted.jsonl", examples)
        answer(examples, right, tmp_path / "responses.jsonl")
        settings = load_settings(workspace / "params.yaml").evaluation
        identity = {"backbone": "qwen2_audio", "arm": "coat", "seed": 0}
        score_trial(tmp_path / "responses.jsonl", examples, settings, workspace / "evaluation" / trial, identity)
        return trial

    write_text(workspace / "params.yaml", (ROOT / "params/tiny.yaml").read_text())
    return make


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """Replace the cold load and the answers of a champion (three right ones per family); return the list of their arguments."""
    made: list[tuple[Any, ...]] = []

    def run_process(folder: Path, audio: str, question: str, timeout_s: float, device: str | None) -> ColdLoad:
        made.append(("cold load", Path(audio).name, question, device))
        return ColdLoad("dog")

    def answer_release(release: Path, examples: list[Example], corpus: Path, settings: Any, target: Path, **named: Any) -> None:
        made.append(("answer", release.name, corpus.name, named))
        answer(examples, 3, target)

    monkeypatch.setattr("coat_core.registry.cold_load._run_process", run_process)
    monkeypatch.setattr("coat_core.evaluation.generate.answer_release", answer_release)
    return made


def _records(folder: str, names: list[str]) -> set[str]:
    return {"mlflow.db", "mlartifacts", ".scratch"} & set(names)


def outcome(workspace: Path) -> tuple[Any, ...]:
    """Return the recorded decision of the newest version, and the aliases."""
    client = connect(workspace)
    newest = max(client.search_model_versions(f"name='{NAME}'"), key=lambda version: int(version.version))
    tags = {key: newest.tags.get(key) for key in ("decision", "decision_reasons", "probe_answer")}
    return tags, {alias: str(version) for alias, version in client.get_registered_model(NAME).aliases.items()}


@pytest.mark.parametrize(
    ("champion", "candidate", "word"),
    [
        pytest.param(None, (6, "q"), "promoted", id="no-champion"),
        pytest.param((9, "q"), (2, "q"), "refused", id="worse"),
        pytest.param((2, "q"), (9, "q"), "promoted", id="better"),
        pytest.param((9, "old"), (8, "new"), "promoted", id="better-than-the-champion-on-a-new-set"),
        pytest.param((9, "old"), (3, "new"), "refused", id="equal-to-the-champion-on-a-new-set"),
        pytest.param((6, "q"), (6, "q"), "unchanged", id="the-champion-itself"),
    ],
)
def test_command_and_flow_decide_alike_on_the_same_records(
    workspace: Path,
    tmp_path: Path,
    evaluate: Callable[[int, str], str],
    calls: list[tuple[Any, ...]],
    monkeypatch: pytest.MonkeyPatch,
    champion: tuple[int, str] | None,
    candidate: tuple[int, str],
    word: str,
) -> None:
    from flows.promotion import promote_backbone

    by_command, by_flow = tmp_path / "command", tmp_path / "flow"
    # MLflow caches artifact folders by run id, so that each workspace needs its own runs.
    for place in (by_command, by_flow):
        if champion is not None:
            evaluate(*champion)
            shutil.copytree(workspace, place)
            register_trial(place, NAME, TRIAL)
            connect(place).set_registered_model_alias(NAME, "champion", "1")
        evaluate(*candidate)
        shutil.copytree(workspace, place, dirs_exist_ok=True, ignore=_records if champion else None)

    monkeypatch.chdir(by_command)
    ran = CliRunner().invoke(app, ["promote", "qwen2_audio"])
    assert ran.exit_code == (word == "refused"), ran.output
    version = "1" if champion in (None, candidate) else "2"
    assert f"{NAME} version {version}: {word}" in ran.output
    first_calls = calls.copy()
    calls.clear()

    monkeypatch.chdir(tmp_path)
    record = promote_backbone.fn("qwen2_audio", str(by_flow), load_settings(by_flow / "params.yaml"))
    assert (record["model"], record["version"], record["decision"]) == (NAME, version, word)
    assert record["created"] == (champion != candidate)
    assert all(reason in ran.output for reason in record["reasons"])

    assert outcome(by_command) == outcome(by_flow)
    assert calls == first_calls
    assert calls[0] == ("cold load", f"{candidate[1]}-validation.wav", "Which animal? Choices: dog, cat.", "cpu")
    new_set = champion is not None and champion[1] != candidate[1]
    assert [call[:2] for call in calls[1:]] == [("answer", "release")] * new_set


def test_a_named_version_is_judged_and_nothing_is_registered(
    workspace: Path, client: Any, evaluate: Callable[[int, str], str], calls: list[tuple[Any, ...]]
) -> None:
    register_trial(workspace, NAME, evaluate(4, "q"))
    evaluate(9, "q")
    done = promote_candidate(workspace, load_settings(workspace / "params.yaml"), "qwen2_audio", "1")
    assert (done.version, done.created, done.decision) == ("1", False, "promoted")
    assert [version.version for version in client.search_model_versions(f"name='{NAME}'")] in ([1], ["1"])
    with pytest.raises(RegistryError, match="version does not exist"):
        promote_candidate(workspace, load_settings(workspace / "params.yaml"), "qwen2_audio", "7")
    with pytest.raises(RegistryError, match="allowed: qwen2_audio"):
        promote_candidate(workspace, load_settings(workspace / "params.yaml"), "audio_flamingo_3")


def test_without_a_manifest_the_cold_load_uses_a_tone_and_no_champion_is_evaluated(
    workspace: Path, client: Any, evaluate: Callable[[int, str], str], calls: list[tuple[Any, ...]]
) -> None:
    register_trial(workspace, NAME, evaluate(4, "old"))
    client.set_registered_model_alias(NAME, "champion", "1")
    register_trial(workspace, NAME, evaluate(9, "new"))
    (workspace / "data/accepted.jsonl").unlink()
    done = promote_candidate(workspace, load_settings(workspace / "params.yaml"), "qwen2_audio", "2")
    assert calls == [("cold load", "", "What do you hear?", "cpu")]
    assert done.decision == "refused"
    assert "evaluate the champion again on the new set" in done.reasons[0]
