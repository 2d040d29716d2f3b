"""JSON Lines manifests and JSON arrays: invalid lines, several errors, and values of wrong types."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from coat_core.errors import CorpusError
from tests.testing.manifests import corpus_of, import_rows, import_text, write_tones

GOOD = '{"audio_filepath": "a.wav", "text": "x"}'


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write_tones(tmp_path / "data", "a.wav", "b.wav")
    return tmp_path / "data"


INVALID = {
    "cut line": ('{"audio_filepath": "a.w', "line 3, row 2: is not JSON"),
    "two objects on a line": (GOOD + GOOD, "line 3, row 2: is not JSON: Extra data"),
    "duplicate key": ('{"audio_filepath": "a.wav", "text": "x", "text": "y"}', "line 3, row 2: keys occur more than once: 'text'"),
    "array": ('["a.wav", "x"]', "line 3, row 2: is not a JSON object but an array"),
    "text": ('"a.wav"', "line 3, row 2: is not a JSON object but a text"),
    "number": ("7", "line 3, row 2: is not a JSON object but 7"),
    "deep nesting": ('{"a":' * 3000 + "1" + "}" * 3000, "line 3, row 2: is not readable JSON: it is nested too deeply"),
    "number of 5,000 digits": ('{"audio_filepath": "a.wav", "text": "x", "n": ' + "9" * 5000 + "}", "line 3, row 2: Exceeds the limit"),
    "object over several lines": ('{\n "audio_filepath": "a.wav",\n "text": "x"\n}', "line 3, row 2: an object begins that does not end"),
    "single quotes": ("{'audio_filepath': 'a.wav'}", "line 3, row 2: is not JSON"),
    "NaN as text": ('{"audio_filepath": "a.wav", "text": NaN}', "line 3, row 2: transcription is nan"),
    "infinite offset": ('{"audio_filepath": "a.wav", "text": "x", "offset": Infinity}', "line 3, row 2: offset is inf"),
    "true as a number": ('{"audio_filepath": "a.wav", "text": "x", "duration": true}', "line 3, row 2: duration is True"),
}


@pytest.mark.parametrize("kind", INVALID)
def test_an_invalid_line_is_named(data: Path, kind: str) -> None:
    line, words = INVALID[kind]
    with pytest.raises(CorpusError) as raised:
        import_text(data, f"{GOOD}\n\n{line}\n{GOOD}\n")
    assert f"rows.jsonl: {words}" in str(raised.value)
    assert not corpus_of(data).exists()


def test_errors_of_syntax_values_and_files_are_reported_together(data: Path) -> None:
    lines = [GOOD, "{cut", '{"audio_filepath": "none.wav", "text": "x"}', "", '{"audio_filepath": "a.wav", "text": 7}', "[]"]
    with pytest.raises(CorpusError) as raised:
        import_text(data, "\n".join(lines))
    for words in (
        "line 2, row 2: is not",
        "line 3, row 3: audio",
        "line 5, row 4: transcription is 7",
        "line 6, row 5: is not a JSON object",
    ):
        assert words in str(raised.value)


def test_each_error_of_a_row_is_reported(data: Path) -> None:
    row = {"audio_filepath": "none.wav", "text": 7, "split": "dev", "family": "cooking", "duration": "long", "choices": "a|b"}
    with pytest.raises(CorpusError) as raised:
        import_rows(data, [{"audio_filepath": "a.wav", "text": "x"}, row])
    for words in (
        "'none.wav' is missing",
        "transcription is 7",
        "split is 'dev'",
        "family is 'cooking'",
        "duration is 'long'",
        "choices is 'a|b'",
    ):
        assert words in str(raised.value)


@pytest.mark.parametrize("indent", [None, 1])
def test_a_json_array_is_read(data: Path, indent: int | None) -> None:
    rows = [{"audio_filepath": f"{name}.wav", "text": name} for name in "ab"]
    examples = import_text(data, json.dumps(rows, indent=indent), "rows.json")
    assert [example.answer for example in examples] == ["a", "b"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        pytest.param(f"[\n{GOOD},\n7\n]", "line 3, row 2: is not a JSON object but 7", id="number in an array"),
        pytest.param(f"[\n{GOOD},\n{GOOD}\n", "line 4, the JSON array is not closed", id="open array"),
        pytest.param(f"[\n{GOOD}\n{GOOD}\n]", "line 3, the JSON array is not closed, or a comma is missing", id="no comma"),
        pytest.param(f"[{GOOD}]\n{GOOD}\n", "line 2, text follows the JSON array", id="text behind the array"),
        pytest.param("[]", "there are no rows", id="empty array"),
        pytest.param("\n \n", "there are no rows", id="blank file"),
    ],
)
def test_an_invalid_array_is_named_with_its_line(data: Path, text: str, words: str) -> None:
    with pytest.raises(CorpusError) as raised:
        import_text(data, text, "rows.json")
    assert f"rows.json: {words}" in str(raised.value)


@pytest.mark.parametrize("start", ["\ufeff", "\n\n"])
def test_a_byte_order_mark_and_line_ends_are_read(data: Path, start: str) -> None:
    line_separator = '{"audio_filepath": "b.wav", "text": "one\u2028two"}'
    examples = import_text(data, f"{start}{GOOD}\r\n{line_separator}\r{GOOD}")
    assert [example.answer for example in examples] == ["x", "one\u2028two", "x"]


@pytest.mark.parametrize(
    ("row", "words"),
    [
        pytest.param({"question": " ", "answer": "x"}, "question is ' ', allowed: text that is not blank", id="blank question"),
        pytest.param({"question": "\u200b\ufeff", "answer": "x"}, "question is '\\u200b\\ufeff', allowed", id="zero-width question"),
        pytest.param({"question": "Who?", "answer": "\u2060"}, "answer is '\\u2060', allowed", id="zero-width answer"),
        pytest.param({"question": "Who?", "answer": 7}, "answer is 7, allowed: text; write it in quotation marks", id="number as answer"),
        pytest.param({"question": "Who?", "answer": True}, "answer is True, allowed: text", id="truth value as answer"),
        pytest.param({"question": ["Who?"], "answer": "x"}, "question is ['Who?'], allowed: text", id="list as question"),
        pytest.param({"text": "\ud83d"}, "transcription contains the lone surrogate U+D83D", id="surrogate transcript"),
        pytest.param({"question": "\ud83d", "answer": "x"}, "question contains the lone surrogate U+D83D", id="surrogate question"),
        pytest.param({"text": "x", "id": "a\udc00"}, "id contains the lone surrogate U+DC00", id="surrogate id"),
        pytest.param({"text": "x", "\ud83d": 1}, "the key '\\ud83d' contains a lone surrogate", id="surrogate key"),
        pytest.param(
            {"question": "Who?", "answer": "a", "choices": ["a", "\ud83d"]}, "choice 2 contains the lone surrogate", id="surrogate choice"
        ),
        pytest.param({"audio_filepath": "\ud83d.wav", "text": "x"}, "the name of the audio file contains the lone", id="surrogate name"),
        pytest.param({"text": "x\u0000"}, "transcription contains the control character U+0000", id="NUL"),
        pytest.param({"audio_filepath": "a\u0000.wav", "text": "x"}, "the audio file contains the control character", id="NUL in a name"),
        pytest.param({"audio_filepath": "n" * 300, "text": "x"}, "is not the name of a file: file name too long", id="long name"),
        pytest.param({"audio_filepath": ["a.wav"], "text": "x"}, "the audio file is ['a.wav'], allowed", id="list as name"),
        pytest.param({"audio_filepath": "https://x/a.wav", "text": "x"}, "is a URL", id="URL"),
        pytest.param({"audio_filepath": ".", "text": "x"}, "is missing: it is a folder", id="folder"),
        pytest.param({"file_name": "b.wav", "text": "x"}, "audio_filepath is 'a.wav' and file_name is 'b.wav'", id="two names"),
        pytest.param({"text": "x", "transcript": "y"}, "text is 'x' and transcript is 'y'", id="two transcripts"),
        pytest.param({"text": "x", "choices": ["a", "b"]}, "choices are given without a question", id="choices without question"),
        pytest.param({"question": "Who?", "answer": "a", "choices": {"A": "a"}}, "choices is {'A': 'a'}, allowed", id="choices by letter"),
        pytest.param({"question": "Who?", "answer": "a", "choices": ["a", ""]}, "choice 2 is '', allowed", id="blank choice"),
        pytest.param({"question": "Who?", "answer": "a", "options": ["a", "b"]}, "the key 'options'", id="options"),
        pytest.param({"text": "x", "prompt": "Translate."}, "the key 'prompt' (value 'Translate.') may change the question", id="prompt"),
        pytest.param({"text": "x", "id": ""}, "id is ''", id="empty id"),
    ],
)
def test_a_value_that_is_not_right_is_named(data: Path, row: dict[str, Any], words: str) -> None:
    with pytest.raises(CorpusError) as raised:
        import_rows(data, [{"audio_filepath": "a.wav", "text": "x"}, {"audio_filepath": "a.wav", **row}])
    assert "rows.jsonl: line 2, row 2: " in str(raised.value)
    assert words in str(raised.value)
    str(raised.value).encode()


def test_an_id_that_occurs_twice_is_named_with_both_lines(data: Path) -> None:
    rows = [{"audio_filepath": "a.wav", "text": "x", "id": name} for name in ("one", "two", "one")]
    with pytest.raises(CorpusError, match=r"line 3, row 3: id is 'one', which is also the id of rows\.jsonl line 1, row 1"):
        import_rows(data, rows)
