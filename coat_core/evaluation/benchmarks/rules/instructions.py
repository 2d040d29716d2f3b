"""The checks of instruction following in MMAU-Pro (sonalkum/MMAUPro 960e93a `evaluate_mmau_pro_comprehensive.py`).

Keywords are substrings, so "rainy" contains "rain"; postscripts are compared by letters only, so "steps were" contains "P.S."; bullets
are asterisks. An unknown kind of instruction is wrong. The kinds that count sentences need NLTK's model for sentence ends.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from coat_core.evaluation.benchmarks.items import MISSING, BenchmarkItem, Given
from coat_core.evaluation.benchmarks.verdicts import Verdict, judged, left_out, stopped

Limits = Mapping[str, Any]
Check = Callable[[str, Limits], bool]
_NO_LETTERS, _NO_LETTERS_OR_BLANKS = re.compile("[^a-zA-Z]"), re.compile("[^a-zA-Z ]")


def _only(pattern: re.Pattern[str], text: str) -> str:
    return pattern.sub("", text).lower()


def _count(pattern: str) -> Callable[[str], int]:
    return lambda text: len(re.findall(pattern, text))


def _paragraphs(text: str) -> int:
    return sum(bool(part.strip()) for part in text.split("***"))


def _word_count(text: str) -> int:
    return len(text.split())


def _capitals(text: str) -> int:
    return sum(word.isupper() for word in text.split())


def _exactly(count: Callable[[str], int]) -> Check:
    return lambda text, limits: bool(count(text) == limits.get("N", 0))


def _at_least(count: Callable[[str], int]) -> Check:
    return lambda text, limits: bool(count(text) >= limits.get("N", 0))


def _at_most(count: Callable[[str], int]) -> Check:
    return lambda text, limits: bool(count(text) <= limits.get("N", 0))


def _between(count: Callable[[str], int]) -> Check:
    return lambda text, limits: bool(limits.get("N1", 0) <= count(text) <= limits.get("N2", 999))


def _keywords(text: str, limits: Limits) -> bool:
    return all(word.lower() in text.lower() for word in str(limits.get("keywords", "")).split(", "))


def _forbidden(text: str, limits: Limits) -> bool:
    return not any(word.lower() in text.lower() for word in str(limits.get("forbidden_words", "")).split(", "))


def _frequency(text: str, limits: Limits) -> bool:
    keyword = re.escape(str(limits.get("keyword", "")).lower())
    return bool(len(re.findall(rf"\b{keyword}\b", text.lower())) == limits.get("N", 0))


def _postscript(text: str, limits: Limits) -> bool:
    return _only(_NO_LETTERS, str(limits.get("postscript_marker", ""))) in _only(_NO_LETTERS, text)


def _sections(text: str, limits: Limits) -> bool:
    splitter = str(limits.get("section_splitter", ""))
    parts = re.split(rf"\s*{re.escape(splitter)}\s*", text.strip())
    return bool(sum(bool(part.strip()) for part in parts) == limits.get("N", 0))


def _two(text: str, limits: Limits) -> bool:
    parts = [part.lower().strip() for part in text.split("******")]
    return len(parts) == 2 and parts[0] != parts[1]


def _quoted(text: str, limits: Limits) -> bool:
    return text.strip().startswith('"') and text.strip().endswith('"')


CHECKS: dict[str, Check] = {
    "Include Keywords": _keywords,
    "Keyword Frequency": _frequency,
    "Forbidden Words": _forbidden,
    "Number Paragraphs": _exactly(_paragraphs),
    "Number Words (at least)": _at_least(_word_count),
    "Number Words (at most)": _at_most(_word_count),
    "Number Words (range)": _between(_word_count),
    "Postscript": _postscript,
    "Number Placeholder": _at_least(_count(r"\[[^\]]+\]")),
    "Number Bullets": _exactly(_count(r"(?:^|\n)\s*\*\s+")),
    "Title": lambda text, limits: re.search("<<[^>]+>>", text) is not None,
    "Minimum Number Highlighted Section": _at_least(_count(r"\*([^*]+)\*")),
    "Multiple Sections": _sections,
    "Repeat Prompt": lambda text, limits: text.strip().lower().startswith(str(limits.get("prompt_transcription", "")).strip().lower()),
    "Two Responses": _two,
    "All Uppercase": lambda text, limits: text.isupper(),
    "All Lowercase": lambda text, limits: text.islower(),
    "All-capital Words (at least)": _at_least(_capitals),
    "All-capital Words (at most)": _at_most(_capitals),
    "All-capital Words (range)": _between(_capitals),
    "Start Checker": lambda text, limits: _only(_NO_LETTERS_OR_BLANKS, text).startswith(
        _only(_NO_LETTERS_OR_BLANKS, str(limits.get("start_phrase", "")))
    ),
    "End Checker": lambda text, limits: _only(_NO_LETTERS_OR_BLANKS, text).endswith(
        _only(_NO_LETTERS_OR_BLANKS, str(limits.get("end_phrase", "")))
    ),
    "Quotation": _quoted,
    "No Commas": lambda text, limits: "," not in text,
}
"""Kind of instruction (`task_identifier`) → check of a response under the item's `kwargs`."""


def instruction_verdict(item: BenchmarkItem, given: Given) -> Verdict:
    """Return the verdict of the check that the item names in `details`: `task_identifier` and `kwargs`."""
    if given is MISSING:
        return left_out("missing", "no row")
    if given is None:
        return stopped("AttributeError: a method of null")
    kind = str(item.details.get("task_identifier", ""))
    if kind.startswith("Number Sentences"):
        return left_out("needs_model", "sentence ends need NLTK's punkt model")
    check = CHECKS.get(kind)
    return judged(check is not None and check(given, item.details.get("kwargs") or {}))
