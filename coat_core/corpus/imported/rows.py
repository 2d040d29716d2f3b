"""Checks of the rows of a manifest, and the request for a clip that a row makes."""

from __future__ import annotations

import math
import re
import unicodedata
from dataclasses import dataclass
from typing import Any

from coat_core.corpus.examples import FAMILIES, SPLITS
from coat_core.corpus.imported.lines import Row
from coat_core.corpus.normal_form import is_blank

_LABELLED = {"true": True, "false": False}
_TEXTS = ("question", "answer", "transcription", "task", "licence", "source", "group", "id")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,3})?", re.ASCII)
_INVALID = re.compile("[\ud800-\udfff\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f]")
"""Lone surrogates, and control characters other than tabs and line ends."""
_LARGEST = 1e9
_SHOWN = 60
AVERAGE = "average"


@dataclass(frozen=True)
class Segment:
    """The part of a file that a row means. Times are seconds from the start of the file, as in NeMo's manifests."""

    start_s: float = 0.0
    duration_s: float | None = None
    """None: up to the end of the file."""
    end_s: float | None = None
    """An alternative to `duration_s`."""
    channels: tuple[int, ...] | None = None
    """Indices of the channels, from 0; None: all."""

    @property
    def whole_time(self) -> bool:
        """Whether only channels are selected."""
        return self.start_s == 0.0 and self.duration_s is None and self.end_s is None


def check_row(row: Row, *, table: bool) -> Row:
    """Return a row with checked values: texts in NFC without surrounding spaces, numbers as float, `segment` if there is one.

    A row is unlabelled if it says so: by `answer: null` (JSON) or by `labelled: false`. An empty cell or a missing key is an error.
    `labelled` of the returned row says which it is; an unlabelled row has no `answer`.

    Args:
        row: a row with the standard keys.
        table: whether the row comes from a table, where every value is text and choices are separated by a vertical bar.

    Raises:
        ValueError: the row is invalid. The message lists all its errors.
    """
    checked = dict(row)
    errors: list[str] = []
    labelled = checked["labelled"] = _try(errors, _is_labelled, row) is not False
    if row.get("answer", "") is None:
        del checked["answer"]
    for name in ("id", "group"):
        if isinstance(row.get(name), int) and not isinstance(row[name], bool):
            checked[name] = _integer_text(row[name])
    for name in _TEXTS:
        if name in checked:
            checked[name] = _try(errors, _text, name, checked[name])
    for name, allowed in (("split", SPLITS), ("family", FAMILIES)):
        if name in row and row[name] not in allowed:
            errors.append(f"{name} is {shown(row[name])}, allowed: {', '.join(allowed)}")
    if labelled and "answer" not in checked and "transcription" not in row:
        errors.append(
            "neither a transcription nor an answer is given, allowed: text for a transcript, or question and answer; for audio without "
            f"labels, which takes part in distillation only, {'labelled = false' if table else 'answer: null'}"
        )
    if labelled and ("question" in row) != ("answer" in checked):
        errors.append("question and answer must be given together")
    if not labelled and row.get("split", "train") != "train":
        errors.append(f"the row is unlabelled in the split {shown(row['split'])}: it cannot be evaluated, allowed split: train")
    if "choices" in row:
        checked["choices"] = _try(errors, _choices, row["choices"], table)
        if "question" not in row:
            errors.append("choices are given without a question")
    for name in ("offset", "duration", "end", "sample_rate_hz", "channels", "num_samples"):
        if name in row:
            checked[name] = _try(errors, _number, name, row[name])
    if "channel" in row:
        checked["channel"] = _try(errors, _channels, row["channel"])
    if errors:
        raise ValueError("; ".join(errors))
    segment = _segment(checked)
    if segment:
        checked["segment"] = segment
    return checked


def _is_labelled(row: Row) -> bool:
    """Return whether a row has, or must have, an answer.

    Raises:
        ValueError: `labelled` is no truth value, or contradicts the row.
    """
    answered = row.get("answer") is not None or "transcription" in row
    stated = row.get("labelled")
    if isinstance(stated, str):
        stated = _LABELLED.get(stated.lower(), stated)
    if stated is not None and not isinstance(stated, bool):
        raise ValueError(f"labelled is {shown(stated)}, allowed: true, false")
    if stated is False and answered:
        raise ValueError("labelled is false, but an answer or a transcription is given; remove one of them")
    return answered or stated is True or (stated is None and "answer" not in row)


