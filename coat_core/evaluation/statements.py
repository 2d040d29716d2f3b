"""What a response says, apart from the option or number in it: its markup, negations and alternatives, questions, abstentions."""

from __future__ import annotations

import re

from coat_core.corpus.normal_form import fold_characters

_REASONING = re.compile(r"<(think|thinking|reasoning)>.*?</\1>", re.DOTALL | re.IGNORECASE)
_ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL | re.IGNORECASE)
_TAG = re.compile(r"</?[A-Za-z][^<>]*>")
_LATEX_TEXT = re.compile(r"\\(?:text|textbf|mathrm|mathbf)\s*\{([^{}]*)\}")
_LATEX_LETTER = re.compile(r"(?<![\w$])\$\s*([A-Za-z])\s*\$(?![\w$])")
_BOXED = re.compile(r"\\boxed\s*\{([^{}]*)\}")
_CODE = re.compile(r"(?<!\w)`+([^`]*)`+(?!\w)")
_EMPHASIS = re.compile(r"\*+|(?<![^\W_])_+|_+(?![^\W_])|^[ \t]*#+[ \t]+", re.MULTILINE)

_DENIALS = frozenset(
    ("no", "not", "never", "none", "nothing", "neither", "nor", "nobody", "cannot", "without", "cant", "isnt", "dont", "doesnt", "didnt",
     "wasnt", "arent", "werent", "wont", "aint", "hasnt", "havent", "couldnt", "wouldnt", "shouldnt")
)  # fmt: skip
_DOUBTS = re.compile(
    r"(?<![\w'])(?:or(?!\s+so\b)|either|if|unless|whether|versus|vs|except|excluding|excludes?|excluded|besides|unlike|unlikely|hardly|scarcely|barely"
    r"|anything|everything|(?:all|any|none|nothing) but|(?:rather|other) than|instead|(?:apart|aside|far) from|opposite|non"
    r"|wrong|incorrect|incorrectly|false|untrue|mistaken|eliminat(?:e|es|ed)|reject(?:s|ed)?|rul(?:e|es|ed|ing)(?: \w+)? out"
    r"|discard(?:s|ed)?|doubt|doubtful|impossible|absent|absence|lacks?|lacking|missing|unable)(?![\w'])|~~|[❌✗✘🚫≠¬]|!="
)
_QUESTION = re.compile(
    r"\W*(?:is|are|was|were|does|do|did|could|can|would|should|might|may|will|has|have|isn't|what|which|who|where|when|why|how)\b.*\?\W*",
    re.DOTALL,
)
_ABSTENTION = re.compile(
    r"\b(?:idea|tell|know|sure|certain|certainty|say|determine|decide|clear|unclear|unsure|uncertain|unknown|sorry|help)\b"
)


def strip_markup(response: str) -> str:
    r"""Return what a response says: without reasoning and other tags, LaTeX and Markdown; `\boxed{B}` becomes "(B)".

    If it has one `<answer>` element, that is the answer.
    """
    text = _REASONING.sub(" ", response)
    if len(answers := _ANSWER.findall(text)) == 1:
        text = answers[0]
    text = _LATEX_LETTER.sub(r"\1", text)
    if "\\" in text:
        text = _BOXED.sub(r" (\1) ", _LATEX_TEXT.sub(r"\1", text)).replace("$", " ")
    return _EMPHASIS.sub("", _CODE.sub(r"\1", _TAG.sub(" ", text)))


def fold_lines(text: str) -> str:
    """Return a text in folded characters with single spaces; line breaks are kept."""
    lines = (" ".join(line.split()) for line in fold_characters(text).splitlines())
    return "\n".join(filter(None, lines))


def denies(text: str) -> bool:
    """Return whether a text contains a negation: "not", "isn't", "never", "without"."""
    words = re.findall(r"[\w']+", text)
    return any(word.strip("'") in _DENIALS or word.endswith("n't") for word in words)


def doubts(text: str) -> bool:
    """Return whether a text contains an alternative, a condition, an exclusion or a rejection: "or", "if", "except", "wrong"."""
    return _DOUBTS.search(text) is not None


def abstains(text: str) -> bool:
    """Return whether a text is about what can be told: "I cannot tell", "no idea"; to be read together with a negation."""
    return _ABSTENTION.search(text) is not None


def asks(text: str) -> bool:
    """Return whether a text is a question: "Is it a cat?"; "a cat?" is not."""
    return _QUESTION.fullmatch(text) is not None
