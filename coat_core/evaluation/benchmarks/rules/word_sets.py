"""The matcher of MMAU and MMAR (Sakshi113/MMAU 110127f `evaluation.py`; ddlBoJack/MMAR 3bce090 `code/evaluation.py`).

A response is right if it contains every word of the answer and no word of another choice that the answer lacks. Words are compared as
sets, so order, repetition and negation are invisible: "right to left" is right where "left to right" is the answer.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from coat_core.evaluation.benchmarks.items import MISSING, BenchmarkItem, Given
from coat_core.evaluation.benchmarks.verdicts import Verdict, judged, left_out, stopped

_WORD = re.compile(r"\w+")


def words(text: str) -> frozenset[str]:
    """Return the runs of word characters of a text in lower case; an underscore joins words, a decimal point parts them."""
    return frozenset(_WORD.findall(text.lower()))


def matches(answer: str, choices: Iterable[str], response: str) -> bool:
    """Return whether the matcher calls a response right; a response without words is wrong."""
    wanted, given = words(answer), words(response)
    # A choice with the same words as the answer is not counted as another one.
    foreign = frozenset().union(*(other for choice in choices if (other := words(choice)) != wanted)) - wanted
    return bool(given) and wanted <= given and not given & foreign


def word_set_verdict(item: BenchmarkItem, given: Given) -> Verdict:
    """Return the verdict of MMAU's and MMAR's script: an absent row is left out of the denominator, null stops the script."""
    if given is MISSING:
        return left_out("missing", "the script skips a row without a response")
    if given is None:
        return stopped("AttributeError: 'NoneType' object has no attribute 'lower'")
    if item.answer is None:
        return left_out("needs_model", "the published file has no answer")
    verdict = judged(matches(item.answer, item.options, given))
    return verdict if given.strip() else Verdict(0.0, "empty")
