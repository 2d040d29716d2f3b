"""Artifacts of the run page, and runs that a dead process left open."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from coat_core import storage
from coat_core.registry.database import connect, tracking_uri
from coat_core.registry.overview import page_of_run
from coat_core.registry.parents import ChainRun
from coat_core.registry.uris import page_of, portable
from coat_core.report.decisions import write_decisions
from coat_core.watchdog import host_name, is_alive, owner_mark

_OWNER_TAG = "owner:"


def close_dead_flow_runs() -> int:
    """Mark flow runs and task runs whose process is gone as crashed, and return their number.

    A process sends the states of its task runs as events. When it is killed before the last events, the flow run may be recorded as
    ended and its task runs as running. NotReady is a last state: Prefect records it for a task whose upstream task did not complete.
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
            if owner_state(run.tags) == "gone":
                client.set_flow_run_state(run.id, gone, force=True)
                closed += 1
        for task in client.read_task_runs(flow_filter=flow, flow_run_filter=ended_runs, task_run_filter=open_tasks):
            if task.state_name == "NotReady" or not task.flow_run_id:
                continue
            if owner_state(client.read_flow_run(task.flow_run_id).tags) in ("gone", "unnamed"):
                client.set_task_run_state(task.id, gone, force=True)
                closed += 1
    return closed


def run_name() -> str:
    """Return the name of the active flow run: its workspace, the digest of its params, and the commit of its code."""
    from prefect.runtime import flow_run

    return ChainRun.of(Path(flow_run.parameters.get("workspace", "."))).name


def owner_tag() -> str:
    """Return the tag of the runs of this process: its id and start time, and the host in which they mean something."""
    return f"{_OWNER_TAG}{owner_mark()}@{host_name()}"


def owner_state(tags: Iterable[str]) -> Literal["lives", "gone", "elsewhere", "unnamed"]:
    """Return what became of the process that a run's tags name.

    "elsewhere": it is of another host, whose next run closes its runs; process ids say nothing here. "unnamed": a worker started the run,
    and reports its end.
    """
    owners = [tag.removeprefix(_OWNER_TAG).partition("@") for tag in tags if tag.startswith(_OWNER_TAG)]
    if not owners:
        return "unnamed"
    here = [mark for mark, _, host in owners if host in ("", host_name())]
    if not here:
        return "elsewhere"
    return "lives" if any(map(is_alive, here)) else "gone"


def publish_contract(workspace: Path) -> None:
    """Add the contract's result to the run page."""
    from prefect.artifacts import create_markdown_artifact

    result = storage.read_json(workspace / "data/contract/results.json")
    quarantined = storage.read_jsonl(workspace / "data/quarantine.jsonl")
    verdict = "is met" if result["passed"] else "is **not** met"
    lines = [f"# Data contract: {verdict}", "", f"{len(quarantined)} rows quarantined.", ""]
    lines += [f"- `{row['id']}`: {', '.join(row['reasons'])}" for row in quarantined[:20]]
    create_markdown_artifact("\n".join(lines), key="contract", description="Checks of the corpus, and quarantined rows")


def publish_results(workspace: Path, decisions: list[dict[str, Any]]) -> None:
    """Add the metrics table, the decisions with their reasons, and where report and registry are, to the run page."""
    from prefect.artifacts import create_link_artifact, create_markdown_artifact

    from flows.promotion import decisions_markdown

    create_markdown_artifact((workspace / "report/tables.md").read_text(), key="metrics", description="Accuracy by arm and family")
    create_markdown_artifact(decisions_markdown(decisions), key="decisions", description="Decisions of the promotion gate, with reasons")
    report = f"`{(workspace / 'report/report.html').resolve()}` on {host_name().partition(' ')[0]}; it opens in a browser without a server"
    create_markdown_artifact(report, key="report", description="Where the report is")
    tracking = tracking_uri(workspace)
    server = portable(tracking).rstrip("/") if tracking.startswith("http") else ""
    name = ChainRun.of(workspace).name
    write_decisions(workspace, decisions, run=name, registry=server, page_of_run=lambda run_id: page_of_run(connect(workspace), run_id))
    for decision in decisions if server else ():
        link = f"{server}/#/models/{decision['model']}/versions/{decision['version']}"
        create_link_artifact(link, key=decision["model"].replace(".", "-"), link_text=f"{decision['model']} in MLflow")
    if not server:
        create_markdown_artifact(f"`{page_of(tracking)}`", key="mlflow", description="How to open the registry")
