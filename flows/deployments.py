"""`coat deploy`: the work pool, the deployments of `prefect.yaml`, the notification and the automations on a Prefect server.

The same call again changes nothing. What someone has changed on Prefect's page (a paused schedule, an automation that is off) stays until
the file changes.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from coat_core.errors import CoatError, StageError
from coat_core.pipeline.workspace import repository_root
from coat_core.storage import sha256_json
from flows.dvc import environment, tool
from flows.prefect_errors import API_URL, explained

FILE = "prefect.yaml"
NOTIFY_URL = "COAT_NOTIFY_URL"
"""Address of the webhook. It often contains a secret, so it is no argument: arguments are visible in the list of processes."""
WEBHOOK = "coat-notification"
LOST_AFTER_S = 300
"""Five heartbeats of a worker (`prefect.yaml`)."""
SHORTEST_S = 90
_FLOW = "coat"


def deploy(*, lost_after_s: int = LOST_AFTER_S, echo: Callable[[str], None] = print) -> None:
    """Bring the server in `PREFECT_API_URL` up to date.

    Args:
        lost_after_s: time without a heartbeat after which a run is marked as crashed, s.
        echo: prints one line.

    Raises:
        CoatError: `PREFECT_API_URL` or `COAT_NOTIFY_URL` is missing or invalid, or `prefect.yaml` has an invalid schedule.
        StageError: the server does not answer, refuses the credentials, or refuses a deployment.
    """
    if not os.environ.get(API_URL):
        raise CoatError(
            "deployments need a Prefect server that stays", field=API_URL, next_step=f"start one, and set {API_URL}=http://HOST:4200/api"
        )
    url = _notify_url()
    declared = read_deployments(repository_root() / FILE)
    with explained():
        from prefect.client.orchestration import get_client

        from flows.automations import FAILED, LATE, apply_automations, automations

        with get_client(sync_client=True) as client:
            for pool in sorted({entry["work_pool"]["name"] for entry in declared.values()}):
                echo(f"work pool {pool}: {_apply_pool(client, pool)}")
            for name, entry in declared.items():
                echo(f"deployment {_FLOW}/{name}: {_apply_deployment(client, name, entry)}")
            webhook, done = _apply_webhook(client, url)
            if webhook is not None:
                echo(f"notification: {done}")
            for name, done in apply_automations(client, automations(lost_after_s, webhook)).items():
                echo(f"automation {name}: {done}")
            if webhook is None:
                echo(f"nobody is notified ({FAILED}, {LATE}): set {NOTIFY_URL} to a webhook, and run the same command again")


def read_deployments(path: Path) -> dict[str, dict[str, Any]]:
    """Return the deployments of `prefect.yaml` by name, each with the pull steps and a version that names its content.

    Raises:
        CoatError: a schedule has no time zone, or is invalid.
    """
    content = yaml.safe_load(path.read_text())
    found = {}
    for entry in content["deployments"]:
        for schedule in entry.get("schedules", ()):
            _check_schedule(entry["name"], schedule)
        version = sha256_json({"pull": content.get("pull"), **entry})[:16]
        found[entry["name"]] = {**entry, "version": version}
    return found


def _check_schedule(name: str, schedule: Mapping[str, Any]) -> None:
    from prefect.client.schemas.schedules import CronSchedule
    from pydantic import ValidationError

    field = f"deployments.{name}.schedules"
    if not schedule.get("timezone"):
        raise CoatError(
            "a schedule needs a time zone", field=field, value=dict(schedule), allowed="a name such as UTC or Europe/Berlin",
            next_step=f"add timezone to {FILE}",
        )  # fmt: skip
    try:
        CronSchedule(cron=schedule["cron"], timezone=schedule["timezone"])
    except (KeyError, ValidationError, ValueError) as error:
        raise CoatError(
            "a schedule is invalid", field=field, value=dict(schedule), allowed="cron with five fields, and a time zone by name",
            next_step=f"correct it in {FILE}",
        ) from error  # fmt: skip


def _notify_url() -> str | None:
    url = os.environ.get(NOTIFY_URL)
    if url and (urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname):
        # The address is not repeated: it can contain a secret.
        raise CoatError("this is not the address of a webhook", field=NOTIFY_URL, allowed="https://HOST/PATH")
    return url or None


def _apply_pool(client: Any, name: str) -> str:
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.exceptions import ObjectNotFound

    try:
        return f"as before ({client.read_work_pool(name).type})"
    except ObjectNotFound:
        client.create_work_pool(WorkPoolCreate(name=name, type="process"))
        return "created (process)"


def _apply_deployment(client: Any, name: str, entry: Mapping[str, Any]) -> str:
    from prefect.exceptions import ObjectNotFound

    try:
        found = client.read_deployment_by_name(f"{_FLOW}/{name}")
    except ObjectNotFound:
        found = None
    if found is not None and found.version == entry["version"]:
        return "as before"
    command = [tool("prefect"), "--no-prompt", "deploy", "--name", name, "--version", entry["version"]]
    done = subprocess.run(command, cwd=repository_root(), capture_output=True, text=True, env=environment(PREFECT_CLI_PROMPT="false"))
    if done.returncode:
        said = " ".join((done.stderr.strip() or done.stdout.strip())[-500:].split())
        raise StageError(f"Prefect refused the deployment {name}: {said}", field=FILE, value=name, next_step=f"correct {FILE}")
    return "created" if found is None else "changed"


def _apply_webhook(client: Any, url: str | None) -> tuple[Any, str]:
    """Return the id of the notification's block, and what was done; without an address that of an earlier call, or None."""
    from prefect.blocks.webhook import Webhook

    try:
        known: Any = Webhook.load(WEBHOOK)
    except ValueError:
        known = None
    wanted = Webhook(method="POST", url=url, headers={"Content-Type": "application/json"}) if url else None
    if wanted is None:
        return (known._block_document_id, "as before") if known is not None else (None, "")
    if known is not None and (known.url, known.headers, known.method) == (wanted.url, wanted.headers, wanted.method):
        return known._block_document_id, "as before"
    return wanted.save(WEBHOOK, overwrite=True), "created" if known is None else "changed"
