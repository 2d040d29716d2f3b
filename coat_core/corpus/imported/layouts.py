"""Layouts of rows: NeMo manifests, Hugging Face audio folders, and chat rows of ms-swift and LLaMA-Factory.

Every layout becomes one set of keys (`KEYS`). A key that the importer does not know is ignored and counted, unless its name says that
it changes the audio or the question: such a row is refused, because its clip or question would be another one without an error.
"""

from __future__ import annotations

import re
from typing import Any

from coat_core.corpus.imported.chats import is_chat, read_chat
from coat_core.corpus.imported.lines import Row
from coat_core.corpus.imported.rows import shown

AUDIO_KEYS = ("audio_filepath", "file_name", "audio", "audio_path")
_ALIASES = {
    **dict.fromkeys(AUDIO_KEYS, "audio"),
    "text": "transcription",
    "transcription": "transcription",
    "transcript": "transcription",
    "start": "offset",
    "start_time": "offset",
    "begin": "offset",
    "end_time": "end",
    "channel_selector": "channel",
    "license": "licence",
    "labelled": "labelled",
    "labeled": "labelled",
}
_OWN = ("question", "answer", "choices", "split", "group", "family", "task", "id", "source")
_TIMES = ("offset", "duration", "end", "channel")
_FACTS = {
    **dict.fromkeys(("sample_rate", "sampling_rate", "samplerate", "sample_rate_hz"), "sample_rate_hz"),
    **dict.fromkeys(("channels", "num_channels", "n_channels"), "channels"),
    **dict.fromkeys(("num_samples", "n_samples"), "num_samples"),
}
"""Keys that state a fact of the file. A row whose fact differs is refused."""
_KNOWN = {**_ALIASES, **{key: key for key in (*_OWN, *_TIMES, "licence")}, **_FACTS}
_SOUND = re.compile(
    "starts?|stop|begin|ends?|onsets?|offsets?|segments?|interval|crop(ped)?|trim(med)?|cuts?|seek|skip|frames?|samples?|channels?|speed|"
    "tempo|gain|volume|sox|resampl(e|ing)|augment(ation)?s?|perturb(ation)?|stret.*"
)
"""Words in a key that names a change of the audio."""
_SOUND_KEYS = re.compile(
    "from|to|until|rate|pitch(_?(shift|factor))?|effects?|fade(_(in|out))?|reverse|noise|reverb|normali[sz]e|(low|high|band)pass|denoise"
)
"""Whole keys that name a change of the audio; in longer keys these words describe the clip."""
_QUESTION = re.compile("prompt|instructions?|context|query|input|system|history|options?|choice")
"""First words of keys that name a part of the question."""
_NAMES = re.compile(r"(^|_)(id|ids|name|names|label|labels|hash|text)$")
"""Ends of keys that only name or describe, such as `segment_id`."""
_CODING = re.compile("bits?_per_sample|sample_?(width|format|fmt|bits|size)|channel_layout")
"""Keys that describe how the samples are stored."""


def standard_row(row: Row) -> tuple[Row, list[str]]:
    """Return the row with the standard keys, and the keys that are ignored.

    Raises:
        ValueError: keys contradict each other, or change the audio or the question in a way that is not supported.
    """
    for key in row:
        _check_key(key)
    ignored: list[str] = []
    if is_chat(row):
        row, ignored = read_chat(row)
    standard: Row = {}
    origins: dict[str, str] = {}
    for key, value in row.items():
        name = _KNOWN.get(key)
        if name is None or (key in _FACTS and isinstance(value, list)):
            _check_unknown(key, value)
            ignored.append(key)
            continue
        if name in standard and not _same(standard[name], value):
            raise ValueError(f"{origins[name]} is {shown(standard[name])} and {key} is {shown(value)}: they must be equal; remove one")
        standard[name], origins[name] = value, key
    if "question" in standard and standard.get("answer") is not None and "transcription" in standard:
        ignored.append(origins["transcription"])
    return standard, ignored


def _check_key(key: str) -> None:
    if any("\ud800" <= character <= "\udfff" for character in key):
        raise ValueError(f"the key {key!a} contains a lone surrogate, which is not a character")
    simple = re.sub(r"[^a-z0-9]+", "_", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", key.strip()).lower()).strip("_")
    if key not in _KNOWN and simple in _KNOWN:
        raise ValueError(f"the key {shown(key)} is not known; write {simple!r}")


def _check_unknown(key: str, value: Any) -> None:
    """Refuse an unknown key that may change the audio or the question.

    Raises:
        ValueError: the words of the key name a change of the audio or the question.
    """
    words = re.findall(r"[a-z]+", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", key).lower())
    if value in ([], {}, "") or _NAMES.search(key.lower()) or _CODING.fullmatch(key.lower()):
        return
    if any(map(_SOUND.fullmatch, words)) or _SOUND_KEYS.fullmatch(key.lower()):
        raise ValueError(
            f"the key {shown(key)} (value {shown(value)}) may change the audio and is not supported, allowed: offset, duration, end "
            "(seconds), channel (from 0); convert the files, or remove the key if it changes nothing"
        )
    if words and _QUESTION.fullmatch(words[0]):
        raise ValueError(
            f"the key {shown(key)} (value {shown(value)}) may change the question, allowed: question, choices; rename or remove the key"
        )


def _same(one: Any, other: Any) -> bool:
    try:
        return one == other or float(one) == float(other)
    except (TypeError, ValueError, OverflowError):
        return False
