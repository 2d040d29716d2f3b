"""Whether the answer of a cold load is a real answer: text for a person, not control text of a chat template."""

from __future__ import annotations

import re
import unicodedata

_ROLES = r"(?:user|assistant|system|im_start|im_end|endoftext)"
_CONTROL = re.compile(
    r"<\|[^<>|\s]*\|>"  # <|im_end|>, <|AUDIO|>
    r"|</?(?:s|unk|pad|bos|eos|mask|sound|audio|image|video|think|user|assistant|system|[a-z]+_\w+|[a-z]+\d+|0x[0-9a-f]{2})>"
    r"|\[/?(?:INST|PAD|CLS|SEP|MASK|UNK|UNUSED\d*)\]|<<?/?SYS>?>",
    re.IGNORECASE,
)
_ROLE_LINE = re.compile(
    rf"^\W*(?:{_ROLES}(?:\W+{_ROLES})+\b|(?:user|assistant|im_start|im_end|endoftext)\W*$|{_ROLES}\s*:)",
    re.IGNORECASE,
)
"""A line that is a role, or begins with several roles, or with a role and a colon: the model continued the chat template itself."""


def answer_problem(answer: str) -> str:
    """Return why a text is not a real answer, as a clause that follows the text in a sentence; empty if it is one."""
    text = answer.strip()
    if not text:
        return "is empty"
    if found := _CONTROL.search(text):
        return f"contains the control text {found[0]!r}"
    if any(unicodedata.category(character) in ("Cc", "Cs") and character not in "\n\r\t" for character in text):
        return "contains control characters"
    if "\N{REPLACEMENT CHARACTER}" in text:
        return "contains bytes that are not text"
    if not any(character.isalnum() for character in text):
        return "is only punctuation"
    lines = text.splitlines()
    # "system" alone can be an answer; as one of several lines it is a role.
    if any(_ROLE_LINE.match(line) or (len(lines) > 1 and line.strip().lower() == "system") for line in lines):
        return "contains words of the chat template"
    return ""
