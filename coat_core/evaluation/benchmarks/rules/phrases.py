"""The letter that VoiceBench reads from the answer to a spoken multiple-choice question (MatthewCYM/VoiceBench 5338154).

The script tries a list of some 140 phrases in order, in each the letters a to d, and draws a random letter if none occurs. This module
has the same stages with fewer entries: phrases before a letter, then a letter between signs, then the start of the response. Where a
response names two letters the order of the published list can decide differently. There is no random letter here.
"""

from __future__ import annotations

import re
from itertools import product

from coat_core.evaluation.benchmarks.items import MISSING, BenchmarkItem, Given
from coat_core.evaluation.benchmarks.verdicts import Verdict, judged, left_out, stopped

_OPTIONS = "abcd"
_NAMED = (
    "answer is: **{}", "answer is **{}", "the answer is '{}'", "{} is the best answer", "the answer is {}", "the correct answer is {}",
    *(f"would {verb} {option}{{}}" for option, verb in product(("", "option "), ("select", "choose"))),
)  # fmt: skip
_MARKED = tuple(
    f"{verb}{gap}**{{}}{end}" for verb, gap, end in product(("is", "be"), (": ", " ", ":\n", ":\n\n"), (")", ",", ":", ".", "**"))
)
_SPOKEN = (
    "would be {}", "would be option {}", "would be ({})", "would be option ({})", "is {},", "i'd say {}.", "option {}.", "option {}:",
    "option {},", "is {}:", "is {}.", "is: {}.", "is ({})", "is {})", "is: {}", "({}) would be", "is option {},",
)  # fmt: skip
_LATER = (
    *(f":{gap}{{}}{end}" for gap, end in product(("\n", " \n", "\n\n"), (".", ")", ",", ":"))), "question is {} (", "would be '{}'",
    "option **{}:", "is likely '{}'", "is option '{}'", "known as '{}'", "is **{} (", "is option **{} ",
)  # fmt: skip
_BETWEEN_SIGNS = (" {}.", " {},", " {}:", " {})", "**{}.", "**{})", '"{}.', '"{},', '"{}:', "({})", '"{}"', "{}\n")
_TEMPLATES = (*_NAMED, 'is "{}"', 'is "{}.', *_MARKED, *_SPOKEN, *_LATER, *_BETWEEN_SIGNS)
_TURN = re.compile(r"<[123]>")


def spoken_letter(response: str) -> str | None:
    """Return the letter A to D that a response names; None where the script would draw one at random."""
    text = response.lower()
    if _TURN.match(text):
        text = text[3:].strip()
    for template, letter in product(_TEMPLATES, _OPTIONS):
        if template.format(letter) in text:
            return letter.upper()
    if text in tuple(_OPTIONS) or (text[:1] in tuple(_OPTIONS) and text[1:2] in tuple(".,:)")):
        return text[0].upper()
    return None


def voicebench_verdict(item: BenchmarkItem, given: Given) -> Verdict:
    """Return the verdict of VoiceBench: a response without a letter has none here; the script gives it a random letter.

    `item.answer` is the letter. The expected score of a random letter is in the details as `expected`.
    """
    if given is MISSING:
        return left_out("missing", "no row")
    if given is None:
        return stopped("AttributeError: 'NoneType' object has no attribute 'lower'")
    letter = spoken_letter(given)
    if letter is None:
        chance = 1.0 / len(_OPTIONS)
        return Verdict(None, "unparsed", "the script draws a random letter", details={"expected": chance})
    return judged(letter == item.answer)
