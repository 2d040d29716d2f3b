"""`coat run` on a Prefect server of its own: with an authentication string, and on PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from coat_core.doctor import examine
from tests.testing import chain_runs
from tests.testing.chain_runs import Finished
from tests.testing.postgres import PASSWORD, PostgresServer, running
from tests.testing.prefect_site import Site, prefect_site
from tests.testing.services import needs_postgres

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]
LOGIN, WRONG = "coat:secret-of-the-team", "coat:secret-but-wrong"


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with prefect_site(tmp_path_factory.mktemp("guarded"), login=LOGIN) as made:
        yield made


def variables(site: Site, login: str = "") -> dict[str, str]:
    """Return what a host sets to use the server."""
    return {"PREFECT_API_URL": site.url, **({"PREFECT_API_AUTH_STRING": login} if login else {})}


def states(site: Site) -> list[tuple[str, int]]:
    """Return the state of each flow run with the number of its task runs."""
    runs = site.request("/flow_runs/filter", {"sort": "START_TIME_ASC"})
    counts = [site.request("/task_runs/count", {"flow_runs": {"id": {"any_": [run["id"]]}}}) for run in runs]
    return [(run["state_type"], count) for run, count in zip(runs, counts, strict=True)]


def test_a_run_with_the_authentication_string_is_recorded(guarded: Site, finished: Finished) -> None:
    printed = chain_runs.run_chain(finished.workspace, **variables(guarded, LOGIN))
    assert "0 of 16 stages to run" in printed
    assert states(guarded) == [("COMPLETED", 1)]
    assert "secret" not in printed
    assert "secret" not in guarded.log.read_text()


@pytest.mark.parametrize("login", [WRONG, ""], ids=["wrong", "none"])
def test_a_wrong_authentication_string_is_one_line(guarded: Site, finished: Finished, login: str) -> None:
    before = states(guarded)
    flow = chain_runs.start_chain(finished.workspace, **variables(guarded, login))
    assert flow.wait(chain_runs.HANG_S) == 1
    (line,) = (finished.workspace / "coat-run.log").read_text().splitlines()
    assert line.startswith(f"coat: the Prefect server refused the credentials; field: PREFECT_API_URL; value: '{guarded.url}'; next step: ")
    assert "secret" not in line
    assert states(guarded) == before
    assert not chain_runs.processes_in(finished.workspace)


@pytest.mark.parametrize(("login", "ok"), [(LOGIN, True), (WRONG, False), ("", False)], ids=["right", "wrong", "none"])
def test_the_doctor_names_a_wrong_authentication_string(
    guarded: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, login: str, ok: bool
) -> None:
    monkeypatch.setattr("coat_core.doctor.used_modules", lambda: ["json"])
    monkeypatch.setenv("PREFECT_API_URL", guarded.url)
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", login)
    (finding,) = [finding for finding in examine(tmp_path) if finding.name == "Prefect"]
    assert finding.ok is ok
    assert "secret" not in f"{finding.found}{finding.advice}"


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    with running() as server:
        yield server


@needs_postgres
def test_a_run_survives_the_end_of_postgresql_and_no_password_is_visible(
    postgres: PostgresServer, finished: Finished, tmp_path: Path
) -> None:
    postgres.create("prefect")
    with prefect_site(tmp_path, database=postgres.uri("prefect", "postgresql+asyncpg")) as site:
        chain_runs.forget_training(finished.workspace)
        flow = chain_runs.start_chain(finished.workspace, **variables(site))
        try:
            assert chain_runs.wait_for(lambda: chain_runs.trains(finished.workspace) or flow.poll() is not None)
            assert flow.poll() is None, (finished.workspace / "coat-run.log").read_text()[-3000:]
            commands = [" ".join(process.info["cmdline"] or ()) for process in psutil.process_iter(["cmdline"])]
            assert not [line for line in commands if PASSWORD in line]
            postgres.kill()
            postgres.start()
            assert flow.wait(chain_runs.HANG_S) == 0, (finished.workspace / "coat-run.log").read_text()[-5000:]
        finally:
            flow.kill()
            flow.wait()
        ((state, count),) = states(site)
        assert state == "COMPLETED"
        rows = postgres.query("SELECT state_type, count(*) FROM task_run GROUP BY 1", "prefect")
        assert rows == [("COMPLETED", count)]
        assert "Traceback" not in (finished.workspace / "coat-run.log").read_text()
    assert chain_runs.fingerprint(finished.workspace) == finished.fingerprint