def shown(value: Any, limit: int = _SHOWN) -> str:
    """Return a value for a message: at most `limit` characters, and without lone surrogates."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):
        # An integer of more than 4,300 digits has no decimal form.
        return f"a {type(value).__name__} that is too large"
    text = text.encode("utf-8", "backslashreplace").decode()
    return text if len(text) <= limit else f"{text[:limit]}…"


def check_characters(name: str, text: str) -> None:
    """Refuse text with a lone surrogate or a control character other than a tab or a line end.

    Raises:
        ValueError: the text contains one. The message names the field and the character.
    """
    found = _INVALID.search(text)
    if found is None:
        return
    code = ord(found[0])
    if 0xD800 <= code <= 0xDFFF:
        raise ValueError(f"{name} contains the lone surrogate U+{code:04X}, which is not a character: {shown(text)}")
    raise ValueError(f"{name} contains the control character U+{code:04X}: {shown(text)}")


def _try(errors: list[str], check: Any, *arguments: Any) -> Any:
    try:
        return check(*arguments)
    except ValueError as error:
        errors.append(str(error))
        return None


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        hint = "; write it in quotation marks" if isinstance(value, int | float) else ""
        raise ValueError(f"{name} is {shown(value)}, allowed: text{hint}")
    check_characters(name, value)
    text = unicodedata.normalize("NFC", value).strip()
    if is_blank(text):
        raise ValueError(f"{name} is {ascii(value)[:_SHOWN]}, allowed: text that is not blank")
    return text


def _integer_text(value: int) -> Any:
    try:
        return str(value)
    except ValueError:
        return value


def _choices(value: Any, table: bool) -> list[str]:
    if table:
        assert isinstance(value, str)
        if value.startswith(("[", "{")) or "|" not in value:
            raise ValueError(f"choices is {shown(value)}, allowed: at least two texts, separated by |")
        value = value.split("|")
    if not isinstance(value, list) or not all(isinstance(choice, str) for choice in value):
        raise ValueError(f"choices is {shown(value)}, allowed: a list of texts")
    if not value:
        raise ValueError("choices is [], allowed: a list of texts; leave it out for an open question")
    return [_text(f"choice {number}", choice) for number, choice in enumerate(value, 1)]


def _number(name: str, value: Any) -> float:
    unit = {"sample_rate_hz": "Hz", "channels": "channels", "num_samples": "samples"}.get(name, "seconds")
    number = math.nan
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
    elif isinstance(value, str) and _NUMBER.fullmatch(value.strip()):
        number = float(value)
    else:
        raise ValueError(f"{name} is {shown(value)}, not a number of {unit}")
    if not math.isfinite(number):
        raise ValueError(f"{name} is {shown(value)}, allowed: a finite number of {unit}")
    if number > _LARGEST:
        raise ValueError(f"{name} is {shown(value)}, allowed: at most {_LARGEST:g} {unit}")
    if number < 0 or (number == 0 and name != "offset"):
        raise ValueError(f"{name} is {shown(value)}, allowed: {'0 or more' if name == 'offset' else 'more than 0'} {unit}")
    return number


def _channels(value: Any) -> tuple[int, ...] | None:
    """Return the indices of the channels; None for the average of all, which every reader of a clip computes."""
    if value == AVERAGE:
        return None
    values = value if isinstance(value, list) else [value]
    indices = []
    for item in values:
        if isinstance(item, str) and re.fullmatch(r"\d{1,4}", item.strip(), re.ASCII):
            item = int(item)
        if not isinstance(item, int) or isinstance(item, bool) or not 0 <= item < 10_000:
            raise ValueError(f"channel is {shown(value)}, allowed: an index from 0, a list of indices, or {AVERAGE!r}")
        indices.append(item)
    if not indices or len(set(indices)) < len(indices):
        raise ValueError(f"channel is {shown(value)}, allowed: different indices from 0")
    return tuple(indices)


def _segment(row: Row) -> Segment | None:
    """Return the segment that a row means. A duration without a start is that of the whole file."""
    if not ({"offset", "end"} & set(row)) and row.get("channel") is None:
        return None
    start = row.get("offset", 0.0)
    end = row.get("end")
    duration = row.get("duration") if "offset" in row or "end" in row else None
    if end is not None:
        if end <= start:
            raise ValueError(f"end is {end:g}, allowed: more than the start, {start:g} s")
        if duration is not None and abs(start + duration - end) > 0.02:
            raise ValueError(f"end is {end:g}, but start and duration give {start + duration:g} s; remove one of them")
    return Segment(start, None if end is not None else duration, end, row.get("channel"))
