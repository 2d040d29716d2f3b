from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from coat_core.corpus.examples import Example
from coat_core.errors import EvaluationError
from coat_core.evaluation.generate import (
    GeneratedAnswer,
    answer_release,
    answer_text,
    generate_answers,
    generate_responses,
    generate_texts,
    other_clips,
)
from coat_core.evaluation.responses import read_responses
from coat_core.evaluation.selection import select
from coat_core.settings import EvaluationSettings
from tests.testing.evaluations import EVALUATION, KEY, make_example


@pytest.mark.slow
def test_every_example_is_answered_and_open_ones_also_with_another_clip(
    backbone_key: str, make_release: Callable[..., Path], corpus: tuple[Path, list[Example]], tmp_path: Path
) -> None:
    release = make_release(backbone_key, "coat")
    first, second = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    for target in (first, second):
        answer_release(release, corpus[1], corpus[0], EVALUATION, target)
    assert first.read_bytes() == second.read_bytes()
    test = [example for example in corpus[1] if example.split == "test"]
    transcribed = [example.id for example in test if example.family == "transcription"]
    expected = [(example.id, "own") for example in test] + [(name, "other") for name in transcribed]
    assert [(response.id, response.audio) for response in read_responses(first)] == expected


@pytest.mark.slow
def test_batches_do_not_change_answers(make_release: Callable[..., Path], corpus: tuple[Path, list[Example]]) -> None:
    from coat_core.thinking.release import load_release

    backbone = load_release(make_release(KEY, "base")).backbone
    test = select(corpus[1], EVALUATION)
    settings = [EVALUATION.model_copy(update={"batch_size": size}) for size in (16, 1)]
    together, alone = (generate_responses(backbone, test, corpus[0], each, progress=False) for each in settings)
    assert together == alone
    assert any(response.response for response in together)


def test_an_empty_split_is_refused(corpus: tuple[Path, list[Example]], tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match="no examples"):
        answer_release(tmp_path, corpus[1], corpus[0], EvaluationSettings(split="validation"), tmp_path / "out.jsonl")


def test_each_open_question_gets_another_clip() -> None:
    spoken = [make_example(i, "transcription", sha256=f"{i // 2:064d}") for i in range(8)]
    others = other_clips([*spoken, make_example(0, "music")], seed=3)
    assert set(others) == {example.id for example in spoken}
    assert all(others[example.id].sha256 != example.sha256 for example in spoken)
    assert {clip.sha256 for clip in others.values()} == {example.sha256 for example in spoken}
    assert others == other_clips(spoken, seed=3)
    assert other_clips(spoken[:2], seed=3) == {}


def test_selection_keeps_order_and_limits_families() -> None:
    examples = [make_example(i, family) for i in range(3) for family in ("music", "emotion")] + [make_example(9, split="train")]
    chosen = select(examples, EvaluationSettings(limit_per_family=2))
    assert [example.id for example in chosen] == ["test-music-0", "test-emotion-0", "test-music-1", "test-emotion-1"]
    assert len(select(examples, EvaluationSettings())) == 6


def test_an_answer_ends_at_the_end_of_turn() -> None:
    class Tokenizer:
        def convert_tokens_to_ids(self, token: str) -> int:
            return 7

        def decode(self, ids: list[int], skip_special_tokens: bool) -> str:
            return " " + " ".join(map(str, ids))

    backbone: Any = type("Stub", (), {"tokenizer": Tokenizer(), "end_of_turn": "<|im_end|>"})()
    assert answer_text(backbone, [1, 2, 7, 3]) == "1 2"
    assert answer_text(backbone, [1, 2]) == "1 2"
    assert answer_text(backbone, [7]) == ""


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        (["rain", "<|im_end|>", "<|endoftext|>", "rain"], ("rain", True, ())),
        (["rain", "<|endoftext|>", "<|endoftext|>"], ("rain", True, ())),
        (["rain", "rain", "rain"], ("rainrainrain", False, ())),
        (["<|im_start|>", "rain", "<|AUDIO|>", "<|im_end|>"], ("rain", True, ("<|im_start|>", "<|AUDIO|>"))),
        (["<|im_end|>", "rain", "<|im_start|>"], ("", True, ())),
        (["<|im_start|>", "<|im_start|>"], ("", False, ("<|im_start|>", "<|im_start|>"))),
    ],
    ids=["ended", "ended by the second end token", "cut off", "control tokens inside", "empty", "control tokens only"],
)
def test_an_answer_says_whether_it_was_ended_and_which_control_tokens_it_has(
    tiny_bases: dict[str, Path], monkeypatch: pytest.MonkeyPatch, ids: list[str], expected: tuple[str, bool, tuple[str, ...]]
) -> None:
    import torch

    from coat_core.backbones.catalogue import load_backbone
    from tests.testing.prompting import query

    backbone: Any = load_backbone(KEY, str(tiny_bases[KEY]))
    tokens = [token for text in ids for token in backbone.tokenizer(text, add_special_tokens=False)["input_ids"]]
    backbone.model.generation_config.eos_token_id = backbone.tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"])
    monkeypatch.setattr(backbone.model, "generate", lambda input_ids, **arguments: torch.cat([input_ids, torch.tensor([tokens])], dim=1))
    assert generate_answers(backbone, [query("What?")], 8) == [GeneratedAnswer(*expected)]
    assert generate_texts(backbone, [query("What?")], 8) == [expected[0]]
