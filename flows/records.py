"""What the run page shows, and the runs that a dead process left open."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from coat_core import storage
from coat_core.registry.database import tracking_uri
from coat_core.watchdog import is_alive

_OWNER_TAG = "owner:"


def close_dead_flow_runs() -> int:
    """Mark flow runs and task runs as crashed whose process is gone, and return how many there were.

    A task run is recorded by events that its process sends when it can: of a process that was ended in between, the flow run
    may stand as ended and its task runs as running.
    """
    from prefect import State
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import (
        FlowFilter,
        FlowFilterName,
        FlowRunFilter,
        FlowRunFilterState,
        FlowRunFilterStateType,
        TaskRunFilter,
        TaskRunFilterState,
        TaskRunFilterStateType,
    )
    from prefect.client.schemas.objects import TERMINAL_STATES, StateType
    from prefect.states import Crashed

    gone: State[Any] = Crashed(message="the process that ran it is gone")
    closed = 0
    flow = FlowFilter(name=FlowFilterName(any_=["coat"]))
    open_types = [StateType.RUNNING, StateType.PENDING, StateType.CANCELLING]
    open_runs = FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=open_types)))
    ended_runs = FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=list(TERMINAL_STATES))))
    open_tasks = TaskRunFilter(state=TaskRunFilterState(type=TaskRunFilterStateType(any_=open_types)))
    with get_client(sync_client=True) as client:
        for run in client.read_flow_runs(flow_filter=flow, flow_run_filter=open_runs):
            if _owner_lives(run.tags) is False:
                client.set_flow_run_state(run.id, gone, force=True)
                closed += 1
        for task in client.read_task_runs(flow_filter=flow, flow_run_filter=ended_runs, task_run_filter=open_tasks):
            if task.flow_run_id and not _owner_lives(client.read_flow_run(task.flow_run_id).tags):
                client.set_task_run_state(task.id, gone, force=True)
                closed += 1
    return closed


def _owner_lives(tags: list[str]) -> bool | None:
    """Return whether the process that a run's tags name still runs; None when they name none (a worker's run: its worker judges)."""
    owners = [tag.removeprefix(_OWNER_TAG) for tag in tags if tag.startswith(_OWNER_TAG)]
    return any(map(is_alive, owners)) if owners else None


def publish_contract(workspace: Path) -> None:
    """Show the contract's result on the run page."""
    from prefect.artifacts import create_markdown_artifact

    result = storage.read_json(workspace / "data/contract/results.json")
    quarantined = storage.read_jsonl(workspace / "data/quarantine.jsonl")
    verdict = "holds" if result["passed"] else "does **not** hold"
    lines = [f"# Data contract: {verdict}", "", f"{len(quarantined)} rows set aside.", ""]
    lines += [f"- `{row['id']}`: {', '.join(row['reasons'])}" for row in quarantined[:20]]
    create_markdown_artifact("\n".join(lines), key="contract", description="What the corpus was held to, and what was set aside")


def publish_results(workspace: Path, decisions: list[dict[str, Any]]) -> None:
    """Show the metrics table, the decisions with their reasons and the way to MLflow on the run page."""
    from prefect.artifacts import create_link_artifact, create_markdown_artifact, create_table_artifact

    create_markdown_artifact((workspace / "report/tables.md").read_text(), key="metrics", description="Accuracy by arm and family")
    rows = [{**decision, "reasons": "; ".join(decision["reasons"])} for decision in decisions]
    create_table_artifact(rows, key="decisions", description="What the promotion gate decided, and why")
    tracking = tracking_uri(workspace)
    for decision in decisions if tracking.startswith("http") else ():
        link = f"{tracking}/#/models/{decision['model']}/versions/{decision['version']}"
        create_link_artifact(link, key=decision["model"].replace(".", "-"), link_text=f"{decision['model']} in MLflow")
    if not tracking.startswith("http"):
        create_markdown_artifact(
            f"`.venv/bin/mlflow ui --backend-store-uri {tracking}`", key="mlflow", description="How to open the registry"
        )
