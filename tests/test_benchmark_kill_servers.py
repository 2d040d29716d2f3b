"""A short run of `benchmarks.kill_servers`: everything that it can kill is killed once."""

from __future__ import annotations

import random
from contextlib import closing
from pathlib import Path

import pytest

from benchmarks.kill_servers import KINDS, Team, run_rounds
from tests.testing import chain_runs
from tests.testing.services import needs_postgres

pytestmark = [needs_postgres, pytest.mark.slow]


def test_a_run_survives_the_death_of_each_server_of_its_worker_and_of_itself(tmp_path: Path) -> None:
    with closing(Team(tmp_path / "team")) as team:
        rows, problems, _ = run_rounds(team, tmp_path, chain_runs.PARAMS, len(KINDS), random.Random(0), within=0.3)
    assert problems == []
    assert [row["killed"] for row in rows] == list(KINDS)
