"""What the parent of a chain run's trials shows: a table of the trials, and a link to MLflow's page that compares them."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from coat_core.registry.parents import CHAIN, DESCRIPTION, NOTE, PARENT
from coat_core.registry.tables import write_table
from coat_core.registry.tracking import find_run

TRIALS = "tables/trials.json"


def log_overviews(client: Any, trials: Mapping[str, Mapping[str, Any]]) -> None:
    """Write table and link of the parent of each trial; what is there is replaced.

    Args:
        client: `MlflowClient` of the records.
        trials: the row of the table by the run's id.
    """
    children: dict[str, list[str]] = defaultdict(list)
    for run_id in trials:
        parent = client.get_run(run_id).data.tags.get(PARENT)
        if parent is not None:
            children[parent].append(run_id)
    for parent, runs in children.items():
        run = find_run(client, parent)
        if run is not None and CHAIN in run.data.tags:
            write_table(client, parent, TRIALS, [trials[run_id] for run_id in runs])
            client.set_tag(parent, NOTE, f"{DESCRIPTION} [Compare them]({comparison(run.info.experiment_id, runs)}).")


def comparison(experiment: str, runs: list[str]) -> str:
    """Return the address of MLflow's page that compares runs, relative to its server."""
    return f"#/compare-runs?runs={quote(json.dumps(runs))}&experiments={quote(json.dumps([experiment]))}"


def page_of_run(client: Any, run_id: str) -> str:
    """Return the address of a run's page, relative to MLflow's server; empty if MLflow does not have the run."""
    run = find_run(client, run_id)
    return f"#/experiments/{run.info.experiment_id}/runs/{run_id}" if run else ""
