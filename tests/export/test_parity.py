"""The parity gate's arithmetic: what is compared, what ties, what fails."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from coat_core.errors import ReleaseError
from coat_core.export.parity import Pair, Reading, check, compare, probe_queries, read_probes


def reading(logits: list[list[float]], answer: list[int], prompt: tuple[int, ...] = (1, 2)) -> Reading:
    return Reading([*prompt], answer, torch.tensor(logits))


LIVE = reading([[4.0, 1.0, 0.0], [0.0, 2.0, 2.0 - 1 / 64]], [0, 1])


def test_the_probe_set_is_the_same_at_every_call_and_fits_every_tower() -> None:
    first, second = probe_queries(), probe_queries()
    assert len(first) == len({query.text for query in first}) == 6
    for one, two in zip(first, second, strict=True):
        assert np.array_equal(one.waveform, two.waveform)
        assert one.waveform.dtype == np.float32
        assert 0.4 <= len(one.waveform) / 16_000 <= 3.1
        assert 0.05 < np.abs(one.waveform).max() <= 0.3001
        assert np.isfinite(one.waveform).all()


def test_equal_models_agree_in_every_figure() -> None:
    pairs = compare({"live": [LIVE], "adapter": [LIVE], "merged": [LIVE]}, "float32")
    assert pairs == [Pair(one, two, 0.0, 0.0, 1, 0, 1) for one, two in (("live", "adapter"), ("live", "merged"), ("adapter", "merged"))]
    check(pairs, "float32")


@pytest.mark.parametrize(("shift", "passes"), [(0.9e-4, True), (1.1e-4, False)])
def test_float32_allows_one_ten_thousandth_anywhere(shift: float, passes: bool) -> None:
    moved = LIVE.logits.double().clone()
    moved[1, 0] += shift
    pairs = compare({"live": [LIVE], "merged": [Reading(LIVE.prompt, LIVE.answer, moved.float())]}, "float32")
    assert pairs[0].largest == pytest.approx(shift, rel=1e-3)
    if passes:
        check(pairs, "float32")
    else:
        with pytest.raises(ReleaseError, match=r"live and merged: largest difference 1\.10e-04"):
            check(pairs, "float32")


def test_float32_takes_no_tie_and_16_bits_do() -> None:
    """At 2.0 a step of bfloat16 is 1/64: the candidates are one step apart."""
    other = Reading(LIVE.prompt, [0, 2], LIVE.logits)
    with pytest.raises(ReleaseError, match="0 of 1 answers equal"):
        check(compare({"live": [LIVE], "merged": [other]}, "float32"), "float32")
    pairs = compare({"live": [LIVE], "merged": [other]}, "bfloat16")
    assert (pairs[0].answers, pairs[0].ties) == (0, 1)
    check(pairs, "bfloat16")


@pytest.mark.parametrize(("gap", "ties"), [(2 / 64, 1), (3 / 64, 0)])
def test_a_tie_is_two_steps_of_the_format(gap: float, ties: int) -> None:
    live = reading([[4.0, 1.0, 0.0], [0.0, 2.0, 2.0 - gap]], [0, 1])
    pairs = compare({"live": [live], "merged": [Reading(live.prompt, [0, 2], live.logits)]}, "bfloat16")
    assert pairs[0].ties == ties


def test_an_answer_that_is_cut_short_is_no_tie() -> None:
    pairs = compare({"live": [LIVE], "merged": [Reading(LIVE.prompt, [0], LIVE.logits)]}, "bfloat16")
    assert (pairs[0].answers, pairs[0].ties) == (0, 0)
    with pytest.raises(ReleaseError, match="parity gate failed"):
        check(pairs, "bfloat16")


def test_16_bits_refuse_a_difference_of_a_tenth_of_the_spread() -> None:
    noise = torch.tensor([[1.0, -1.0, 1.0], [-1.0, 1.0, -1.0]])
    for share, passes in ((0.09, True), (0.11, False)):
        made = Reading(LIVE.prompt, LIVE.answer, LIVE.logits + share * LIVE.logits.std() * noise)
        pairs = compare({"live": [LIVE], "merged": [made]}, "bfloat16")
        assert pairs[0].share == pytest.approx(share, rel=1e-4)
        if passes:
            check(pairs, "bfloat16")
        else:
            with pytest.raises(ReleaseError, match="parity gate failed"):
                check(pairs, "bfloat16")


def test_another_prompt_and_a_logit_that_is_not_finite_are_refused() -> None:
    with pytest.raises(ReleaseError, match="merged is asked another prompt than live"):
        compare({"live": [LIVE], "merged": [reading(LIVE.logits.tolist(), LIVE.answer, (1, 3))]}, "float32")
    with pytest.raises(ReleaseError, match="not finite"):
        compare({"live": [LIVE], "merged": [reading([[float("nan")] * 3] * 2, LIVE.answer)]}, "float32")


class _Counting:
    """A model whose next token is always one more than the last, up to 9."""

    device = torch.device("cpu")

    def generate(self, input_ids: torch.Tensor, generation_config: Any, **given: Any) -> torch.Tensor:
        last = int(input_ids[0, -1])
        return torch.cat([input_ids, torch.arange(last + 1, 10)[None][:, : generation_config.max_new_tokens]], dim=1)

    def __call__(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, **given: Any) -> Any:
        assert attention_mask.shape == input_ids.shape
        return type("Output", (), {"logits": torch.nn.functional.one_hot((input_ids + 1) % 12, 12).float()})


def test_logits_are_read_at_the_last_prompt_token_and_each_of_the_live_answer() -> None:
    from transformers import GenerationConfig

    probes = probe_queries()[:1]
    live = read_probes(_Counting(), GenerationConfig(), lambda query: {"input_ids": torch.tensor([[3, 5]])}, probes, dtype="float32")
    assert (live[0].prompt, live[0].answer) == ([3, 5], [6, 7, 8, 9])
    assert live[0].logits.argmax(-1).tolist() == [6, 7, 8, 9, 10]
    forced = [Reading([3, 5], [2, 2], live[0].logits)]
    read = read_probes(
        _Counting(), GenerationConfig(), lambda query: {"input_ids": torch.tensor([[3, 5]])}, probes, dtype="float32", live=forced
    )
    assert (read[0].answer, read[0].logits.argmax(-1).tolist()) == ([6, 7, 8, 9], [6, 3, 3])
