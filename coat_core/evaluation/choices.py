"""The option that a response to a multiple-choice question names.

A response counts for a choice only if it says that choice and no other. Everything else is unscored: a wrong reading would count as
an answer. Rules, in order:

1. The whole response, without markup, is the text of an option, alone or after a phrase such as "The answer is".
2. Options are found by their text, as whole words, and by their letter. A text within the text of a longer option does not count. A
   letter counts in brackets ("(b)"), after "answer", "option" or "choice", at the start ("b."), or as a capital in the place of
   an answer ("I choose B", "B is correct"). An article ("A dog"), a note ("B flat") and an apostrophe ("can't") do not.
   Letters are not used if an option is itself a letter or a note.
3. A function word ("can", "it"), "no", or a letter elsewhere ("vitamin C") is not an answer, but it can contradict one. "no"
   is an answer at the start of a response ("No, it is not").
4. Two options: unscored. One option together with a negation, an alternative or a condition, or in a question: unscored.
5. An option with a number must be the only number, and not a bound ("at least 2"). If no text is found, a number in digits or words
   is compared with the numbers of the options. Units, ranges, times and notes have one spelling ("10 s", "10 seconds").
6. Labels of the options ("(A) cat") are their letters.
7. In a response of more than 16 words the first sentence must name the option.

Kinds of wrong readings in other harnesses: negation (ds4 #321), "no" in other words (POPE #19), letters in explanations (opencompass
#2647), letters behind markup (omlx #3668).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from coat_core.corpus.normal_form import fold_characters, normalise_option
from coat_core.corpus.numerals import UNCLEAR, is_bound, numbers_in, parse_number, split_units
from coat_core.evaluation.notation import letters_of_numbers, one_spelling, quantity, split_labels, states
from coat_core.evaluation.statements import abstains, asks, denies, doubts, fold_lines, strip_markup

MAX_PHRASE_WORDS = 16
"""In a longer response the first sentence must name the option."""

_FUNCTION_WORDS = frozenset(
    ("an", "the", "i", "it", "is", "are", "was", "be", "am", "can", "could", "may", "might", "will", "would", "shall", "should", "must",
     "do", "does", "did", "have", "has", "had", "of", "to", "and", "or", "not", "no", "none", "neither", "nor", "cannot", "can't",
     "this", "that", "there", "you", "he", "she", "we", "they", "if", "but", "as")
)  # fmt: skip
_OTHER = -1
"""Stands for a letter beyond the options."""

_LEAD = re.compile(
    r"(?:[(\[]?[a-z][).:\]]+\s+)?\W*(no|nope|false|incorrect)"
    r"(?=\W*$|\s*[,.;:!\n]|\s+-\s|\s+(?:no|it|there|they|he|she|this|that|these|those|we|i)\b)"
)
"""A negative answer at the start; the negation that follows agrees with it."""
_SYNONYMS = {"nope": "no", "yeah": "yes", "yep": "yes", "yup": "yes"}
_FRAME = re.compile(
    r"(?:(?:so|well|okay|ok|sure|therefore|thus),? )?(?:(?:the |my )?(?:correct |right |final |best )?(?:answer|option|choice|letter)"
    r"(?: is| would be| should be| must be)?[ \n]?[:=]?|i(?: would|'d)? (?:think|say|believe|guess|choose|pick|select)"
    r"(?: that)?(?: it is| it's)?|it is|it's|this is|that is|that's)[ \n]"
)
_NOTE = r"[ -]?(?:flat|sharp|natural|major|minor|♭|♯|#)(?!\w)"
_LETTER_OPTION = re.compile(
    rf"[a-z]|.*(?<![\w'])(?:[b-hj-z](?![\w'])|[a-g](?:\d|{_NOTE})).*|.*(?<![\w'])[a-z]",
    re.DOTALL,
)
_LETTER = re.compile(rf"(?<![\w#♯♭])(?<!\w['.-])([A-Za-z])(?![\w#♯♭]|['.-]\w|{_NOTE})", re.IGNORECASE)
_ARTICLE = re.compile(r"[^\S\n]+(?!(?:is|or|and|was|because|since|as)\b)\w")
_OPENING, _CLOSING = ("(", "[", "{", "【"), (")", "]", "}", "】")
_NAMED = re.compile(
    r"\b(?:answers?|options?|choices?|letters?)(?:\s+(?:is|are|was|would be|should be|must be))?"
    r"(?:\s+(?:clearly|probably|likely|definitely))?\s*[:=>-]*\s*[\"'(\[]*"
)
_LEADING = re.compile(r"[.):\]](?!\w)|[\"']?\s*$|\n|\s+-\s")
_CORRECT = re.compile(r"\s+is\s+(?:the\s+)?(?:correct|right|best|answer)\b")
_BEFORE_CAPITAL = re.compile(
    r"(?:^|[.:;,!?()\[\]\"'/=>&|\n-]|\b(?:is|s|be|choose|pick|select|say|with|either|or|and|not|than|both|neither|nor|think|guess|believe|for)"
    r"\s)\s*$"
)
_AFTER_CAPITAL = re.compile(r"\s*(?:$|[.:;,!?()\[\]\"'/&|\n-]|(?:is|was|because|since|as|or|and|seems?|matches|fits)\b)")
_POSITION = re.compile(r"\b(?:option|choice)s? #?\d")
_SENTENCE_END = re.compile(r"(?<=[.!?])\s|\n")
_MARKUP = re.compile(r"[*_`<>\\$]|^#")
_LABEL_ONLY = re.compile(r"[(\[]?([a-z])[)\].:]+")
_LETTER_ONLY = re.compile(r"\W*[A-Za-z]\W*")


@dataclass(frozen=True)
class NoChoice:
    """Why a response names no single option."""

    reason: str


@dataclass
class _Mentions:
    """Indices of the options that a text names, and of those that it may name."""

    text: set[int]
    letters: set[int]
    weak: set[int]
    rest: str
    """The text without the options, in lower case."""

    @property
    def strong(self) -> set[int]:
        return self.text | self.letters


def choose(options: Sequence[str], response: str) -> int | NoChoice:
    """Return the index of the option that a response names, or why there is none; options are as `normalise_option` returns them."""
    text = normalise_option(response)
    if not text:
        return NoChoice("empty response")
    if text in options:
        return options.index(text)
    # An option with characters of markup is searched in the response as it is.
    clean = fold_lines(response if any(map(_MARKUP.search, options)) else strip_markup(response))
    text = normalise_option(clean)
    if not text:
        return NoChoice("empty response")
    if text in options:
        return options.index(text)
    if labels := split_labels(options):
        order, texts, numbered = labels
        if (label := _LABEL_ONLY.fullmatch(clean.casefold())) and (place := ord(label[1]) - ord("a")) < len(order):
            return order[place]
        chosen = _choose(texts, letters_of_numbers(texts, clean) if numbered else clean)
        return chosen if isinstance(chosen, NoChoice) else order[chosen]
    return _choose(options, clean)


def _choose(options: Sequence[str], clean: str) -> int | NoChoice:
    spell = one_spelling(options)
    options, clean = [spell(option) for option in options], spell(clean)
    clean = re.sub(r"^\w+", lambda m: _synonym(options, m[0]), clean)
    if (text := normalise_option(clean)) in options:
        return options.index(text)
    frame = _FRAME.match(clean.casefold())
    if frame and (core := normalise_option(clean[frame.end() :])) in options and not _POSITION.search(clean.casefold()):
        return options.index(core)
    return _search(options, clean)


def _synonym(options: Sequence[str], word: str) -> str:
    meant = _SYNONYMS.get(word.casefold(), word)
    return word if word.casefold() in options or meant not in options else meant


def _search(options: Sequence[str], clean: str) -> int | NoChoice:
    lower = clean.casefold()
    found = _mentions(options, clean)
    frame = _FRAME.match(lower)
    no = _lead(options, lower, frame.end() if frame else 0)
    if no is not None:
        found.text.add(no)
    named = found.strong | found.weak
    if len(named) > 1:
        if found.letters and found.text and not found.letters & found.text:
            return NoChoice("its letter and its text name different options")
        return NoChoice("names more than one option")
    if len(clean.split()) > MAX_PHRASE_WORDS and not _first_sentence_names(options, clean, named):
        return NoChoice(f"longer than {MAX_PHRASE_WORDS} words, and its first sentence names no option")
    if asks(lower):
        return NoChoice("asks a question")
    if not named:
        return _search_number(options, lower)
    (index,) = named
    if index == _OTHER or not found.strong:
        return NoChoice("names no option")
    negative = abstains(found.rest) if no is not None else denies(found.rest)
    if negative or doubts(found.rest):
        return NoChoice("names an option next to a negation or an alternative")
    if index in found.text and (numbers := set(numbers_in(options[index]))):
        if is_bound(found.rest) or is_bound(lower) or _POSITION.search(lower):
            return NoChoice("gives a bound or a position instead of a number")
        if set(numbers_in(clean)) != numbers:
            return NoChoice("contains another number")
    return index


def _first_sentence_names(options: Sequence[str], clean: str, named: set[int]) -> bool:
    first = _SENTENCE_END.split(clean, maxsplit=1)[0]
    if _LETTER_ONLY.fullmatch(first) and len(first) < len(clean):
        first = clean[: len(first) + 1]
    if len(first.split()) > MAX_PHRASE_WORDS:
        return False
    return _mentions(options, first).strong == named or named == {_lead(options, first.casefold())}


def _lead(options: Sequence[str], lower: str, start: int = 0) -> int | None:
    """Return the index of the negative option ("no", "false") at the start of a response."""
    match = _LEAD.match(lower, start)
    word = "no" if match and match[1] == "nope" else match and match[1]
    return options.index(word) if word in options else None


def _mentions(options: Sequence[str], clean: str) -> _Mentions:
    text, weak, rest = _text_mentions(options, clean)
    letters: set[int] = set()
    if not any(_LETTER_OPTION.fullmatch(option) for option in options):
        letters, others = _letter_mentions(len(options), clean)
        weak |= others
    return _Mentions(text, letters, weak, rest)


def _text_mentions(options: Sequence[str], clean: str) -> tuple[set[int], set[int], str]:
    """Return the options whose text occurs, the function words among them, and the text without them."""
    lower = split_units(fold_characters(clean.casefold()))
    spans = []
    for index, option in enumerate(options):
        if not option or option in options[:index]:
            continue
        spans += [(*match.span(), index) for match in re.finditer(_pattern(split_units(option)), lower)]
    outer = [s for s in spans if not any(o[0] <= s[0] and s[1] <= o[1] and o[1] - o[0] > s[1] - s[0] for o in spans)]
    named = {index for _, _, index in outer}
    weak = {index for index in named if all(word in _FUNCTION_WORDS for word in options[index].split())}
    rest = lower
    for begin, end, _ in sorted(outer, reverse=True):
        rest = f"{rest[:begin]} · {rest[end:]}"
    return named - weak, weak, rest


def _pattern(option: str) -> str:
    # '#', '-' and an apostrophe within a word are part of it: "C" does not occur in "C#", "A" in "A-flat", "can" in "can't";
    # a point, comma, colon or slash between digits is part of the number: "3" does not occur in "3.5", "1" in "1,200".
    words = r"\s+".join(map(re.escape, option.split()))
    before = r"(?<![\w#♯♭-])(?<!\w')" if re.match(r"\w", option) else ""
    after = r"(?![\w#♯♭]|-\w|'\w)" if re.search(r"\w$", option) else ""
    before += r"(?<!\d[.,:/])(?<!(?<!\.)\.)" if option[0].isdecimal() else ""
    after += r"(?![.,:/]\d)" if option[-1].isdecimal() else ""
    after += r"(?!\w)" if option[-1] in "#♯♭" else ""
    after += rf"(?!{_NOTE})" if len(option) == 1 and option.isalpha() else ""
    after += rf"(?!{_ARTICLE.pattern})" if option == "a" else ""
    return f"{before}{words}{after}"


def _letter_mentions(count: int, clean: str) -> tuple[set[int], set[int]]:
    """Return the options named by their letter, and those whose letter occurs elsewhere; `_OTHER` for a letter beyond them."""
    strong: set[int] = set()
    weak: set[int] = set()
    for match in _LETTER.finditer(clean):
        letter, before, after = match[1].casefold(), clean[: match.start()].casefold(), clean[match.end() :].casefold()
        opened = before.endswith(_OPENING) and not before[-2:-1].isalnum()
        bracketed = after.startswith(_CLOSING) and (opened or not before[-1:].strip())
        article = letter in "ai" and _ARTICLE.match(after) is not None
        if article and not bracketed:
            continue
        named = re.search(rf"{_NAMED.pattern}$", before[-60:]) is not None
        leading = not re.search(r"\w", before) and _LEADING.match(after) is not None
        marked = bracketed or named or leading
        if letter == "i" and not marked:
            continue
        capital = match[1].isupper() and _BEFORE_CAPITAL.search(before[-20:]) and _AFTER_CAPITAL.match(after)
        index = ord(letter) - ord("a")
        if index >= count:
            strong |= {_OTHER} if marked else set()
        elif marked or capital or _CORRECT.match(after):
            strong.add(index)
        else:
            weak.add(index)
    return strong, weak - strong


def _search_number(options: Sequence[str], lower: str) -> int | NoChoice:
    """Return the option equal to the only number of a text ("two" for "2", "3" for "3 beeps" if all options have that unit)."""
    found = numbers_in(lower)
    if not found:
        return NoChoice("names no option")
    if UNCLEAR in found or len(set(found)) > 1:
        return NoChoice("contains more than one number or an unclear one")
    if denies(lower) or doubts(lower) or is_bound(lower) or _POSITION.search(lower):
        return NoChoice("names no option: a number next to a negation, a bound or an alternative")
    values = [parse_number(option) for option in options]
    quantities = [quantity(option) for option in options]
    if parse_number(lower) is not None and None not in quantities and len({unit for _, unit in filter(None, quantities)}) == 1:
        values = [pair and pair[0] for pair in quantities]
    equal = [index for index, value in enumerate(values) if value == found[0]]
    equal = equal or [index for index, pair in enumerate(quantities) if pair and pair[0] == found[0] and states(lower, *pair)]
    return equal[0] if len(equal) == 1 else NoChoice("names no option")
