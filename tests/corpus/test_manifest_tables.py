"""Metadata tables: records that are not whole, delimiters, line ends and encodings."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from coat_core.corpus.imported.lines import Mistakes
from coat_core.corpus.imported.tables import read_table
from coat_core.errors import CorpusError
from tests.testing.manifests import corpus_of, import_table, write_tones


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write_tones(tmp_path / "data", "a.wav", "b.wav", "c.wav")
    return tmp_path / "data"


RAGGED = {
    "unquoted comma": ("a.wav,Who?,Hello, my name is Kim\nb.wav,Who?,x\n", "line 2, row 1: 4 fields, the header has 3"),
    "unquoted comma in the last of three rows": ("a.wav,q,x\nb.wav,q,x\nc.wav,q,x,y\n", "line 4, row 3: 4 fields"),
    "too few fields": ("a.wav,Who?\nb.wav,Who?,x\n", "line 2, row 1: 2 fields, the header has 3"),
    "stray quote that joins rows": (
        'a.wav,Who?,"Hello\nb.wav,Who?,x"\nc.wav,Who?,y\n',
        "line 2, row 1: a value in quotation marks contains 2",
    ),
    "stray quote to the end": ('a.wav,Who?,"Hello\nb.wav,Who?,x\nc.wav,Who?,y\n', "line 2, row 1: a quotation mark at the start"),
    "two stray quotes": ('a.wav,Who?,"Hello\nb.wav,Who?,"x\nc.wav,Who?,y\n', "line 2, row 1: text follows a closing quotation mark"),
    "text behind a quoted value": ('a.wav,Who?,"Hello" Kim\n', "line 2, row 1: text follows a closing quotation mark: 'Kim"),
    "value without a column": ("a.wav,Who?,x,\nb.wav,Who?,x,y\n", "line 2, row 1: 4 fields"),
    "line end that is not in quotes": ("a.wav,Who?,one\ntwo\n", "line 3, row 2: 1 fields"),
}


@pytest.mark.parametrize("kind", RAGGED)
def test_a_ragged_record_is_named_and_nothing_is_written(data: Path, kind: str) -> None:
    body, words = RAGGED[kind]
    with pytest.raises(CorpusError) as raised:
        import_table(data, f"file_name,question,answer\n{body}")
    assert f"metadata.csv: {words}" in str(raised.value)
    assert not corpus_of(data).exists()


@pytest.mark.parametrize(
    ("header", "words"),
    [
        pytest.param("file_name,transcription,transcription", "occur more than once: transcription", id="duplicate column"),
        pytest.param("file_name|question|answer", "the delimiter is the vertical bar", id="vertical bars"),
        pytest.param("name,question,answer", "the column file_name is missing", id="no audio column"),
        pytest.param("file_name,Question,answer", "the key 'Question' is not known; write 'question'", id="capital letter"),
        pytest.param("file_name,transcription,", "is in a column without a name", id="column without a name"),
    ],
)
def test_a_header_that_would_lose_values_is_refused(data: Path, header: str, words: str) -> None:
    with pytest.raises(CorpusError, match=r"line [12]") as raised:
        import_table(data, f"{header}\na.wav,Who?,Kim\n")
    assert words in str(raised.value)


READ = {
    "utf-8 byte order mark": "\ufefffile_name,transcription\na.wav,Grüße\nb.wav,y\n".encode(),
    "semicolons": "file_name;transcription\na.wav;Grüße\nb.wav;y\n".encode(),
    "tabs": "file_name\ttranscription\na.wav\tGrüße\nb.wav\ty\n".encode(),
    "carriage returns": "file_name,transcription\ra.wav,Grüße\rb.wav,y\r".encode(),
    "windows line ends": "file_name,transcription\r\na.wav,Grüße\r\n\r\nb.wav,y".encode(),
    "blank lines and empty records": "file_name,transcription\n\na.wav,Grüße\n,\n  \nb.wav,y\n".encode(),
    "quoted values": '"file_name","transcription"\n"a.wav","Grüße"\n"b.wav", "y"\n'.encode(),
    "index column of pandas": ",file_name,transcription\n0,a.wav,Grüße\n1,b.wav,y\n".encode(),
}


@pytest.mark.parametrize("kind", READ)
def test_common_forms_of_a_table_are_read(data: Path, kind: str) -> None:
    assert [example.answer for example in import_table(data, READ[kind])] == ["Grüße", "y"]


def test_long_and_quoted_values_are_read_exactly(data: Path) -> None:
    text = "x" * 200_000
    body = f'file_name,question,answer\na.wav,Who?,{text}\nb.wav,"One, two\nor ""three""?","Hello, Kim"\n'
    first, second = import_table(data, body)
    assert (first.answer, second.question, second.answer) == (text, 'One, two\nor "three"?', "Hello, Kim")


@pytest.mark.parametrize("kind", ["table", "jsonl"])
@pytest.mark.parametrize(
    ("encoding", "words"),
    [
        pytest.param("utf-16", "line 1: the file is UTF-16", id="utf-16"),
        pytest.param("utf-16-le", "line 1: the file contains NUL bytes", id="utf-16 without a mark"),
        pytest.param("utf-32", "line 1: the file is UTF-32", id="utf-32"),
        pytest.param("cp1252", "line 2, byte 0xfc at position ", id="windows-1252"),
        pytest.param("cp437", "line 2, byte 0x81 at position ", id="dos"),
    ],
)
def test_another_encoding_is_named_with_file_and_line(data: Path, kind: str, encoding: str, words: str) -> None:
    name = "metadata.csv" if kind == "table" else "metadata.jsonl"
    text = "file_name,transcription\na.wav,ü\nb.wav,y\n" if kind == "table" else '{"file_name": "b.wav", "text": "b"}\n{"text": "ü"}\n'
    with pytest.raises(CorpusError) as raised:
        import_table(data, text.encode(encoding), name)
    assert f"{name}: {words}" in str(raised.value)
    assert "UTF-8" in str(raised.value)


def test_a_nul_byte_in_a_table_is_named_with_its_line(data: Path) -> None:
    with pytest.raises(CorpusError, match=r"metadata\.csv: line 3: the file contains NUL bytes"):
        import_table(data, b"file_name,transcription\na.wav,x\nb.wav,y\0\n")


def test_twenty_errors_are_listed_with_their_lines_and_the_others_are_counted(data: Path) -> None:
    rows = [f"none{number}.wav,x" if number % 2 else "a.wav,x,y" for number in range(30)]
    with pytest.raises(CorpusError) as raised:
        import_table(data, "file_name,transcription\n\n" + "\n".join(rows) + "\n")
    message = str(raised.value)
    assert [f"line {number}, row {number - 2}" in message for number in range(3, 33)] == [True] * 20 + [False] * 10
    assert "and 10 more" in message


@hypothesis_settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.lists(st.lists(st.text(st.sampled_from('ab ,;"\n\r\tü'), max_size=8), min_size=2, max_size=2), min_size=1, max_size=5),
    st.sampled_from([",", ";", "\t"]),
    st.sampled_from(["\n", "\r\n"]),
)
def test_a_table_that_the_standard_library_writes_is_read_as_it_was(
    tmp_path_factory: pytest.TempPathFactory, values: list[list[str]], delimiter: str, end: str
) -> None:
    stream = io.StringIO()
    writer = csv.writer(stream, delimiter=delimiter, lineterminator=end, quoting=csv.QUOTE_ALL)
    writer.writerow(["file_name", "one", "two"])
    writer.writerows(["a", *record] for record in values)
    path = tmp_path_factory.mktemp("table") / "metadata.csv"
    path.write_text(stream.getvalue(), newline="")
    mistakes = Mistakes()
    lines = read_table(path, "metadata.csv", ("file_name",), mistakes)
    assert not mistakes.found
    assert [[line.row.get("one", ""), line.row.get("two", "")] for line in lines] == [
        [value.strip() for value in record] for record in values
    ]
