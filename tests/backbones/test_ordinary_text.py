"""Ids of ordinary text equal those of stock `apply_chat_template` and the tokenizer; blank and invalid text is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example as case
from hypothesis import given, settings
from hypothesis import strategies as st

from coat_core.backbones.base import Backbone
from coat_core.backbones.catalogue import load_backbone
from coat_core.corpus.normal_form import is_blank
from coat_core.errors import BackboneError
from tests.conftest import BACKBONE_KEYS, TEXTS
from tests.testing.prompting import PLACEMENTS, ids_of, query, stock_prompt, with_block

BLANK = {
    "empty": "",
    "space": "  ",
    "lines": "\r\n\t\n",
    "no-break space": "\u00a0\u3000",
    "zero width": "\u200b\u200d\u2060",
    "byte order mark": "\ufeff",
    "direction marks": "\u200e\u202e",
    "soft hyphen": "\u00ad",
    "variation selector": "\ufe0f",
    "Hangul filler": "\u3164",
    "Braille blank": "\u2800",
    "control characters": "\x00\x07",
}


def assert_stock_ids(backbone: Backbone, text: str) -> None:
    stock = stock_prompt(backbone, text)
    end = backbone.tokenizer(text + backbone.end_of_turn, add_special_tokens=False)["input_ids"]
    assert ids_of(backbone, text) == (stock, [])
    assert ids_of(backbone, text, text) == (stock, end)


def edge_texts() -> list[str]:
    """Return questions and words, with starts and ends that merge with the template's text before and after them."""
    words = [word for text in TEXTS for word in text.split()]
    return [f"{text}{end}" for text in [*TEXTS, *words] for end in ("", ".", "?", "\n", " ", "\n\nx", " 12", "'s")] + [
        f"{start}{text}" for text in TEXTS for start in ("\n", " ", "\n\n", "\t", "'s ", ".", "1", "\u200b", "\u0301")
    ]


@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("key", BACKBONE_KEYS)
def test_ids_of_ordinary_text_are_those_of_the_stock_template(key: str, tiny_bases: dict[str, Path], placement: str) -> None:
    backbone, _ = with_block(key, str(tiny_bases[key]), placement)
    for text in edge_texts():
        assert_stock_ids(backbone, text)


@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("key", BACKBONE_KEYS)
def test_ids_of_any_text_without_control_text_are_those_of_the_stock_template(
    key: str, tiny_bases: dict[str, Path], placement: str
) -> None:
    backbone, _ = with_block(key, str(tiny_bases[key]), placement)
    tokens = backbone.tokenizer.get_added_vocab()

    @settings(max_examples=200, deadline=None)
    @given(st.text(st.characters(codec="utf-8"), max_size=40).filter(lambda text: not is_blank(text)))
    @case("\n\nWhat?\n\n")
    @case(" e\u0301\u0301<|im_end| |>")
    @case("<|x|>|im_end|>")
    def check(text: str) -> None:
        if not any(token in text for token in tokens):
            assert_stock_ids(backbone, text)

    check()


@pytest.mark.parametrize("filter_", ["trim", "string"])
def test_a_template_may_trim_the_question(tiny_bases: dict[str, Path], filter_: str) -> None:
    backbone = load_backbone("qwen2_5_omni", str(tiny_bases["qwen2_5_omni"]))
    backbone.tokenizer.chat_template = backbone.tokenizer.chat_template.replace("part['text']", f"part['text'] | {filter_}")
    for text in ("  What?\n", "What?", "\n What is it? "):
        assert ids_of(backbone, text)[0] == stock_prompt(backbone, text)


@pytest.mark.parametrize("filter_", ["upper", "e", "tojson", "reverse", "length", "replace('&', '')"])
def test_a_template_that_changes_the_question_is_refused(tiny_bases: dict[str, Path], filter_: str) -> None:
    backbone = load_backbone("qwen2_5_omni", str(tiny_bases["qwen2_5_omni"]))
    backbone.tokenizer.chat_template = backbone.tokenizer.chat_template.replace("part['text']", f"part['text'] | {filter_}")
    with pytest.raises(BackboneError, match=r"row-7.*question.*chat_template"):
        ids_of(backbone, "What is it?")


@pytest.mark.parametrize("text", BLANK.values(), ids=BLANK.keys())
def test_a_blank_question_or_answer_is_refused_by_name(backbone: Backbone, text: str) -> None:
    for generation in (True, False):
        with pytest.raises(BackboneError, match=r"row-7: the question is blank"):
            backbone.encode([query("What?"), query(text)], generation=generation)
    with pytest.raises(BackboneError, match=r"row-7: the answer is blank"):
        backbone.encode([query("What?", text)])
    backbone.encode([query("What?", text)], generation=True)


@pytest.mark.parametrize("text", ["What\ud83d?", "\udce9 in a name", "\ude00\ud83d reversed"])
def test_half_of_a_surrogate_pair_is_refused_by_name(backbone: Backbone, text: str) -> None:
    with pytest.raises(BackboneError, match=r"row-7: the question is not valid Unicode.*U\+D"):
        backbone.encode([query(text)], generation=True)
    with pytest.raises(BackboneError, match=r"row-7: the answer is not valid Unicode.*U\+D"):
        backbone.encode([query("What?", text)])


@pytest.mark.parametrize("text", ["?", "\u266a", "\U0001f514", "\u97f3", "\u200b7\u200b", "e\u0301"])
def test_a_question_of_one_visible_character_is_accepted(backbone: Backbone, text: str, make_query: Callable[..., Any]) -> None:
    backbone.encode([make_query(8_000, text)], generation=True)
