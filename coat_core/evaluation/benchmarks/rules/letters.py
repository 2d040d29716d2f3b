"""Rules that read an option letter: AIR-Bench Foundation, MMSU, and the spoken multiple-choice sets of VoiceBench.

AIR-Bench (OFA-Sys/AIR-Bench 9832476 `score_foundation.py`) and MMSU (dingdongwang/MMSU 217d1d3 `mmsu_evaluation.py`) take the first
character if it is A to D, else the last but one. So "Car horn" is option C, and "(C) rain" is none.
"""

from __future__ import annotations

from coat_core.evaluation.benchmarks.items import MISSING, BenchmarkItem, Given
from coat_core.evaluation.benchmarks.verdicts import Verdict, judged, left_out, stopped

LETTERS = "ABCD"


def edge_letter(response: str) -> str | None:
    """Return the letter at the start of a response, else the last character but one, if it is one of A to D."""
    text = response.strip().replace("\n", "")
    candidates = (text[:1], text[-2:-1])
    return next((letter for letter in candidates if letter and letter in LETTERS), None)


def truth_letter(item: BenchmarkItem) -> str | None:
    """Return the letter of the first choice equal to the answer; None if there is none."""
    return next((letter for letter, choice in zip(LETTERS, item.choices or (), strict=False) if choice == item.answer), None)


def air_bench_verdict(item: BenchmarkItem, given: Given) -> Verdict:
    """Return the verdict of AIR-Bench: what has no letter is left out of the denominator (`fail_num`)."""
    if given is MISSING:
        return left_out("missing", "no row")
    if given is None:
        return stopped("AttributeError: 'NoneType' object has no attribute 'strip'")
    if given.strip() in ("", "None"):
        return left_out("empty", "counted in fail_num only")
    letter = edge_letter(given)
    if letter is None:
        return left_out("unparsed", "counted in fail_num only")
    truth = truth_letter(item)
    if truth is None:
        return stopped("exit: the answer is in none of the choices")
    return judged(letter == truth)


def mmsu_verdict(item: BenchmarkItem, given: Given) -> Verdict:
    """Return the verdict of MMSU: empty text and "None" are wrong, every other response without a letter is left out."""
    if given is MISSING:
        return left_out("missing", "no row")
    if given is None:
        return left_out("script_error", "the exception is caught and the item left out")
    if given.strip() in ("", "None"):
        return Verdict(0.0, "empty")
    letter = edge_letter(given)
    if letter is None:
        return left_out("unparsed", "left out of the denominator")
    truth = truth_letter(item)
    if truth is None:
        return left_out("script_error", "the answer is in none of the choices")
    return judged(letter == truth)
