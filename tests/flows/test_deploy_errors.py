"""What `coat deploy` and `coat run` say when `prefect.yaml`, a variable or the Prefect server is not as it should be: one line."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from coat_core.errors import CoatError
from coat_core.pipeline.workspace import repository_root
from flows.deployments import read_deployments
from tests.testing.chain_runs import PARAMS, environment
from tests.testing.http_server import answering

COAT = Path(sys.executable).with_name("coat")


def written(folder: Path, **schedule: Any) -> Path:
    content = yaml.safe_load((repository_root() / "prefect.yaml").read_text())
    content["deployments"][0]["schedules"] = [schedule]
    (folder / "prefect.yaml").write_text(yaml.safe_dump(content))
    return folder / "prefect.yaml"


def test_the_nightly_deployment_has_a_time_zone_and_a_version_of_its_content(tmp_path: Path) -> None:
    declared = read_deployments(repository_root() / "prefect.yaml")
    assert list(declared) == ["nightly", "manual"]
    assert declared["nightly"]["schedules"] == [{"cron": "0 2 * * *", "timezone": "UTC", "active": True}]
    same = read_deployments(written(tmp_path, **declared["nightly"]["schedules"][0]))
    assert {name: entry["version"] for name, entry in same.items()} == {name: entry["version"] for name, entry in declared.items()}
    other = read_deployments(written(tmp_path, cron="0 2 * * *", timezone="Europe/Berlin", active=True))
    assert other["nightly"]["version"] != declared["nightly"]["version"]
    assert other["manual"]["version"] == declared["manual"]["version"]


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        ({"cron": "0 2 * * *"}, "a schedule needs a time zone"),
        ({"cron": "0 2 * * *", "timezone": ""}, "a schedule needs a time zone"),
        ({"cron": "0 2 * * *", "timezone": "Mars/Olympus"}, "a schedule is invalid"),
        ({"cron": "at night", "timezone": "UTC"}, "a schedule is invalid"),
        ({"every": "night", "timezone": "UTC"}, "a schedule is invalid"),
    ],
    ids=["no-zone", "empty-zone", "unknown-zone", "cron", "no-cron"],
)
def test_a_schedule_that_cannot_be_meant_is_refused(tmp_path: Path, schedule: dict[str, Any], message: str) -> None:
    with pytest.raises(CoatError, match=rf"{message}; field: deployments.nightly.schedules; .*next step: .* prefect.yaml"):
        read_deployments(written(tmp_path, **schedule))


def said(folder: Path, *arguments: str, **variables: str) -> str:
    """Run a command that must fail with one line, and return the line."""
    done = subprocess.run(
        [COAT, *arguments], cwd=folder, capture_output=True, text=True, env=environment(PYTHONPATH=str(repository_root()), **variables)
    )
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    return line


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """A folder in which `coat run` reaches the Prefect server; what comes after it is missing."""
    shutil.copy(PARAMS, tmp_path / "params.yaml")
    return tmp_path


def test_without_a_server_nothing_is_deployed(tmp_path: Path) -> None:
    assert said(tmp_path, "deploy").startswith("coat: deployments need a Prefect server that stays; field: PREFECT_API_URL; next step: ")


def test_the_address_of_a_webhook_is_checked_and_not_repeated(tmp_path: Path) -> None:
    line = said(tmp_path, "deploy", PREFECT_API_URL="http://127.0.0.1:9/api", COAT_NOTIFY_URL="file:///very/secret")
    assert line == "coat: this is not the address of a webhook; field: COAT_NOTIFY_URL; allowed: https://HOST/PATH"


@pytest.mark.parametrize("command", ["deploy", "run"])
def test_a_server_that_refuses_or_does_not_answer_is_one_line(workspace: Path, command: str) -> None:
    with answering(lambda path, header: 401 if header else 403) as url:
        address = url.replace("://", "://ada:geheim@") + "/api"
        line = said(workspace, command, PREFECT_API_URL=address, PREFECT_API_AUTH_STRING="ada:geheim")
    assert line.startswith(f"coat: the Prefect server refused the credentials; field: PREFECT_API_URL; value: '{url}/api'")
    assert "PREFECT_API_AUTH_STRING" in line
    assert "geheim" not in line
    line = said(workspace, command, PREFECT_API_URL=f"{url}/api")
    assert line.startswith(f"coat: the Prefect server does not answer; field: PREFECT_API_URL; value: '{url}/api'; next step: start it")
    assert not (workspace / ".scratch/prefect").exists(), "no server of its own was started"
