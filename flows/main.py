"""The body of `coat run`: check the params, hold the workspace, start a Prefect server, run the chain, stop the server, print."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from coat_core import logs
from coat_core.errors import CoatError
from coat_core.registry.database import check_store
from coat_core.settings import load_settings
from flows.lock import hold_workspace
from flows.prefect_errors import API_URL, explained, is_of_server
from flows.server import HOME, prefect_api

_PREFECT = {
    "PREFECT_LOGGING_FORMATTERS_STANDARD_FLOW_RUN_FMT": "%(asctime)s  %(message)s",
    "PREFECT_LOGGING_FORMATTERS_STANDARD_DATEFMT": "%H:%M:%S",
    "PREFECT_LOGGING_LOGGERS_PREFECT_FLOW_RUNS_LEVEL": "INFO",
    "PREFECT_LOGGING_LOGGERS_PREFECT_TASK_RUNS_LEVEL": "CRITICAL",
    "PREFECT_LOGGING_LEVEL": "WARNING",
    "PREFECT_CLI_WRAP_LINES": "false",
    # Where the server has the automations of `coat deploy`, a run without heartbeats counts as crashed.
    "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "60",
}


def run_chain(workspace: Path, jobs: int | None) -> None:
    """Run the chain in a workspace and print the summary.

    Args:
        workspace: folder with `dvc.yaml` and `params.yaml`.
        jobs: stages side by side; default: the number of cores.

    Raises:
        SettingsError: params are invalid; nothing was started.
        RegistryError: the configured store of MLflow cannot be used; nothing was started.
        CoatError: the default graph names other experts than params.
        BusyError: another run holds the workspace.
        StageError: a stage failed, or Prefect's server did.
        DiskFullError: there is no room for a stage, or for the records of the server.
    """
    load_settings(workspace / "params.yaml")
    check_store()
    for name, value in _PREFECT.items():
        os.environ.setdefault(name, value)
    with hold_workspace(workspace):
        own = workspace / HOME if API_URL not in os.environ else None
        with prefect_api(workspace):
            # Prefect reads its settings from the environment when it is imported: before this line it would start a server of its own.
            from prefect import tags

            from flows.chain import chain
            from flows.promotion import decisions_text
            from flows.records import owner_tag
            from flows.stage_logs import structure_logs

            structure_logs()
            _hide_reported_failures()
            with tags(owner_tag()), explained(own):
                outcome = chain(workspace=str(workspace), jobs=jobs, return_state=True).result(raise_on_failure=False)
                if isinstance(outcome, BaseException):
                    raise outcome
        if logs.active():
            logs.event("run_completed", "the run is completed", stages=outcome["stages"], decisions=outcome["decisions"])
            return
        _print_summary(workspace)
        print(decisions_text(outcome["decisions"]))


class _ReportedFailures(logging.Filter):
    """Hides what Prefect's engine logs of a failed flow when we print the error ourselves; the run page still shows it."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether to show the record."""
        if record.name != "prefect.flow_runs":
            return True
        error = record.exc_info[1] if record.exc_info else None
        known = isinstance(error, CoatError) or is_of_server(error)
        return not known and not record.getMessage().startswith("Finished in state Failed")


def _hide_reported_failures() -> None:
    for handler in logging.getLogger().handlers:
        handler.addFilter(_ReportedFailures())


def _print_summary(workspace: Path) -> None:
    from coat_core.registry.database import tracking_uri
    from coat_core.registry.uris import page_of
    from coat_core.report.suites import suites_text
    from coat_core.report.tables import summary_table
    from coat_core.storage import read_json

    print()
    results = read_json(workspace / "report/results.json")
    print(summary_table(results))
    if suites := suites_text(results):
        print(f"\n{suites}")
    print(f"\nreport   {workspace / 'report/report.html'}  (opens without a server)")
    print(f"registry {page_of(tracking_uri(workspace))}")
    print("pages    .venv/bin/coat ui  (starts the pages of MLflow and Prefect)")
