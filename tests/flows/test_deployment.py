"""The deployments of `prefect.yaml` on a real Prefect server with a real process worker, all on loopback."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from coat_core.storage import sha256_file
from tests.testing import chain_runs
from tests.testing.chain_runs import Finished
from tests.testing.prefect_site import Site, prefect_site

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with prefect_site(tmp_path_factory.mktemp("prefect")) as made:
        made.deploy()
        made.start_worker()
        yield made


def test_the_nightly_deployment_is_scheduled(site: Site) -> None:
    nightly = site.request("/deployments/name/coat/nightly")
    assert [schedule["schedule"]["cron"] for schedule in nightly["schedules"]] == ["0 2 * * *"]
    filters = {"deployments": {"id": {"any_": [nightly["id"]]}}, "flow_runs": {"state": {"type": {"any_": ["SCHEDULED"]}}}}
    assert chain_runs.wait_for(lambda: site.request("/flow_runs/count", filters) > 0, interval_s=1)


def test_a_worker_runs_the_manual_deployment(site: Site, finished: Finished) -> None:
    run = site.start("manual", workspace=str(finished.workspace))
    assert site.wait_for_end(run) == "COMPLETED", site.worker_log.read_text()[-5000:]
    artifacts = site.request("/artifacts/filter", {"artifacts": {"flow_run_id": {"any_": [run]}}})
    shown = {artifact["key"]: artifact["data"] for artifact in artifacts}
    assert shown.keys() >= {"contract", "metrics", "decisions", "report"}
    assert f"`{finished.workspace}/report/report.html`" in shown["report"]
    digest = sha256_file(finished.workspace / "params.yaml")[:8]
    assert re.fullmatch(
        rf"tiny, params {digest}, commit (unknown|[0-9a-f]{{8}}( with changes)?)", site.request(f"/flow_runs/{run}")["name"]
    )
    assert re.search(r"\n## coat-qwen2-audio version 1: \w+\n\n- \w", shown["decisions"]), "reasons are whole, one a line"
    assert shown["contract"].startswith("# Data contract: is met\n\n0 rows quarantined.")

    def decisions() -> list[str]:
        logged = site.request("/logs/filter", {"logs": {"flow_run_id": {"any_": [run]}}, "limit": 200})
        return [record["message"] for record in logged if record["message"].startswith("promoted ")]

    assert chain_runs.wait_for(decisions, interval_s=0.5), "Prefect sends the log in batches, the last one after the state of the run"
    (text,) = decisions()
    assert "\n  coat-qwen2-audio version 1: " in text, "a worker has no console: its log says what was decided"


def test_a_cancelled_run_ends_its_stages(site: Site, finished: Finished) -> None:
    chain_runs.forget_training(finished.workspace)
    run = site.start("manual", workspace=str(finished.workspace))
    assert chain_runs.wait_for(lambda: chain_runs.trains(finished.workspace)), site.worker_log.read_text()[-5000:]
    site.request(f"/flow_runs/{run}/set_state", {"state": {"type": "CANCELLING"}})
    assert chain_runs.wait_for(lambda: not chain_runs.stages_in(finished.workspace)), chain_runs.stages_in(finished.workspace)
    assert not list(finished.workspace.glob("models/*")), "the stages were ended, they did not complete"
    assert site.wait_for_end(run) == "CANCELLED"


def test_the_servers_log_has_no_traceback(site: Site) -> None:
    # SQLite refuses at once, whatever the timeout, a reader that becomes a writer: a heartbeat of the worker may be lost; the next one
    # follows after 30 s. Nothing else may fail.
    records = re.split(r"^(?=\d\d:\d\d:\d\d\.\d+ \| )", site.log.read_text(), flags=re.M)
    lost_heartbeat = ("heartbeat persistence failed", "database is locked")
    assert not [record for record in records if "Traceback" in record and not all(part in record for part in lost_heartbeat)]
    assert "Traceback" not in site.worker_log.read_text()
