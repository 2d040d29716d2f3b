"""What the run page shows, and the runs that a dead process left open."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from coat_core import storage
from coat_core.registry.database import tracking_uri
from coat_core.watchdog import is_alive

_OWNER_TAG = "owner:"


def close_dead_flow_runs() -> int:
    """Mark flow runs as crashed whose process is gone, and return how many there were."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterState, FlowRunFilterStateType
    from prefect.client.schemas.objects import StateType
    from prefect.states import Crashed

    open_states = FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.RUNNING, StateType.PENDING, StateType.CANCELLING]))
    closed = 0
    with get_client(sync_client=True) as client:
        for run in client.read_flow_runs(flow_run_filter=FlowRunFilter(state=open_states)):
            owners = [tag.removeprefix(_OWNER_TAG) for tag in run.tags if tag.startswith(_OWNER_TAG)]
            if owners and not any(map(is_alive, owners)):
                client.set_flow_run_state(run.id, Crashed(message="the process that ran it is gone"), force=True)
                closed += 1
    return closed


def publish_contract(workspace: Path) -> None:
    """Show the contract's result on the run page."""
    from prefect.artifacts import create_markdown_artifact

    result = storage.read_json(workspace / "data/contract/results.json")
    quarantined = storage.read_jsonl(workspace / "data/quarantine.jsonl")
    verdict = "holds" if result.get("success") else "does **not** hold"
    lines = [f"# Data contract: {verdict}", "", f"{len(quarantined)} rows set aside.", ""]
    lines += [f"- `{row.get('id')}`: {', '.join(map(str, row.get('reasons', [])))}" for row in quarantined[:20]]
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
