"""Sample items: a draw that depends on no answer, verdicts, players within the page's limit, and the conclusion."""

from __future__ import annotations

import base64
import io
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from coat_core.corpus.examples import FAMILIES
from coat_core.evaluation.responses import Response, write_responses
from coat_core.evaluation.scores import score_responses
from coat_core.report.conclusion import conclusion
from coat_core.report.items import audio_uri, draw_items, first_trials, sample_items, verdict_of
from coat_core.storage import write_jsonl
from tests.testing.evaluations import KEY, write_clips


def _workspace(folder: Path) -> list[Any]:
    """Write clips, and the responses and scores of two trials: one always right, one with an answer that cannot be scored."""
    examples = write_clips(folder / "data/corpus")
    tested = [example for example in examples if example.split == "test"]
    for trial in ("base-0", "sft-1"):
        responses = [Response(id=e.id, response=str(e.answer) if trial == "sft-1" else "") for e in tested]
        write_responses(folder / "responses" / f"{KEY}-{trial}.jsonl", responses)
        rows = [row.to_row() for row in score_responses(tested, responses)]
        write_jsonl(folder / "evaluation" / f"{KEY}-{trial}" / "scores.jsonl", rows)
    return examples


def test_the_draw_depends_on_ids_only(tmp_path: Path) -> None:
    examples = _workspace(tmp_path)
    ids = [example.id for example in examples]
    drawn = draw_items(examples, ids, "test", per_family=1)
    assert [example.family for example in drawn] == list(FAMILIES)
    for seed in range(5):
        shuffled = random.Random(seed).sample(examples, len(examples))
        changed = [e.model_copy(update={"question": "another question", "answer": "another answer"}) for e in shuffled]
        assert [e.id for e in draw_items(changed, ids, "test", per_family=1)] == [e.id for e in drawn]
    assert draw_items(examples, [], "test") == []


def test_items_have_the_answers_of_every_arm_and_a_player_while_there_is_room(tmp_path: Path) -> None:
    examples = _workspace(tmp_path)
    items = sample_items(tmp_path, [KEY], ["sft-2", "base-0", "sft-1"], examples, "test")
    for item in items:
        base, sft = item.answers[KEY]
        assert (base.trial, base.verdict, base.score) == ("base-0", "unscored", None)
        assert (sft.trial, sft.verdict, sft.response) == ("sft-1", "right", item.example.answer)
        samples, rate = soundfile.read(io.BytesIO(base64.b64decode(str(item.audio).partition(",")[2])))
        assert rate == 16_000
        assert samples.ndim == 1
        assert len(samples) / rate == pytest.approx(item.example.duration_s, abs=0.01)
    sizes = [len(str(item.audio)) for item in items]
    few = sample_items(tmp_path, [KEY], ["sft-1"], examples, "test", max_bytes=sum(sizes) - 1)
    assert 0 < sum(item.audio is None for item in few) < len(few)
    assert sum(len(item.audio or "") for item in few) < sum(sizes)
    assert first_trials(["sft-2", "coat-3", "sft-1", "base-0"]) == ["base-0", "sft-1", "coat-3"]


def test_audio_is_the_waveform() -> None:
    waveform = np.array([0.0, 0.5, -1.0, 1.5], dtype=np.float32)
    samples, rate = soundfile.read(io.BytesIO(base64.b64decode(audio_uri(waveform).partition(",")[2])))
    assert rate == 16_000
    np.testing.assert_allclose(samples, [0.0, 0.5, -1.0, 1.0], atol=1e-4)


@pytest.mark.parametrize(("score", "verdict"), [(None, "unscored"), (0.0, "wrong"), (0.4, "partly"), (1.0, "right")])
def test_verdicts(score: float | None, verdict: str) -> None:
    assert verdict_of(score) == verdict


def test_the_conclusion_follows_from_the_intervals() -> None:
    def model(**differences: tuple[float, bool]) -> dict[str, Any]:
        return {
            "differences": {
                key.replace("_minus_", "-"): {"mean": {"difference": value, "includes_zero": zero, "too_few": value == 0.5}}
                for key, (value, zero) in differences.items()
            }
        }

    results = {
        "backbones": {
            "a": model(coat_minus_sft=(0.1, False), coat_minus_align=(-0.1, False)),
            "b": model(coat_minus_sft=(0.2, False)),
            "c": model(coat_minus_sft=(-0.2, True)),
            "d": model(coat_minus_sft=(0.5, False)),
        }
    }
    assert conclusion(results) == [
        "coat against standard fine-tuning (sft): better in a and b; no clear difference in c; too few questions to judge in d.",
        "coat against the same experts without a block (align): worse in a.",
    ]
    assert conclusion({"backbones": {"a": model()}}) == []
