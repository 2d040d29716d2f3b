"""A model that repeats itself is read in a moment: no scorer needs more than linear time, or nearly so, in the length of a response."""

from __future__ import annotations

import pytest

from coat_core.evaluation.scorers import score
from tests.testing.evaluations import make_example

EXAMPLES = {
    "words": make_example(1),
    "numbers with units": make_example(2, choices=("10 s", "20 s", "30 s")),
    "number": make_example(3, choices=None, answer="3"),
    "transcript": make_example(4, "transcription"),
}
LOOPS = ("1", "1,", "1.", "1/", "1-", "½", "\u2044", "- ", "a", "a ", "(a", "(A) ", "A. ", "**", "`", " ", "\n", "no ", "not ", "one ",
         "twenty-",
         "it's not ", "or ", "Answer: ", "a horn ", "\u200b")  # fmt: skip


@pytest.mark.parametrize("kind", EXAMPLES)
@pytest.mark.parametrize("loop", LOOPS)
def test_a_response_that_repeats_itself_is_read(kind: str, loop: str) -> None:
    for tail in ("", "!x", " Hz"):
        found = score(EXAMPLES[kind], loop * 1000 + tail)
        assert found.kind in ("choice", "number", "wer")
