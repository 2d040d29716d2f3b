"""The files of docker/: consistent with each other and with the project. No engine is started."""

from __future__ import annotations

import configparser
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from coat_core.serving.limits import Limits

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "docker"
DOCKERFILE = (FOLDER / "Dockerfile").read_text()
COMPOSE = (FOLDER / "compose.yaml").read_text()
SERVICES: dict[str, Any] = yaml.safe_load(COMPOSE)["services"]
EXAMPLE = dict(line.split("=", 1) for line in (FOLDER / ".env.example").read_text().splitlines() if line and not line.startswith("#"))
SECRET = re.compile("PASSWORD|SECRET|AUTH_STRING")


def _targets() -> dict[str, str]:
    """Return the instructions of each stage, those of its parents first."""
    targets: dict[str, str] = {}
    for part in re.split(r"^FROM ", DOCKERFILE, flags=re.M)[1:]:
        head, _, text = part.partition("\n")
        parent, _, name = head.partition(" AS ")
        targets[name] = targets.get(parent, "") + text
    return targets


TARGETS = _targets()


def test_the_services_are_those_that_production_needs() -> None:
    assert set(SERVICES) == {"db", "s3", "mlflow", "prefect", "worker", "serve"}
    assert [name for name, service in SERVICES.items() if "profiles" in service] == ["serve"], "there is no version to serve at first"


@pytest.mark.parametrize("name", SERVICES)
def test_every_service_has_a_health_check_and_starts_after_what_it_needs(name: str) -> None:
    assert SERVICES[name]["healthcheck"]["test"][0] == "CMD"
    for needed, how in SERVICES[name].get("depends_on", {}).items():
        assert (needed in SERVICES, how) == (True, {"condition": "service_healthy"})


@pytest.mark.parametrize("name", [name for name, service in SERVICES.items() if "build" in service])
def test_the_target_of_every_service_exists_and_runs_its_command(name: str) -> None:
    build = SERVICES[name]["build"]
    assert (ROOT / "docker" / build["context"]).resolve() == ROOT
    assert (ROOT / build["dockerfile"]).is_file()
    stage = TARGETS[build["target"]]
    command = SERVICES[name].get("command") or re.findall(r'^CMD \["(.*)"\]', stage, re.M)[-1:]
    assert os.access(FOLDER / "bin" / command[0], os.X_OK)
    assert os.access(FOLDER / "bin" / SERVICES[name]["healthcheck"]["test"][1], os.X_OK)
    arguments = set(build.get("args", {}))
    assert arguments == set(re.findall(r"^ARG (GIT_COMMIT)", stage, re.M))


def test_the_served_container_may_answer_its_accepted_requests_before_it_is_killed() -> None:
    minutes = re.fullmatch(r"(\d+)m", SERVICES["serve"]["stop_grace_period"])
    assert minutes is not None
    assert int(minutes[1]) * 60 > Limits().timeout_s, "coat serve itself waits for so long"


@pytest.mark.parametrize("name", ["train", "serve", "server"])
def test_no_target_runs_as_root(name: str) -> None:
    assert re.findall(r"^USER (\S+)", TARGETS[name], re.M)[-1:] == ["10001:10001"]


def test_the_dockerfile_is_read_without_a_frontend_from_a_registry_and_holds_no_secret() -> None:
    assert "syntax=" not in DOCKERFILE
    assert not [name for name in re.findall(r"^(?:ARG|ENV) (.*)", DOCKERFILE, re.M) if SECRET.search(name)]


def test_no_password_is_in_the_compose_file() -> None:
    values = [(key, str(value)) for service in SERVICES.values() for key, value in service.get("environment", {}).items()]
    secret = [(key, value) for key, value in values if SECRET.search(key)]
    assert len(secret) >= 10
    assert [(key, value) for key, value in secret if not re.fullmatch(r"\$\{\w+:\?[^}]*\}", value)] == []
    assert [value for _, value in values if re.search(r"://[^/@]*:[^/@]*@", value)] == [], "a password within a URI"
    commands = [str(service.get("command", "")) for service in SERVICES.values()]
    assert not [command for command in commands if "$" in command], "arguments are visible to every process of the host"


def test_required_values_are_in_the_example_as_placeholders() -> None:
    required = set(re.findall(r"\$\{(\w+):\?", COMPOSE))
    assert required <= set(EXAMPLE)
    assert all("change-me" in value for name, value in EXAMPLE.items() if SECRET.search(name))


def test_make_env_writes_random_values_once_for_this_user_only(tmp_path: Path) -> None:
    for name in ("make_env", ".env.example"):
        (tmp_path / name).write_bytes((FOLDER / name).read_bytes())
    for _ in range(2):
        subprocess.run(["sh", tmp_path / "make_env"], check=True, capture_output=True)
        made = (tmp_path / ".env").read_text()
        values = dict(line.split("=", 1) for line in made.splitlines() if line and not line.startswith("#"))
        assert values.keys() == EXAMPLE.keys()
        random = [value.rpartition(":")[2] for name, value in values.items() if SECRET.search(name)]
        assert len(set(random)) == len(random) == 5
        assert all(re.fullmatch("[0-9a-f]{48}", value) for value in random)
        assert (tmp_path / ".env").stat().st_mode & 0o777 == 0o600
        (tmp_path / "first").write_text((tmp_path / "first").read_text() if (tmp_path / "first").exists() else made)
        assert made == (tmp_path / "first").read_text(), "an existing file is kept"


def test_secrets_may_be_files(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("a b$c\n")
    environment = {"PATH": os.environ["PATH"], "PGPASSWORD_FILE": str(tmp_path / "secret"), "PREFECT_API_AUTH_STRING": "kept"}
    command = ["sh", FOLDER / "bin/with-secrets", "sh", "-c", 'echo "$PGPASSWORD|$PREFECT_API_AUTH_STRING|${PGPASSWORD_FILE:-none}"']
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    assert done.stdout == "a b$c|kept|none\n"
    environment["PGPASSWORD_FILE"] = str(tmp_path / "missing")
    assert subprocess.run(command, env=environment, capture_output=True).returncode


def test_the_context_leaves_out_what_is_large_or_secret() -> None:
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    assert lines[0] == "*", "what is not named is left out"
    assert {".git", ".venv", "workspaces", "**/.env"} <= set(lines[1:])
    named = {line[1:] for line in lines if line.startswith("!")}
    copied = {source for line in re.findall(r"^COPY (.*) \S+$", DOCKERFILE, re.M) for source in line.split()}
    assert all(any(source == name or name.startswith(f"{source}/") for name in named) for source in copied)
    assert all((ROOT / name).exists() for name in named)


def test_the_servers_versions_do_not_contradict_the_lock() -> None:
    locked = {line.partition("==")[0].lower() for line in (ROOT / "requirements.lock").read_text().splitlines() if "==" in line}
    lines = [line for line in (FOLDER / "requirements-server.txt").read_text().splitlines() if not line.startswith("#")]
    assert [line for line in lines if ("==" in line) == (line.partition("==")[0].lower() in locked)] == []


def test_the_accounts_are_in_a_database_that_is_made() -> None:
    accounts = configparser.ConfigParser()
    accounts.read(FOLDER / "basic_auth.ini")
    database = accounts["mlflow"]["database_uri"].rpartition("/")[2]
    made = re.findall(r"CREATE DATABASE (\w+);", (FOLDER / "databases.sql").read_text())
    assert database in made
    assert SERVICES["prefect"]["environment"]["PREFECT_API_DATABASE_CONNECTION_URL"].rpartition("/")[2] in made
    assert "admin_password" not in accounts["mlflow"]
