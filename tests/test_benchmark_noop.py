"""What `benchmarks.noop` calls growth."""

from __future__ import annotations

import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.noop import Count, growth, own_files, table_rows

STILL = Count(
    seconds=30.0, files=100, bytes=5000, mlflow_rows=40, prefect_rows=200, history_rows=0, mlflow_mb=300.0, prefect_mb=250.0, open_files=60,
    connections=4, left=0,
)  # fmt: skip


def series(**steps: float) -> list[Count]:
    """Return ten counts in which some fields rise by a step in each run."""
    return [replace(STILL, **{name: getattr(STILL, name) + step * number for name, step in steps.items()}) for number in range(10)]


def test_the_history_of_runs_is_no_growth() -> None:
    assert growth(series(history_rows=50, seconds=3)) == []


@pytest.mark.parametrize("name", ["files", "bytes", "mlflow_rows", "prefect_rows", "left", "open_files", "connections"])
def test_one_more_in_each_run_is_growth(name: str) -> None:
    (problem,) = growth(series(**{name: 1}))
    assert name in problem


@pytest.mark.parametrize(("step", "grows"), [(1.0, False), (2.0, True)])
def test_memory_may_rise_by_two_percent_in_as_many_runs_again(step: float, grows: bool) -> None:
    problems = growth(series(mlflow_mb=step))
    assert bool(problems) is grows
    assert all("mlflow_mb grows by 2.00 MB a run" in problem for problem in problems)


def test_connections_that_come_and_go_are_no_growth() -> None:
    counts = [replace(STILL, connections=4 + number % 3) for number in range(10)]
    assert growth(counts) == []


def test_too_few_runs_are_said() -> None:
    assert growth(series()[:3]) == ["fewer than 4 runs: memory, open files and connections are not judged"]


def test_rows_and_files_are_counted(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "a.db") as database:
        database.execute("CREATE TABLE one (x)")
        database.executemany("INSERT INTO one VALUES (?)", [(1,), (2,)])
        database.execute("CREATE TABLE two (x)")
    database.close()
    assert table_rows(tmp_path / "a.db") == {"one": 2, "two": 0}
    (tmp_path / "linked").symlink_to(Path(__file__).parent)
    (tmp_path / "below").mkdir()
    (tmp_path / "below/file").write_text("x")
    assert sorted(path.name for path in own_files(tmp_path)) == ["a.db", "file"]
