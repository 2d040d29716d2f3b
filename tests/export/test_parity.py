"""The arithmetic of the parity gate: differences, ties and limits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from coat_core.errors import ReleaseError
from coat_core.export.parity import Pair, QueryResult, check, compare, reference_queries, run_queries


def make_result(logits: list[list[float]], answer: list[int], prompt: tuple[int, ...] = (1, 2)) -> QueryResult:
    return QueryResult([*prompt], answer, torch.tensor(logits))


LIVE = make_result([[4.0, 1.0, 0.0], [0.0, 2.0, 2.0 - 1 / 64]], [0, 1])


def test_the_reference_queries_are_the_same_at_every_call_and_fit_every_audio_tower() -> None:
    first, second = reference_queries(), reference_queries()
    assert len(first) == len({query.text for query in first}) == 6
    for one, two in zip(first, second, strict=True):
        assert np.array_equal(one.waveform, two.waveform)
        assert one.waveform.dtype == np.float32
        assert 0.4 <= len(one.waveform) / 16_000 <= 3.1
        assert 0.05 < np.abs(one.waveform).max() <= 0.3001
        assert np.isfinite(one.waveform).all()


def test_equal_models_have_no_difference() -> None:
    pairs = compare({"live": [LIVE], "adapter": [LIVE], "merged": [LIVE]}, "float32")
    assert pairs == [Pair(one, two, 0.0, 0.0, 1, 0, 1) for one, two in (("live", "adapter"), ("live", "merged"), ("adapter", "merged"))]
    check(pairs, "float32")


@pytest.mark.parametrize(("shift", "passes"), [(0.9e-4, True), (1.1e-4, False)])
def test_the_limit_of_float32_is_one_ten_thousandth_for_every_logit(shift: float, passes: bool) -> None:
    moved = LIVE.logits.double().clone()
    moved[1, 0] += shift
    pairs = compare({"live": [LIVE], "merged": [QueryResult(LIVE.prompt, LIVE.answer, moved.float())]}, "float32")
    assert pairs[0].largest == pytest.approx(shift, rel=1e-3)
    if passes:
        check(pairs, "float32")
    else:
        with pytest.raises(ReleaseError, match=r"live and merged: largest difference 1\.10e-04"):
            check(pairs, "float32")


def test_ties_are_allowed_in_16_bits_and_not_in_float32() -> None:
    """At 2.0 a step of bfloat16 is 1/64: the candidates are one step apart."""
    other = QueryResult(LIVE.prompt, [0, 2], LIVE.logits)
    with pytest.raises(ReleaseError, match="0 of 1 answers equal"):
        check(compare({"live": [LIVE], "merged": [other]}, "float32"), "float32")
    pairs = compare({"live": [LIVE], "merged": [other]}, "bfloat16")
    assert (pairs[0].answers, pairs[0].ties) == (0, 1)
    check(pairs, "bfloat16")


@pytest.mark.parametrize(("gap", "ties"), [(2 / 64, 1), (3 / 64, 0)])
def test_a_tie_is_at_most_two_steps_of_the_dtype(gap: float, ties: int) -> None:
    live = make_result([[4.0, 1.0, 0.0], [0.0, 2.0, 2.0 - gap]], [0, 1])
    pairs = compare({"live": [live], "merged": [QueryResult(live.prompt, [0, 2], live.logits)]}, "bfloat16")
    assert pairs[0].ties == ties


def test_a_truncated_answer_is_not_a_tie() -> None:
    pairs = compare({"live": [LIVE], "merged": [QueryResult(LIVE.prompt, [0], LIVE.logits)]}, "bfloat16")
    assert (pairs[0].answers, pairs[0].ties) == (0, 0)
    with pytest.raises(ReleaseError, match="parity gate failed"):
        check(pairs, "bfloat16")


def test_the_limit_of_16_bits_is_a_tenth_of_the_spread() -> None:
    noise = torch.tensor([[1.0, -1.0, 1.0], [-1.0, 1.0, -1.0]])
    for share, passes in ((0.09, True), (0.11, False)):
        moved = QueryResult(LIVE.prompt, LIVE.answer, LIVE.logits + share * LIVE.logits.std() * noise)
        pairs = compare({"live": [LIVE], "merged": [moved]}, "bfloat16")
        assert pairs[0].share == pytest.approx(share, rel=1e-4)
        if passes:
            check(pairs, "bfloat16")
        else:
            with pytest.raises(ReleaseError, match="parity gate failed"):
                check(pairs, "bfloat16")


def test_another_prompt_or_a_logit_that_is_not_finite_is_an_error() -> None:
    with pytest.raises(ReleaseError, match="the prompt of merged differs from that of live"):
        compare({"live": [LIVE], "merged": [make_result(LIVE.logits.tolist(), LIVE.answer, (1, 3))]}, "float32")
    with pytest.raises(ReleaseError, match="not finite"):
        compare({"live": [LIVE], "merged": [make_result([[float("nan")] * 3] * 2, LIVE.answer)]}, "float32")


class _Counting:
    """A model whose next token is the last one plus 1, up to 9."""

    device = torch.device("cpu")

    def generate(self, input_ids: torch.Tensor, generation_config: Any, **arguments: Any) -> torch.Tensor:
        last = int(input_ids[0, -1])
        return torch.cat([input_ids, torch.arange(last + 1, 10)[None][:, : generation_config.max_new_tokens]], dim=1)

    def __call__(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, **arguments: Any) -> Any:
        assert attention_mask.shape == input_ids.shape
        return type("Output", (), {"logits": torch.nn.functional.one_hot((input_ids + 1) % 12, 12).float()})


def test_logits_are_those_of_the_last_prompt_token_and_each_token_of_the_live_answer() -> None:
    from transformers import GenerationConfig

    queries = reference_queries()[:1]
    live = run_queries(_Counting(), GenerationConfig(), lambda query: {"input_ids": torch.tensor([[3, 5]])}, queries, dtype="float32")
    assert (live[0].prompt, live[0].answer) == ([3, 5], [6, 7, 8, 9])
    assert live[0].logits.argmax(-1).tolist() == [6, 7, 8, 9, 10]
    forced = [QueryResult([3, 5], [2, 2], live[0].logits)]
    other = run_queries(
        _Counting(), GenerationConfig(), lambda query: {"input_ids": torch.tensor([[3, 5]])}, queries, dtype="float32", live=forced
    )
    assert (other[0].answer, other[0].logits.argmax(-1).tolist()) == ([6, 7, 8, 9], [6, 3, 3])
