"""Checks of the text of an example with the scorers' own normal forms: a row that no response could be scored on is not accepted."""

from __future__ import annotations

import math
from collections.abc import Sequence

from coat_core.corpus.examples import Example
from coat_core.corpus.normal_form import has_words, is_blank, normalise_option
from coat_core.corpus.numerals import parse_number

_SHOWN_CHOICES = 10


def blank_fields(example: Example) -> list[str]:
    """Return the names of the text fields that show nothing: empty, spaces, zero-width or control characters. A null answer is no text."""
    texts = {"id": example.id, "group": example.group, "question": example.question, "answer": example.answer}
    return [name for name, text in texts.items() if text is not None and is_blank(text)]


def choices_error(example: Example) -> str | None:
    """Return why the answer is not one of distinct choices, or None. The choices of an unlabelled example must be distinct too."""
    choices = example.choices
    if choices is None:
        return None
    if mistake := indistinct(choices):
        return mistake
    if example.answer is None or normalise_option(example.answer) in map(normalise_option, choices):
        return None
    shown = ", ".join(map(repr, choices[:_SHOWN_CHOICES])) + (", …" if len(choices) > _SHOWN_CHOICES else "")
    return f"the answer is {example.answer!r}, allowed: {shown}{_letter_hint(example.answer, choices)}"


def indistinct(choices: Sequence[str]) -> str | None:
    """Return why an answer cannot tell these choices apart, or None. They are compared as the scorer compares them.

    Two choices are the same if they have the same normal form ("You are here?" and "You are here.", "x²" and "x2") or if both are the
    same number ("2" and "two").
    """
    if len(choices) < 2:
        return f"choices has {len(choices)} text{'s' * (len(choices) != 1)}, allowed: at least 2, or null for an open question"
    forms = [normalise_option(choice) for choice in choices]
    empty = [choice for choice, form in zip(choices, forms, strict=True) if not form or is_blank(form)]
    if empty:
        return f"the choice {empty[0]!r} contains no text that the scorer compares; write it in words"
    return "; ".join(_same_text(choices, forms) + _same_number(choices, forms)) or None


def scoring_error(example: Example) -> str | None:
    """Return why no response to an open question can be scored, or None: the answer has no word after the scorer's normalisation."""
    if example.choices is not None or example.answer is None or has_words(example.answer):
        return None
    return f"the answer is {example.answer!r}, which has no word after the normalisation of the scorer (fillers, annotations, punctuation)"


def _same_text(choices: Sequence[str], forms: Sequence[str]) -> list[str]:
    """Describe each choice whose normal form is that of an earlier one."""
    first: dict[str, int] = {}
    return [
        f"the choices {choices[earlier]!r} and {choices[index]!r} are the same text to the scorer ({form!r}); reword one"
        for index, form in enumerate(forms)
        if (earlier := first.setdefault(form, index)) != index
    ]


def _same_number(choices: Sequence[str], forms: Sequence[str]) -> list[str]:
    """Describe each choice that is the same number as an earlier one with another normal form."""
    first: dict[float, int] = {}
    mistakes = []
    for index, (choice, form) in enumerate(zip(choices, forms, strict=True)):
        number = parse_number(choice)
        if number is None:
            number = parse_number(form)
        if number is None or math.isnan(number):
            continue
        earlier = first.setdefault(number, index)
        if forms[earlier] != form:
            mistakes.append(f"the choices {choices[earlier]!r} and {choice!r} are the same number ({number:g}); remove one")
    return mistakes


def _letter_hint(answer: str, choices: Sequence[str]) -> str:
    """Return a hint if the answer is the letter of a choice."""
    letter = normalise_option(answer).strip("()")
    index = ord(letter) - ord("a") if len(letter) == 1 else -1
    return f"; the letter of a choice is not its text: write {choices[index]!r}" if 0 <= index < len(choices) else ""
