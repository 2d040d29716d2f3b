"""Automations of Prefect's server for runs of the chain: failed runs, runs that are late, and runs that crashed without a word.

A run tells the server by heartbeats that it lives. When host or worker disappear, nobody reports its end: it would be recorded as running
for ever, and its deployment, which allows one run at a time, would never run again. The server marks it as crashed then.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import StateType
from prefect.events.actions import CallWebhook, ChangeFlowRunState
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture

from coat_core.storage import sha256_json

FAILED, LATE, LOST = "coat: run failed", "coat: run is late", "coat: run without a sign of life"
_FLOW = {"prefect.resource.role": "flow", "prefect.resource.name": "coat"}
_STATE = "prefect.flow-run."
_SIGNS = frozenset({f"{_STATE}{name}" for name in ("heartbeat", "Pending", "Running")})
_ENDS = frozenset({f"{_STATE}{name}" for name in ("Completed", "Failed", "Crashed", "Cancelled", "TimedOut")})
_MARK = "[coat deploy "
_TEXT = "'coat: ' ~ flow.name ~ ' run ' ~ flow_run.name ~ ' is ' ~ flow_run.state.name ~ ': ' ~ (flow_run.state.message or '')"
PAYLOAD = f'{{"text": {{{{ ({_TEXT}) | tojson }}}}, "run": {{{{ flow_run.id | string | tojson }}}}}}'
"""JSON with the key `text`, as chat services read it."""


def automations(lost_after_s: int, webhook: UUID | None) -> list[AutomationCore]:
    """Return the automations; those that notify need a webhook.

    Args:
        lost_after_s: time without a heartbeat after which a run is marked as crashed, s.
        webhook: id of the block that is called; None: nobody is notified.
    """
    for_each = {"prefect.resource.id"}
    lost = AutomationCore(
        name=LOST,
        trigger=EventTrigger(
            match={"prefect.resource.id": "prefect.flow-run.*"}, match_related=_FLOW, for_each=for_each, posture=Posture.Proactive,
            after=set(_SIGNS), expect=set(_SIGNS | _ENDS), threshold=1, within=timedelta(seconds=lost_after_s),
        ),
        actions=[
            ChangeFlowRunState(
                state=StateType.CRASHED, name="Crashed",
                message=f"no sign of life for {lost_after_s} s: the worker or its host is gone",
            )
        ],
    )  # fmt: skip
    if webhook is None:
        return [_marked(lost)]
    call = CallWebhook(block_document_id=webhook, payload=PAYLOAD)
    events = {FAILED: {f"{_STATE}{name}" for name in ("Failed", "Crashed", "TimedOut")}, LATE: {f"{_STATE}Late"}}
    notifying = [
        AutomationCore(
            name=name,
            trigger=EventTrigger(
                match={"prefect.resource.id": "prefect.flow-run.*"}, match_related=_FLOW, for_each=for_each, posture=Posture.Reactive,
                expect=expected, threshold=1, within=timedelta(0),
            ),
            actions=[call],
        )
        for name, expected in events.items()
    ]  # fmt: skip
    return [_marked(automation) for automation in (lost, *notifying)]


def apply_automations(client: SyncPrefectClient, wanted: list[AutomationCore]) -> dict[str, str]:
    """Create the automations that are missing and change those that differ; return what was done by name.

    One that was switched off by hand stays off.
    """
    done = {}
    for automation in wanted:
        found = client.read_automations_by_name(automation.name)
        for double in found[1:]:
            client.delete_automation(double.id)
        if not found:
            client.create_automation(automation)
            done[automation.name] = "created"
        elif found[0].description != automation.description:
            client.update_automation(found[0].id, automation.model_copy(update={"enabled": found[0].enabled}))
            done[automation.name] = "changed"
        else:
            done[automation.name] = "as before"
    return done


def _marked(automation: AutomationCore) -> AutomationCore:
    """Return an automation with its fingerprint in the description: the server returns its fields in another form."""
    fields: dict[str, Any] = automation.model_dump(mode="json", exclude={"description"})
    for key in ("after", "expect", "for_each"):
        fields["trigger"][key] = sorted(fields["trigger"][key])
    return automation.model_copy(update={"description": f"{_MARK}{sha256_json(fields)[:16]}]"})
