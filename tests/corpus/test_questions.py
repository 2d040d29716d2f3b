"""Seeded generators and balanced draws."""

from __future__ import annotations

from coat_core.corpus.questions import balanced_draw, seeded_generator


def test_each_block_of_a_balanced_draw_contains_every_option_once() -> None:
    drawn = [balanced_draw("abcde", turn, "x") for turn in range(50)]
    assert all(sorted(drawn[start : start + 5]) == list("abcde") for start in range(0, 50, 5))
    assert len({tuple(drawn[start : start + 5]) for start in range(0, 50, 5)}) > 5


def test_generators_depend_on_every_part() -> None:
    assert seeded_generator("a", "b").integers(1 << 60) != seeded_generator("ab").integers(1 << 60)
    assert seeded_generator("a", 1).integers(1 << 60) == seeded_generator("a", 1).integers(1 << 60)
