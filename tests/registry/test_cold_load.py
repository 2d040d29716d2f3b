from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from coat_core.errors import RegistryError
from coat_core.registry.cold_load import ColdLoad, _generate, load_cold, load_served, predict
from coat_core.registry.comparison import read_record
from coat_core.registry.database import connect
from coat_core.registry.gate import decide
from coat_core.registry.packaging import release_of, tone_base64
from coat_core.registry.versions import model_folder
from coat_core.settings import RegistrySettings
from tests.testing.served import QUESTION, Served

NAME = "coat-qwen2-audio"
pytestmark = pytest.mark.slow


def test_a_version_is_loaded_cold_once_and_its_answer_is_recorded(
    served_pretrained: Served, wav: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace, answer = served_pretrained.workspace, served_pretrained.answer
    result = load_cold(NAME, "1", workspace, audio=wav, question=QUESTION)
    assert (result.answer, result.error, result.problem) == (answer, "", "")
    tags = connect(workspace).get_model_version(NAME, "1").tags
    recorded = {key: tags[key] for key in ("probe", "probe_answer", "probe_finished", "probe_reason")}
    assert recorded == {"probe": "passed", "probe_answer": answer, "probe_finished": "true", "probe_reason": "none"}

    def fail(*arguments: Any) -> None:
        raise AssertionError("a version that has passed is not loaded again")

    monkeypatch.setattr("coat_core.registry.cold_load._run_process", fail)
    assert load_cold(NAME, "1", workspace, audio=wav, question=QUESTION).answer == answer


def test_a_cold_load_without_a_real_answer_fails_and_is_tried_again(served: Served, wav: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results = [
        ColdLoad("dog", control_tokens=("<|im_start|>", "<|im_start|>")),
        ColdLoad("dog", finished=False),
        ColdLoad("user\nuser\n::::"),
        ColdLoad(""),
    ]
    problems = [
        "was generated with the control tokens <|im_start|>",
        "was cut off after 64 tokens",
        "contains words of the chat template",
        "is empty",
    ]
    pending = list(results)
    monkeypatch.setattr("coat_core.registry.cold_load._run_process", lambda *arguments: pending.pop(0))
    client = connect(served.workspace)
    for result, problem in zip(results, problems, strict=True):
        assert load_cold(NAME, "1", served.workspace, audio=wav, question=QUESTION) == result
        tags = client.get_model_version(NAME, "1").tags
        assert (tags["probe"], tags["probe_reason"]) == ("failed", problem)
        record = read_record(client, NAME, "1")
        decision = decide(record, None, RegistrySettings(min_accuracy=0.0))
        assert not decision.promote
        assert any("a cold load gave no" in reason and problem in reason for reason in decision.reasons), decision.reasons


def test_the_probe_reports_the_end_of_the_answer_and_its_control_tokens(
    served_pretrained: Served, wav: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_served(model_folder(f"models:/{NAME}/1"))
    backbone = release_of(model).backbone
    whole = _generate(model, str(wav), QUESTION)
    assert (whole.text, whole.finished, whole.control_tokens) == (served_pretrained.answer, True, ())
    assert _generate(model, "", QUESTION).text == predict(model, tone_base64(), QUESTION), "without a clip, both answer about the tone"
    monkeypatch.setattr("coat_core.registry.cold_load.MAX_NEW_TOKENS", 1)
    cut = _generate(model, str(wav), QUESTION)
    assert not cut.finished
    assert whole.text.startswith(cut.text)
    # A token of the answer becomes a control token: the text may hide it, the report does not.
    first = backbone.tokenizer.encode(whole.text, add_special_tokens=False)[0]
    monkeypatch.setattr("coat_core.evaluation.generate.control_ids", lambda tokenizer: frozenset({first}))
    assert _generate(model, str(wav), QUESTION).control_tokens == (backbone.tokenizer.convert_ids_to_tokens(first),)


def test_a_failed_cold_load_contains_the_cause(served: Served) -> None:
    for weights in (served.workspace / "mlartifacts").rglob("adapter_model.safetensors"):
        weights.write_bytes(b"broken")
    result = load_cold(NAME, "1", served.workspace)
    assert not result.passed
    assert "adapter_model.safetensors" in result.error
    assert connect(served.workspace).get_model_version(NAME, "1").tags["probe"] == "failed"
    with pytest.raises(RegistryError, match="version does not exist"):
        load_cold(NAME, "2", served.workspace)
