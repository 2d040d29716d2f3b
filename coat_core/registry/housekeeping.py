"""Runs that a dead process left open are closed, and say so."""

from __future__ import annotations

import socket
from pathlib import Path

from coat_core.registry.database import connect
from coat_core.watchdog import is_alive


def close_dead_runs(workspace: Path = Path()) -> list[str]:
    """Close as KILLED every run that stands as RUNNING while the process that kept it is gone; return their ids.

    Only runs of this host with an owner (pid and start time, as the tracker writes them) are judged: a pid alone may have
    been given to another process since.
    """
    client = connect(workspace)
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    closed, token = [], None
    while True:
        page = client.search_runs(
            experiments,
            f"attributes.status = 'RUNNING' and tags.`owner.host` = '{socket.gethostname()}'",
            max_results=1000,
            page_token=token,
        )
        for run in page:
            if not is_alive(run.data.tags.get("owner.process", "")):
                client.set_tag(run.info.run_id, "closed_by", "housekeeping: the process that kept this run is gone")
                client.set_terminated(run.info.run_id, status="KILLED")
                closed.append(run.info.run_id)
        token = page.token
        if not token:
            return closed
