"""Structured logs: every line is one JSON object with the same keys, whatever is logged, printed or raised."""

from __future__ import annotations

import itertools
import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coat_core import logs
from coat_core.errors import CoatError, SettingsError
from flows.stage_logs import StageLogs, pass_on
from tests.testing.chain_runs import environment

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text() | st.integers(), inner, max_size=3),
    max_leaves=6,
)


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """Structured logs into a file, without the handlers of this process."""
    descriptor = os.open(tmp_path / "log", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    monkeypatch.setattr(logs._state, "descriptor", descriptor)
    monkeypatch.setattr(logs._state, "bound", {})
    yield tmp_path / "log"
    os.close(descriptor)


def read(path: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line, parse_constant=pytest.fail) for line in path.read_text(encoding="ascii").splitlines()]
    assert all(set(logs.KEYS) <= line.keys() for line in lines)
    return lines


@given(message=st.text(), arguments=st.lists(VALUES, max_size=2), keys=st.dictionaries(st.text(), VALUES, max_size=3))
def test_a_record_is_one_line_of_json(message: str, arguments: list[Any], keys: dict[str, Any]) -> None:
    record = logging.LogRecord("any", logging.WARNING, "", 0, message, tuple(arguments), None)
    record.coat = keys
    line = logs.line_of(record)
    assert "\n" not in line
    assert set(logs.KEYS) <= json.loads(line, parse_constant=pytest.fail).keys()


@given(text=st.text(), cuts=st.lists(st.integers(0, 200), max_size=5))
def test_printed_lines_do_not_depend_on_how_they_are_cut(text: str, cuts: list[int]) -> None:
    def lines(parts: list[str]) -> list[str]:
        found: list[str] = []
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(logs, "event", lambda name, message: found.append(message))
            stream = logs.LineStream()
            for part in parts:
                assert stream.write(part) == len(part)
            stream.close()
        return found

    places = [0, *sorted(cut % (len(text) + 1) for cut in cuts), len(text)]
    assert lines([text[a:b] for a, b in itertools.pairwise(places)]) == lines([text])


def test_colours_and_bars_are_left_out(written: Path) -> None:
    with logs.LineStream() as stream:
        stream.write("\x1b[31mcoat: no\x1b[0m\n")
        stream.write("\r 10%|#   |\r 50%|##  |\r100%|####|\n\n  \n")
        assert stream.isatty() is False
    assert [line["message"] for line in read(written)] == ["coat: no", "100%|####|"]
    assert {line["event"] for line in read(written)} == {"output"}


def test_every_line_has_the_keys_that_are_bound(written: Path) -> None:
    logs.bind(run="r1", stage="train@x")
    logs.event("begun", "m", steps=3, loss=float("nan"))
    logs.bind(mlflow_run="m1")
    logs.event("failed", "no", level=logging.ERROR, error=SettingsError("no", field="a.b", value=3, next_step="correct it"))
    try:
        raise RuntimeError("in the middle")
    except RuntimeError as error:
        logs.event("failed", "no", error=error)
    begun, wrong, unexpected = read(written)
    assert (begun["run"], begun["stage"], begun["mlflow_run"], begun["steps"], begun["loss"]) == ("r1", "train@x", None, 3, "nan")
    assert (wrong["level"], wrong["mlflow_run"]) == ("ERROR", "m1")
    assert wrong["error"] == {"class": "SettingsError", "field": "a.b", "value": 3, "next_step": "correct it"}
    assert unexpected["error"]["class"] == "RuntimeError"
    assert "in the middle" in unexpected["error"]["traceback"]


def test_a_record_of_prefect_names_its_flow_run(written: Path) -> None:
    logs.bind(run="other", stage=None)
    record = logging.LogRecord("prefect.flow_runs", logging.INFO, "", 0, "start %s", ("x",), None)
    record.flow_run_id, record.coat = "f1", logs.fields("stage_started", stage="x")["coat"]
    handlers = logs.JsonHandler(), logs.JsonHandler()
    for handler in handlers:
        handler.handle(record)
    (line,) = read(written)
    assert (line["run"], line["stage"], line["event"], line["message"]) == ("f1", "x", "stage_started", "start x")


