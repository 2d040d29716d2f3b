"""The data contract reports every bad line and row, counts what it read, and takes a group as an opaque string."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from coat_core.corpus.contract.contract import ContractResult
from coat_core.corpus.examples import example_from_row, read_manifest
from coat_core.corpus.imported.corpus import import_corpus
from coat_core.corpus.splits import group_of
from coat_core.errors import CoatError, ContractError, CorpusError
from coat_core.settings import ContractSettings
from coat_core.storage import read_json, read_jsonl, sha256_file
from tests.testing.contract_corpora import LENIENT, STRICT, Row, check, make_corpus, run, write_rows
from tests.testing.recordings import import_settings, write_tone

pytestmark = pytest.mark.slow

EVERYTHING = ContractSettings(max_bad_share=1.0, family_imbalance=1000.0)
BAD_LINES = {
    "not JSON": (b"{not json}", "is not JSON: Expecting property name"),
    "not an object": (b"[1, 2]", "is not a JSON object"),
    "cp1252": (b'{"id": "caf\xe9"}', "is not UTF-8: byte 12 is 0xe9"),
    "cut": (b'{"id": "a", "que', "is not JSON: Unterminated string"),
    "two objects": (b'{"id": "a"} {"id": "b"}', "is not JSON: Extra data"),
    "a key twice": (b'{"answer": "a", "answer": "b"}', "has the key 'answer' twice"),
    "nested": (b"[" * 100_000, "is nested too deeply"),
    "long number": (b'{"duration_s": ' + b"1" * 5000 + b"}", "Exceeds the limit"),
}


def as_lines(rows: list[Row]) -> list[bytes]:
    return [json.dumps(row).encode() for row in rows]


def test_every_line_that_is_not_a_row_is_named(tmp_path: Path) -> None:
    lines = as_lines(write_rows(tmp_path, {"a": {}, "b": {}}))
    lines[1:1] = [data for data, _ in BAD_LINES.values()]
    with pytest.raises(ContractError) as raised:
        check(tmp_path, b"\n".join(lines), EVERYTHING)
    for number, (_, words) in enumerate(BAD_LINES.values(), 2):
        assert f"line {number} {words}" in str(raised.value)
    assert "and" not in str(raised.value).split(";")[-3]


@pytest.mark.parametrize("kind", BAD_LINES)
def test_a_line_that_is_not_a_row_is_named(tmp_path: Path, kind: str) -> None:
    data, words = BAD_LINES[kind]
    with pytest.raises(CoatError) as raised:
        check(tmp_path, b"\n".join([*as_lines(write_rows(tmp_path, {"a": {}})), data]), EVERYTHING)
    assert f"line 2 {words}" in str(raised.value)


def test_only_twenty_lines_are_named(tmp_path: Path) -> None:
    with pytest.raises(ContractError) as raised:
        check(tmp_path, b"x\n" * 25, EVERYTHING)
    assert str(raised.value).count("is not JSON") == 20
    assert "and 5 more lines" in str(raised.value)


def test_a_byte_order_mark_and_empty_lines_are_read(tmp_path: Path) -> None:
    lines = as_lines(write_rows(tmp_path, {"a": {}, "b": {"answer": "um"}}))
    result = check(tmp_path, b"\xef\xbb\xbf\r\n" + lines[0] + b"\r\n\n" + lines[1], EVERYTHING)
    assert (result.accepted, result.quarantined) == (1, 1)
    assert read_jsonl(tmp_path / "quarantine.jsonl")[0]["line"] == 4


def test_the_message_names_up_to_twenty_rows_with_their_lines(tmp_path: Path) -> None:
    changes: dict[str, Row] = {f"ok-{n}": {} for n in range(3)}
    changes |= {f"bad-{n:02d}": {"question": " "} for n in range(25)}
    with pytest.raises(ContractError) as raised:
        run(tmp_path, write_rows(tmp_path, changes), LENIENT)
    message = str(raised.value)
    assert [f"bad-{n:02d} (line {n + 4}): " in message for n in range(25)] == [True] * 20 + [False] * 5
    assert "schema (25 of 28): " in message
    assert "; and 5 more" in message


def test_an_answer_that_cannot_be_scored_is_set_aside_and_is_no_defect(tmp_path: Path) -> None:
    result = run(tmp_path, write_rows(tmp_path, {"a": {}, "b": {"answer": "um"}}), STRICT)
    assert (result.accepted, result.quarantined, result.bad_share) == (1, 1, 0.0)
    assert "set aside: 1 (scorable_answer 1)" in result.summary()


def test_a_corpus_without_an_accepted_row_does_not_pass(tmp_path: Path) -> None:
    with pytest.raises(ContractError, match="no row is valid"):
        run(tmp_path, write_rows(tmp_path, {"a": {"answer": "um"}}), STRICT)


def test_what_was_read_and_set_aside_is_counted_by_family_split_and_source(tmp_path: Path) -> None:
    rows = make_corpus(tmp_path)
    rows[3] |= {"answer": "perhaps", "source": "other"}
    rows[4] |= {"family": 7}
    result = run(tmp_path, rows, LENIENT)
    read = read_json(tmp_path / "contract" / "results.json")["read"]
    assert read["source"] == {
        "made": {"read": 29, "accepted": 28, "set_aside": 1},
        "other": {"read": 1, "accepted": 0, "set_aside": 1},
    }
    assert read["split"]["train"] == {"read": 10, "accepted": 8, "set_aside": 2}
    assert read["family"]["understanding"] == {"read": 6, "accepted": 5, "set_aside": 1}
    assert read["family"]["(not text)"] == {"read": 1, "accepted": 0, "set_aside": 1}
    assert result.summary() == (
        "contract: 30 rows read; family (not text) 1, emotion 6, music 5, reasoning 6, transcription 6, understanding 6; "
        "split test 10, train 10, validation 10; source made 29, other 1; set aside: 2 (schema 1, answer_in_choices 1)"
    )
    assert "<th>source</th>" in (tmp_path / "contract" / "contract.html").read_text()


GROUPS = {
    "noisy": "spk{:02d}+noisy", "clean": "clean+spk{:02d}", "corpus name": "fsdd:s{}+fsdd:shared", "plus only": "+{}+", "C++": "C++ {}",
    "separators": "a{}|x,y;z/w\\v", "Unicode": "é{}+ñ",
}  # fmt: skip


@pytest.mark.parametrize("kind", GROUPS)
def test_a_group_is_an_opaque_string(tmp_path: Path, kind: str) -> None:
    names = [GROUPS[kind].format(number) for number in range(15)]
    source, target = tmp_path / "data", tmp_path / "corpus"
    for number in range(15):
        write_tone(source / f"{number}.wav", 200 + number)
    rows: list[dict[str, Any]] = [{"audio_filepath": f"{n}.wav", "text": "a word", "group": names[n]} for n in range(15)]
    (source / "m.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    import_corpus(import_settings("manifest"), source / "m.jsonl", target)
    assert {example.split for example in read_manifest(target / "manifest.jsonl")} == {"train", "validation", "test"}

    own = [("train", "validation", "test")[number % 3] for number in range(15)]
    (source / "m.jsonl").write_text("".join(json.dumps({**row, "split": split}) + "\n" for row, split in zip(rows, own, strict=True)))
    import_corpus(import_settings("manifest"), source / "m.jsonl", target)
    examples = read_manifest(target / "manifest.jsonl")
    assert [(example.group, example.split) for example in examples] == list(zip(names, own, strict=True))
    result = run(target, [example.to_row() for example in examples], STRICT)
    assert (result.accepted, result.quarantined) == (15, 0)


def crossing(tmp_path: Path, changes: dict[str, Row]) -> tuple[ContractResult, list[str]]:
    rows = write_rows(tmp_path, changes)
    for number, row in enumerate(rows):
        write_tone(tmp_path / "audio" / f"{number}.wav", 300 + number, seconds=1.0)
        row.update(audio=f"audio/{number}.wav")
    for row in rows:
        row["sha256"] = sha256_file(tmp_path / row["audio"])
    result = run(tmp_path, rows, EVERYTHING)
    return result, [reason for row in read_jsonl(tmp_path / "quarantine.jsonl") for reason in row["reasons"]]


def test_the_parts_of_a_composed_group_are_in_one_split(tmp_path: Path) -> None:
    name, parts = group_of(["b", "a", "b"])
    assert (name, parts) == ("a+b", ("a", "b"))
    assert group_of(["a", "a"]) == ("a", None)
    _, reasons = crossing(
        tmp_path,
        {
            "one": {"group": "b"},
            "two": {"group": "b"},
            "composed": {"group": name, "group_parts": list(parts or ()), "split": "test"},
            "the same name, one group": {"group": "a+b", "split": "validation"},
        },
    )
    assert reasons == ["group_in_one_split: group b (its split is train)"]


def test_a_group_in_two_splits_is_found_in_either_unicode_form(tmp_path: Path) -> None:
    _, reasons = crossing(
        tmp_path, {"one": {"group": "Jos\u00e9"}, "two": {"group": "Jos\u00e9"}, "three": {"group": "Jose\u0301", "split": "test"}}
    )
    assert reasons == ["group_in_one_split: group José (its split is train)"]


@pytest.mark.parametrize("parts", [[], ["a"], ["a", "a"], ["a", " "], "a+b", [1, 2]])
def test_invalid_parts_of_a_group_are_refused(tmp_path: Path, parts: Any) -> None:
    (row,) = write_rows(tmp_path, {"a": {}})
    with pytest.raises(CorpusError, match="group_parts"):
        example_from_row({**row, "group_parts": parts})


def test_a_row_without_parts_is_written_as_before(tmp_path: Path) -> None:
    (row,) = write_rows(tmp_path, {"a": {"group": "a+b"}})
    assert example_from_row(row).to_row() == row == example_from_row({**row, "group_parts": None}).to_row()
    composed = example_from_row({**row, "group_parts": ["a", "b"]})
    assert composed.groups == ("a", "b")
    assert example_from_row(composed.to_row()) == composed


def test_a_file_name_that_no_file_system_allows_is_a_missing_file(tmp_path: Path) -> None:
    changes: dict[str, Row] = {
        "ok": {}, "long": {"audio": "a" * 300 + ".wav"}, "deep": {"audio": "a/" * 3000 + "b.wav"}, "nul": {"audio": "a\0.wav"},
        "folder": {"audio": "audio"}, "percent": {"audio": "%s%n{value}.wav"},
    }  # fmt: skip
    result = run(tmp_path, write_rows(tmp_path, changes), EVERYTHING)
    reasons = {row["id"]: row["reasons"] for row in read_jsonl(tmp_path / "quarantine.jsonl")}
    assert result.accepted == 1
    assert reasons.pop("nul") == ["path_inside: the audio path is outside the corpus folder"]
    assert set(map(tuple, reasons.values())) == {("file_present: the audio file is missing",)}


TEXTS = st.text(st.characters(), max_size=5)
VALUES = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), TEXTS, st.lists(TEXTS, max_size=3))
FIELDS = (
    "id", "audio", "sha256", "duration_s", "sample_rate_hz", "split", "group", "group_parts", "family", "question", "choices", "answer",
    "x",
)  # fmt: skip


@settings(derandomize=True, deadline=None, max_examples=4, suppress_health_check=list(HealthCheck))
@given(changes=st.lists(st.dictionaries(st.sampled_from(FIELDS), VALUES, min_size=1, max_size=2), min_size=40, max_size=40))
def test_rows_with_any_values_are_accepted_or_set_aside(tmp_path_factory: pytest.TempPathFactory, changes: list[Row]) -> None:
    folder = tmp_path_factory.mktemp("fuzz")
    rows = write_rows(folder, {"good": {}} | {f"row-{number}": change for number, change in enumerate(changes)})
    result = run(folder, rows, EVERYTHING)
    assert result.accepted + result.quarantined == result.rows == 41
    assert len(read_jsonl(folder / "quarantine.jsonl")) == result.quarantined
    assert len(read_manifest(folder / "accepted.jsonl")) == result.accepted >= 1
    assert read_json(folder / "contract" / "results.json")["rows"] == 41
    assert all(row["reasons"] for row in read_jsonl(folder / "quarantine.jsonl"))
