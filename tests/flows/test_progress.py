"""Progress of stages: the file that a loop writes, and the lines that the flow shows."""

from __future__ import annotations

import io
import json
import logging
from pathlib import Path

import pytest
from rich.console import Console

from coat_core.progress import PROGRESS, Progress, ProgressBar
from flows.progress import ProgressDisplay, duration, progress_line


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize(
    ("progress", "line"),
    [
        (None, "s  1 min 05 s"),
        (Progress("t", "step", 0, 300), "s  step 0/300  0%  1 min 05 s"),
        (Progress("t", "step", 100, 300, 0, 50.0, {"loss": 0.51234}), "s  step 100/300  33%  loss 0.512  1 min 05 s  ETA 1 min 40 s"),
        (Progress("t", "step", 110, 300, 100, 10.0), "s  step 110/300  37%  1 min 05 s  ETA 3 min 10 s"),
        (Progress("t", "clip", 8, 8, 0, 4.0), "s  clip 8/8  100%  1 min 05 s  almost done"),
        (Progress("t", "clip", 3, 0), "s  1 min 05 s"),
    ],
    ids=["nothing-reported", "start", "loss", "resumed", "end", "no-total"],
)
def test_the_line_of_a_stage(progress: Progress | None, line: str) -> None:
    assert progress_line("s", 65.0, progress) == line


def test_durations_in_words() -> None:
    assert [duration(s) for s in (0.4, 59.4, 185, 7800)] == ["0 s", "59 s", "3 min 05 s", "2 h 10 min"]


def test_a_bar_without_a_terminal_writes_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, file = Clock(), tmp_path / "stage.json"
    monkeypatch.setenv(PROGRESS, str(file))
    with ProgressBar(total=10, desc="work", unit="step", disable=True, clock=clock) as bar:
        bar.start_at(4)
        bar.note(loss=1.5)
        bar.update(1)
        assert Progress.read(file) == Progress("work", "step", 0, 10), "half a second has not passed"
        clock.now = 1.0
        bar.update(1)
        found = Progress.read(file)
        assert found == Progress("work", "step", 6, 10, 4, 1.0, {"loss": 1.5})
        assert found.remaining_s == 2.0
    assert list(ProgressBar([1, 2, 3], desc="files", disable=True, clock=clock)) == [1, 2, 3]
    assert Progress.read(file) == Progress("files", "item", 3, 3)
    assert [path.name for path in tmp_path.iterdir()] == ["stage.json"]


@pytest.mark.parametrize("content", [None, "", "{", "[]", json.dumps({"title": 1})])
def test_a_missing_or_damaged_file_is_no_progress(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "f").write_text(content)
    assert Progress.read(tmp_path / "f") is None


def test_a_file_that_cannot_be_written_stops_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PROGRESS, str(tmp_path / "absent" / "f"))
    assert list(ProgressBar(range(3), disable=True)) == [0, 1, 2]


def _display(tmp_path: Path, clock: Clock, **options: object) -> ProgressDisplay:
    console = Console(file=io.StringIO(), width=100, **options)  # type: ignore[arg-type]
    return ProgressDisplay(tmp_path, logging.getLogger("test"), console, clock)


def test_a_terminal_has_one_line_for_each_running_stage(tmp_path: Path) -> None:
    clock = Clock()
    display = _display(tmp_path, clock, force_terminal=True)
    with display.stage("train@a") as first, display.stage("score@a"):
        clock.now = 5.0
        Progress("t", "step", 1, 2, 0, 5.0, {"loss": 2.0}).write(first)
        assert str(display.render()).splitlines() == ["train@a  step 1/2  50%  loss 2.000  5 s  ETA 5 s", "score@a  5 s"]
    assert str(display.render()) == ""
    assert not list(tmp_path.iterdir())


def test_a_log_has_few_lines(tmp_path: Path) -> None:
    clock = Clock()
    display = _display(tmp_path, clock)
    with display.stage("train@a") as file:
        lines = []
        for second in range(601):
            clock.now = float(second)
            Progress("t", "step", second, 6000, 0, clock.now).write(file)
            lines += display.log_lines()
    assert len(lines) == 5, "slow: every two minutes"
    with display.stage("train@b") as file:
        clock.now = 600.0
        assert display.log_lines() == []
        lines = []
        for second in range(101):
            clock.now = 600.0 + second
            Progress("t", "step", second, 100, 0, float(second)).write(file)
            lines += display.log_lines()
    assert len(lines) == 3, "fast: every half minute"
    assert not any("\r" in line for line in lines)
