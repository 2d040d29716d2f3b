from __future__ import annotations

import pytest

from coat_core.corpus.examples import FAMILIES
from coat_core.errors import EvaluationError
from coat_core.probing.choice_likelihood import ChoiceLosses, choice_accuracy, right_choice
from coat_core.probing.selection import choose_examples, first_of_each_clip
from tests.testing.evaluations import make_example


def test_the_choice_with_the_lowest_loss_counts() -> None:
    """A long choice has a higher sum and a lower loss per token."""
    row = ChoiceLosses("music", right=1, sums=(2.0, 3.0), tokens=(2, 4))
    assert (row.is_right(normalised=False), row.is_right(normalised=True)) == (False, True)
    tie = ChoiceLosses("music", right=0, sums=(2.0, 2.0), tokens=(2, 2))
    assert not tie.is_right(normalised=False)


def test_accuracy_by_family_and_its_mean() -> None:
    rows = [
        ChoiceLosses("music", 0, (1.0, 2.0), (1, 1)),
        ChoiceLosses("music", 1, (1.0, 2.0), (1, 1)),
        ChoiceLosses("emotion", 2, (4.0, 3.0, 2.0, 5.0), (1, 1, 1, 1)),
    ]
    found = choice_accuracy(rows)
    assert found["families"]["music"] == {"n": 2, "accuracy": 0.5, "accuracy_per_token": 0.5, "chance": 0.5}
    assert found["families"]["emotion"]["accuracy"] == 1.0
    assert found["mean"] == {"n": 3, "accuracy": 0.75, "accuracy_per_token": 0.75, "chance": 0.375}
    assert choice_accuracy([]) == {}


def test_only_an_answer_that_is_one_of_the_choices_has_a_right_choice() -> None:
    assert right_choice(make_example(0)) == 1
    assert right_choice(make_example(0, answer="A Horn.")) == 1
    assert right_choice(make_example(0, answer="a piano")) is None
    assert right_choice(make_example(0, "transcription")) is None


def test_families_are_balanced_and_unlabelled_examples_left_out() -> None:
    examples = [make_example(n, family, "train") for family in FAMILIES for n in range(4 if family == "music" else 20)]
    examples.append(make_example(99, "music", "train", answer=None))
    chosen = choose_examples(examples, "train", 24, seed=1)
    counts = {family: sum(example.family == family for example in chosen) for family in FAMILIES}
    assert counts == {"transcription": 5, "understanding": 5, "music": 4, "emotion": 5, "reasoning": 5}
    assert [examples.index(example) for example in chosen] == sorted(examples.index(example) for example in chosen)
    assert chosen == choose_examples(examples, "train", 24, seed=1) != choose_examples(examples, "train", 24, seed=2)
    assert all(example.labelled for example in choose_examples(examples, "train", 1000, seed=1))
    with pytest.raises(EvaluationError, match="validation"):
        choose_examples(examples, "validation", 3, seed=1)


def test_a_clip_is_represented_by_its_first_example() -> None:
    examples = [make_example(n, sha256=clip) for n, clip in enumerate("abacb")]
    assert first_of_each_clip(examples) == [0, 1, 3]
