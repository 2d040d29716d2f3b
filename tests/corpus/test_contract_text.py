"""The data contract compares text as the scorers do: what they cannot tell apart, or cannot score, is set aside by name."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import example as case
from hypothesis import given, settings
from hypothesis import strategies as st

from coat_core.corpus.contract.answers import choices_error, scoring_error
from coat_core.corpus.examples import Example
from coat_core.evaluation.scorers import Score, score
from coat_core.settings import ContractSettings
from coat_core.storage import read_json, read_jsonl
from tests.testing.contract_corpora import Row, run, write_rows

pytestmark = pytest.mark.slow

FOLDED = {
    "final punctuation": ("You are here?", "You are here."),
    "superscript": ("x²", "x2"),
    "punctuation only": ("!", "?"),
    "composed and decomposed": ("caf\u00e9", "cafe\u0301"),
    "case": ("Yes", "yes"),
    "digits and words": ("2", "two"),
    "digits and decimals": ("2", "2.0"),
    "thousands": ("1,000", "1000"),
    "compound number words": ("21", "twenty-one"),
    "spaces": ("dog  bark", "dog bark"),
    "quotes": ('"rain"', "rain"),
    "apostrophes": ("It isn\u2019t a cat", "It isn't a cat"),
    "full width": ("\uff21\uff22", "AB"),
    "ligature": ("\ufb01re", "fire"),
    "zero width": ("rain", "ra\u200bin"),
    "equal": ("rain", "rain"),
    "the first and the last of three": ("rain", "snow", "Rain."),
}
DISTINCT = {
    "sharp": ("C", "C#"),
    "contained": ("dog", "dog bark"),
    "numbers": ("2", "3", "2.5", "-2"),
    "negation": ("yes", "no"),
    "exponents": ("x²", "x³"),
    "letters": ("A", "B", "C"),
    "scripts": ("да", "нет"),
    "number with a unit": ("2 dogs", "3 dogs"),
}
EMPTY_CHOICE = {"punctuation": ("rain", "..."), "blank": ("rain", " "), "zero width": ("rain", "\u200b"), "empty": ("", "rain")}
UNSCORABLE = {
    "filler": "um", "annotation": "[laughter]", "question mark": "?", "noise": "(noise)", "hesitation": "mm-hmm", "music": "♪",
    "dots": "...", "token": "<unk>", "emoji": "😀", "two fillers": "uh, um", "dash": "—",
}  # fmt: skip
SCORABLE = {"filler and word": "um yes", "digit": "3", "Chinese": "你好", "half": "½", "apostrophe": "don’t", "annotated": "[laughs] ok"}
BLANK = {
    "empty": "", "spaces": "  ", "newline": "\n\t", "no-break space": "\u00a0\u3000", "zero width": "\u200b\ufeff", "control": "\x00\x07",
    "joiner": "\u2060", "direction": "\u202e", "variation selector": "\ufe0f", "Hangul filler": "\u3164", "soft hyphen": "\u00ad",
}  # fmt: skip


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """Reasons of the quarantined rows by id, of one corpus with all cases."""
    changes: dict[str, Row] = {f"folded {n}": {"choices": c, "answer": c[0]} for n, c in FOLDED.items()}
    changes |= {f"distinct {n}": {"choices": c, "answer": c[0]} for n, c in DISTINCT.items()}
    changes |= {f"empty {n}": {"choices": c, "answer": "rain"} for n, c in EMPTY_CHOICE.items()}
    changes |= {f"unscorable {n}": {"answer": a} for n, a in UNSCORABLE.items()}
    changes |= {f"transcript {n}": {"answer": a, "family": "transcription"} for n, a in UNSCORABLE.items()}
    changes |= {f"scorable {n}": {"answer": a} for n, a in SCORABLE.items()}
    changes |= {f"blank {n}": {"question": q} for n, q in BLANK.items()}
    changes |= {
        "other case": {"choices": ["Rain", "Snow"], "answer": "rain."},
        "other form": {"choices": ["caf\u00e9", "bar"], "answer": "cafe\u0301"},
        "letter": {"choices": ["cat", "dog"], "answer": "B"},
        "absent": {"choices": ["cat", "dog"], "answer": "bird"},
        "no choice": {"choices": [], "answer": "bird"},
        "one choice": {"choices": ["bird"], "answer": "bird"},
        "short duration": {"duration_s": 0.5},
    }
    folder = tmp_path_factory.mktemp("text")
    run(folder, write_rows(folder, changes), ContractSettings(max_bad_share=1.0, family_imbalance=1000.0))
    accepted = {row["id"]: [] for row in read_jsonl(folder / "accepted.jsonl")}
    return accepted | {row["id"]: row["reasons"] for row in read_jsonl(folder / "quarantine.jsonl")}


@pytest.mark.parametrize("kind", FOLDED)
def test_choices_that_the_scorer_cannot_tell_apart_are_refused_by_name(outcome: dict[str, list[str]], kind: str) -> None:
    (reason,) = outcome[f"folded {kind}"]
    assert reason.startswith("answer_in_choices: ")
    named = FOLDED[kind][:1] if kind == "punctuation only" else (FOLDED[kind][0], FOLDED[kind][-1])
    assert all(repr(choice) in reason for choice in named), reason


@pytest.mark.parametrize("kind", DISTINCT)
def test_distinct_choices_are_accepted(outcome: dict[str, list[str]], kind: str) -> None:
    assert outcome[f"distinct {kind}"] == []


@pytest.mark.parametrize("kind", EMPTY_CHOICE)
def test_a_choice_without_text_is_refused(outcome: dict[str, list[str]], kind: str) -> None:
    assert "contains no text that the scorer compares" in outcome[f"empty {kind}"][0]


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("letter", "the letter of a choice is not its text: write 'dog'"),
        ("absent", "the answer is 'bird', allowed: 'cat', 'dog'"),
        ("no choice", "choices has 0 texts, allowed: at least 2, or null"),
        ("one choice", "choices has 1 text, allowed: at least 2, or null"),
        ("short duration", "a row that means a segment of its file needs `offset`"),
    ],
)
def test_the_reason_says_what_to_do(outcome: dict[str, list[str]], kind: str, words: str) -> None:
    assert words in outcome[kind][0]


@pytest.mark.parametrize("kind", ["other case", "other form"])
def test_the_answer_is_compared_with_the_choices_in_the_normal_form(outcome: dict[str, list[str]], kind: str) -> None:
    assert outcome[kind] == []


@pytest.mark.parametrize("family", ["unscorable", "transcript"])
@pytest.mark.parametrize("kind", UNSCORABLE)
def test_an_answer_without_words_is_set_aside_with_a_reason(outcome: dict[str, list[str]], kind: str, family: str) -> None:
    (reason,) = outcome[f"{family} {kind}"]
    assert reason.startswith("scorable_answer: no response can be scored: ")
    assert repr(UNSCORABLE[kind]) in reason


@pytest.mark.parametrize("kind", SCORABLE)
def test_an_answer_with_words_is_accepted(outcome: dict[str, list[str]], kind: str) -> None:
    assert outcome[f"scorable {kind}"] == []


@pytest.mark.parametrize("kind", BLANK)
def test_a_blank_question_is_refused(outcome: dict[str, list[str]], kind: str) -> None:
    (reason,) = outcome[f"blank {kind}"]
    assert reason.startswith("schema: ")
    assert "empty: question" in reason


SURROGATES: dict[str, Row] = {
    **{name: {name: "a\ud83d b"} for name in ("id", "question", "answer", "group", "task", "source", "licence", "audio", "sha256")},
    "low half": {"question": "\udc80?"},
    "choices": {"choices": ["yes", "no\udfff"], "answer": "yes"},
    "split": {"split": "train\ud800"},
    "family": {"family": "music\ud800"},
    "group_parts": {"group_parts": ["a", "b\ud83d"]},
    "unknown field": {"note": "\ud83d"},
    "name of a field": {"\ud83d": "x"},
    "nested": {"question": {"text": ["\ud83d"]}},
}


@pytest.fixture(scope="module")
def surrogates(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Row]]:
    folder = tmp_path_factory.mktemp("surrogates")
    changes: dict[str, Row] = {kind: {**change, "id": change.get("id", kind)} for kind, change in SURROGATES.items()}
    run(folder, write_rows(folder, {"whole pair": {"question": "😀?"}, **changes}), ContractSettings(max_bad_share=1.0))
    return folder, read_jsonl(folder / "quarantine.jsonl")


@pytest.mark.parametrize("kind", SURROGATES)
def test_a_lone_surrogate_is_refused_by_row(surrogates: tuple[Path, list[Row]], kind: str) -> None:
    line = list(SURROGATES).index(kind) + 2
    (row,) = [row for row in surrogates[1] if row["line"] == line]
    assert row["reasons"][0].startswith(f"schema: line {line}: row ")
    if kind not in ("split", "family", "unknown field", "name of a field", "nested"):
        assert "is the lone surrogate U+D" in row["reasons"][0]


def test_the_records_of_lone_surrogates_can_be_read(surrogates: tuple[Path, list[Row]]) -> None:
    folder, quarantined = surrogates
    assert [row["id"] for row in read_jsonl(folder / "accepted.jsonl")] == ["whole pair"]
    assert quarantined[0]["id"] == quarantined[0]["row"]["id"] == r"a\ud83d b"
    assert read_json(folder / "contract" / "results.json")["read"]["source"][r"a\ud83d b"] == {"read": 1, "accepted": 0, "set_aside": 1}
    assert r"a\ud83d b" in (folder / "contract" / "contract.html").read_text()


def make_example(choices: tuple[str, ...] | None, answer: str) -> Example:
    fields = {"sha256": "0" * 64, "duration_s": 1.0, "sample_rate_hz": 16000, "split": "test", "group": "g", "family": "understanding"}
    text = {"id": "i", "audio": "a", "task": "t", "question": "q", "source": "s", "licence": "l"}
    return Example.model_validate({**fields, **text, "choices": choices, "answer": answer})


NEAR = st.sampled_from(
    ["2", "two", "Two.", "x²", "x2", "!", "yes", "Yes", "no", "ca\u0301", "c\u00e1", "C", "C#", "1,000", "1000", "\u200b"]
)
TEXTS = st.one_of(NEAR, st.text(st.characters(exclude_categories=["Cs"]), max_size=6))


@settings(derandomize=True, deadline=None)
@given(st.lists(TEXTS, max_size=4).map(tuple), st.integers(0, 3))
@case(("You are here?", "You are here."), 0)
def test_every_choice_of_accepted_choices_scores_for_itself_only(choices: tuple[str, ...], place: int) -> None:
    answer = choices[place % len(choices)] if choices else "x"
    example = make_example(choices, answer)
    if choices_error(example) is None:
        results = [score(example, choice) for choice in choices]
        assert [isinstance(result, Score) and result.value for result in results] == [choice == answer for choice in choices]


@settings(derandomize=True, deadline=None)
@given(st.one_of(st.sampled_from(list(UNSCORABLE.values())), st.text(st.characters(exclude_categories=["Cs"]), max_size=8)))
def test_an_accepted_open_answer_scores_one_for_itself(answer: str) -> None:
    example = make_example(None, answer)
    if scoring_error(example) is None:
        result = score(example, answer)
        assert isinstance(result, Score)
        assert result.value == 1.0
