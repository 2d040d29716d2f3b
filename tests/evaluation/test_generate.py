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
    with pytest.raises(EvaluationError, match="no labelled examples"):
        answer_release(tmp_path, corpus[1], corpus[0], EvaluationSettings(split="validation"), tmp_path / "out.jsonl")


def test_each_open_question_gets_another_clip() -> None:
    spoken = [make_example(i, "transcription", sha256=f"{i // 2:064d}") for i in range(8)]
    others = other_clips(spoken, seed=3)
    assert set(others) == {example.id for example in spoken}
    assert all(others[example.id].sha256 != example.sha256 for example in spoken)
    assert {clip.sha256 for clip in others.values()} == {example.sha256 for example in spoken}
    assert other_clips(spoken[:2], seed=3) == {}, "both have the same clip"


def test_the_only_open_question_of_a_family_gets_a_clip_of_another_question() -> None:
    spoken = [make_example(i, "transcription") for i in range(3)]
    alone = make_example(9, "music", choices=None)
    choices = [make_example(i, "music", choices=("high", "low")) for i in (10, 11)]
    expected = other_clips(spoken, seed=3)
    for rest in (choices, []):
        found = other_clips([*spoken, alone, *rest], seed=3)
        other = found.pop(alone.id)
        assert found == expected, "the other families keep their clips"
        assert other.sha256 != alone.sha256
        assert other in (rest or spoken)


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
        (["rain", "<|im_end|>", "<|endoftext|>", "rain"], ("rain", True, (), 2)),
        (["rain", "<|endoftext|>", "<|endoftext|>"], ("rain", True, (), 2)),
        (["rain", "rain", "rain"], ("rainrainrain", False, (), 3)),
        (["<|im_start|>", "rain", "<|AUDIO|>", "<|im_end|>"], ("rain", True, ("<|im_start|>", "<|AUDIO|>"), 4)),
        (["<|im_end|>", "rain", "<|im_start|>"], ("", True, (), 1)),
        (["<|im_start|>", "<|im_start|>"], ("", False, ("<|im_start|>", "<|im_start|>"), 2)),
    ],
    ids=["ended", "ended by the second end token", "cut off", "control tokens inside", "empty", "control tokens only"],
)
def test_an_answer_says_whether_it_was_ended_and_which_control_tokens_it_has(
    tiny_bases: dict[str, Path], monkeypatch: pytest.MonkeyPatch, ids: list[str], expected: tuple[str, bool, tuple[str, ...], int]
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


def generate_text(backbone: Any, text: str) -> Any:
    """Return a `generate` that decodes a text and the end of turn for every row, within the allowed tokens."""
    import torch

    ids = [*backbone.tokenizer(text, add_special_tokens=False)["input_ids"], backbone.tokenizer.convert_tokens_to_ids("<|im_end|>")]

    def generate(input_ids: Any, max_new_tokens: int, **arguments: Any) -> Any:
        return torch.cat([input_ids, torch.tensor([ids[:max_new_tokens]] * len(input_ids))], dim=1)

    return generate


@pytest.fixture
def tiny_backbone(tiny_bases: dict[str, Path]) -> Any:
    from coat_core.backbones.catalogue import load_backbone

    return load_backbone(KEY, str(tiny_bases[KEY]))


def test_a_described_response_is_split_into_description_and_answer(
    tiny_backbone: Any, corpus: tuple[Path, list[Example]], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "Sounds: a siren 0.0 to 0.4 s. Voice: happy.\nAnswer: a horn"
    monkeypatch.setattr(tiny_backbone.model, "generate", generate_text(tiny_backbone, text))
    test = select(corpus[1], EVALUATION)
    own, *_ = generate_responses(tiny_backbone, test, corpus[0], EVALUATION, progress=False, described=True)
    assert (own.response, own.description) == ("a horn", "Sounds: a siren 0.0 to 0.4 s. Voice: happy.")
    # The answer of four tokens alone is the limit of other arms, which do not split.
    assert own.decoded_tokens == len(tiny_backbone.tokenizer(text, add_special_tokens=False)["input_ids"]) + 1 > EVALUATION.max_new_tokens
    other, *_ = generate_responses(tiny_backbone, test, corpus[0], EVALUATION, progress=False)
    assert (other.description, other.decoded_tokens) == (None, None)
    assert text.startswith(other.response)
    assert (list(own.to_row()), list(other.to_row())) == (
        ["id", "response", "audio", "description", "decoded_tokens"],
        ["id", "response", "audio"],
    )


def test_a_description_that_does_not_end_is_unscored(
    tiny_backbone: Any, corpus: tuple[Path, list[Example]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from coat_core.evaluation.responses import write_responses
    from coat_core.evaluation.scores import score_responses

    # The description names the right choice, which must not count.
    monkeypatch.setattr(tiny_backbone.model, "generate", generate_text(tiny_backbone, "a horn"))
    test = [example for example in select(corpus[1], EVALUATION) if example.choices]
    responses = generate_responses(tiny_backbone, test, corpus[0], EVALUATION, progress=False, described=True)
    write_responses(tmp_path / "responses.jsonl", responses)
    assert read_responses(tmp_path / "responses.jsonl") == responses
    assert {(response.response, response.description) for response in responses} == {("", "a horn")}
    assert {(row.score, row.unscored) for row in score_responses(test, responses)} == {(None, "empty response")}
    as_answers = [response.model_copy(update={"response": response.description}) for response in responses]
    assert {row.score for row in score_responses(test, as_answers)} == {1.0}


@pytest.mark.slow
def test_the_arm_of_a_release_decides_how_it_is_read(
    make_release: Callable[..., Path], corpus: tuple[Path, list[Example]], tmp_path: Path
) -> None:
    for arm in ("described", "sft"):
        answer_release(make_release(KEY, arm), corpus[1], corpus[0], EVALUATION, tmp_path / arm)
    described, other = (read_responses(tmp_path / arm) for arm in ("described", "sft"))
    # A model with random weights never writes the separator.
    assert {response.response for response in described} == {""}
    assert all(response.decoded_tokens for response in described)
    assert {response.decoded_tokens for response in other} == {None}
