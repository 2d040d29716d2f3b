"""The promotion recipe, through both of its callers: the command `coat promote` and the task of the flow."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import yaml
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


def make_examples(questions: str, count: int = 40) -> list[Example]:
    """Return `count` test examples for each family, and one validation example."""
    common: dict[str, Any] = {
        "duration_s": 1.0, "sample_rate_hz": 16_000, "task": "t", "question": "Which animal?", "choices": ("dog", "cat", "cow", "hen"),
        "answer": "dog", "source": "generated", "licence": "CC0-1.0",
    }  # fmt: skip
    ids = [("test", family, f"{questions}-{family}-{i}") for family in FAMILIES for i in range(count)]
    return [
        Example(id=name, audio=f"{name}.wav", sha256=name, group=name, split=split, family=family, **common)  # type: ignore[arg-type]
        for split, family, name in [*ids, ("validation", "music", f"{questions}-validation")]
    ]


def answer(examples: list[Example], right: int, target: Path) -> None:
    """Write responses with `right` right answers of ten in each family."""
    asked = [example for example in examples if example.split == "test"]
    write_responses(target, [Response(id=e.id, response="dog" if int(e.id.rpartition("-")[2]) < 4 * right else "cat") for e in asked])


@pytest.fixture
def evaluate(workspace: Path, tmp_path: Path, add_trial: Callable[..., str]) -> Callable[..., str]:
    """Return a function (right answers per family, name of the evaluation set) that makes a candidate and its evaluation."""

    def make(right: int, questions: str, of_base: int | None = 2, limit: int | None = None) -> str:
        trial = add_trial(TRIAL, content=f"{right} {questions}", base=None)
        examples = make_examples(questions, limit or 40)
        write_manifest(workspace / "data/accepted.jsonl", examples)
        answer(examples, right, tmp_path / "responses.jsonl")
        settings = load_settings(workspace / "params.yaml").evaluation
        identity = {"backbone": "qwen2_audio", "arm": "coat", "seed": 0}
        score_trial(tmp_path / "responses.jsonl", examples, settings, workspace / "evaluation" / trial, identity)
        base = workspace / "evaluation/qwen2_audio-base-0"
        shutil.rmtree(base, ignore_errors=True)
        if of_base is not None:
            answer(examples, of_base, tmp_path / "responses.jsonl")
            score_trial(tmp_path / "responses.jsonl", examples, settings, base, identity | {"arm": "base"})
        return trial

    params = yaml.safe_load((ROOT / "params/tiny.yaml").read_text())
    params["trials"] = ["base-0", *params["trials"]]
    params["registry"] |= {"min_above_chance": 0.0, "max_below_base": 0.02}
    write_text(workspace / "params.yaml", yaml.safe_dump(params))
    return make


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """Replace the cold load and the answers of a champion (three right ones of ten per family); return the list of their arguments."""
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
    evaluate: Callable[..., str],
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
    assert calls[0] == ("cold load", f"{candidate[1]}-validation.wav", "Which animal? Choices: dog, cat, cow, hen.", "cpu")
    new_set = champion is not None and champion[1] != candidate[1]
    assert [call[:2] for call in calls[1:]] == [("answer", "release")] * new_set


def test_a_named_version_is_judged_and_nothing_is_registered(
    workspace: Path, client: Any, evaluate: Callable[..., str], calls: list[tuple[Any, ...]]
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
    workspace: Path, client: Any, evaluate: Callable[..., str], calls: list[tuple[Any, ...]]
) -> None:
    register_trial(workspace, NAME, evaluate(4, "old"))
    client.set_registered_model_alias(NAME, "champion", "1")
    register_trial(workspace, NAME, evaluate(9, "new"))
    (workspace / "data/accepted.jsonl").unlink()
    done = promote_candidate(workspace, load_settings(workspace / "params.yaml"), "qwen2_audio", "2")
    assert calls == [("cold load", "", "What do you hear?", "cpu")]
    assert done.decision == "refused"
    assert any("evaluate the champion again on the new set" in reason for reason in done.reasons)


@pytest.mark.parametrize(
    ("right", "base", "answered", "reason"),
    [
        pytest.param(0, 0, ColdLoad("dog"), "mean accuracy above chance: -0.250", id="accuracy-zero"),
        pytest.param(3, 2, ColdLoad("dog"), "its lower bound is not above +0.000", id="not-clear-of-chance"),
        pytest.param(6, 8, ColdLoad("dog"), "difference to the untouched base: -0.200", id="below-base"),
        pytest.param(6, None, ColdLoad("dog"), "add base-0 to `trials`", id="base-not-evaluated"),
        pytest.param(6, 2, ColdLoad("user\nuser\n::::"), "contains words of the chat template", id="probe-of-control-text"),
        pytest.param(6, 2, ColdLoad("dog dog dog", finished=False), "was cut off after 64 tokens", id="probe-cut-off"),
        pytest.param(6, 2, ColdLoad(" "), "a cold load gave no answer", id="probe-empty"),
        pytest.param(6, 2, ColdLoad("<|AUDIO|>"), "contains the control text", id="probe-of-a-special-token"),
        pytest.param(6, 2, ColdLoad(None, "OSError: no space"), "OSError: no space", id="probe-failed"),
    ],
)
def test_a_first_candidate_that_is_no_model_is_refused(
    workspace: Path,
    client: Any,
    evaluate: Callable[..., str],
    calls: list[tuple[Any, ...]],
    monkeypatch: pytest.MonkeyPatch,
    right: int,
    base: int | None,
    answered: ColdLoad,
    reason: str,
) -> None:
    from flows.promotion import decisions_text

    monkeypatch.setattr("coat_core.registry.cold_load._run_process", lambda *arguments: answered)
    evaluate(right, "q", base)
    done = promote_candidate(workspace, load_settings(workspace / "params.yaml"), "qwen2_audio")
    assert done.decision == "refused"
    assert any(reason in sentence for sentence in done.reasons), done.reasons
    assert {alias: str(version) for alias, version in client.get_registered_model(NAME).aliases.items()} == {"challenger": "1"}
    said = decisions_text([asdict(done)])
    assert "promoted nothing" in said
    assert reason in said
    assert (client.get_model_version(NAME, "1").tags["probe"] == "passed") == (answered == ColdLoad("dog"))


def test_an_evaluation_of_the_base_that_comes_later_is_recorded(
    workspace: Path, client: Any, evaluate: Callable[..., str], calls: list[tuple[Any, ...]]
) -> None:
    evaluate(6, "q", None)
    settings = load_settings(workspace / "params.yaml")
    assert promote_candidate(workspace, settings, "qwen2_audio").decision == "refused"
    evaluate(6, "q", 2)
    assert promote_candidate(workspace, settings, "qwen2_audio", "1").decision == "promoted"
    assert "base_scores_sha256" in client.get_model_version(NAME, "1").tags


def test_too_few_items_promote_nothing(
    workspace: Path, evaluate: Callable[..., str], calls: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.registry.test_promotion.FAMILIES", ("music",))
    evaluate(10, "few", 0, limit=1)
    done = promote_candidate(workspace, load_settings(workspace / "params.yaml"), "qwen2_audio")
    assert done.decision == "refused"
    assert sum("1 item in 1 group is too few to judge" in reason for reason in done.reasons) == 2