def test_without_structured_logs_events_are_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert not logs.active()
    logs.event("begun", "m")
    logs.write("{}")
    with StageLogs().follow("x", tmp_path / "x.log"):
        (tmp_path / "x.log").write_text("line\n")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(("value", "wanted"), [(None, False), ("", False), ("text", False), ("json", True)])
def test_the_variable(monkeypatch: pytest.MonkeyPatch, value: str | None, wanted: bool) -> None:
    if value is None:
        monkeypatch.delenv(logs.FORMAT, raising=False)
    else:
        monkeypatch.setenv(logs.FORMAT, value)
    assert logs.wanted() is wanted


def test_another_value_of_the_variable_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(logs.FORMAT, "xml")
    with pytest.raises(CoatError, match=r"field: COAT_LOG; value: 'xml'; allowed: text, json"):
        logs.wanted()


def test_the_lines_of_a_stage_are_passed_on_while_it_runs_and_at_its_end(written: Path, tmp_path: Path) -> None:
    log = tmp_path / "stage.log"
    log.write_text("of an earlier run\n")
    logs.bind(run="r1")
    own = {**dict.fromkeys(logs.KEYS), "message": "of the stage", "event": "begun", "mlflow_run": "m9"}
    with StageLogs().follow("train@x", log), log.open("w") as stream:
        stream.write(f"Running stage 'train@x':\n{json.dumps(own)}\n")
        stream.flush()
        while not written.stat().st_size:
            pass
        stream.write('{"no": "event"}\nthe rest')
    lines = read(written)
    assert [line["message"] for line in lines] == ["Running stage 'train@x':", "of the stage", '{"no": "event"}', "the rest"]
    assert lines[1] == own
    assert {(line["run"], line["stage"], line["event"]) for line in [lines[0], *lines[2:]]} == {("r1", "train@x", "output")}
    pass_on("x", "  ")
    assert len(read(written)) == 4


CODE = """
import logging, sys, threading, warnings
from coat_core import logs
logging.getLogger("before").addHandler(logging.StreamHandler())
assert logs.start(stage="s") and logs.start()
print("printed")
print("to errors", file=sys.stderr)
logging.getLogger("before").warning("once %s", 1)
logging.getLogger("library").error("from a library")
warnings.warn("careful")
sys.stdout.write("without end")
raise RuntimeError("at the end")
"""


def test_a_process_prints_nothing_else(tmp_path: Path) -> None:
    variables = environment(PYTHONPATH=str(Path(__file__).parents[1]), COAT_LOG="json", COAT_RUN="r7")
    done = subprocess.run([sys.executable, "-c", CODE], cwd=tmp_path, env=variables, capture_output=True, text=True)
    assert (done.stdout, done.returncode) == ("", 1)
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert all((line["run"], line["stage"]) == ("r7", "s") for line in lines)
    messages = [line["message"] for line in lines]
    assert [message for message in messages if "careful" not in message] == [
        "printed", "to errors", "once 1", "from a library", "RuntimeError: at the end", "without end",
    ]  # fmt: skip
    assert sum("careful" in message for message in messages) == 1
    assert "Traceback" in lines[-2]["error"]["traceback"]


def test_an_error_of_a_stage_command_is_one_line(tmp_path: Path) -> None:
    coat = Path(sys.executable).with_name("coat")
    for name, expected in (("json", 1), ("xml", 1)):
        variables = environment(PYTHONPATH=str(Path(__file__).parents[1]), COAT_LOG=name)
        done = subprocess.run([coat, "contract"], cwd=tmp_path, env=variables, capture_output=True, text=True)
        assert (done.stdout, done.returncode) == ("", expected)
        if name == "json":
            started, failed = [json.loads(line) for line in done.stderr.splitlines()]
            assert (started["event"], failed["event"], failed["level"]) == ("command_started", "failed", "ERROR")
            assert failed["error"]["class"] == "SettingsError"
            assert failed["stage"] == "contract"
        else:
            assert done.stderr.startswith("coat: logs have no such format; field: COAT_LOG; value: 'xml'; allowed: text, json")
