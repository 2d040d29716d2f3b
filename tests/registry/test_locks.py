"""The lock of the registry between processes: PostgreSQL's advisory lock for all hosts, a file for one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from coat_core.errors import RegistryError, RegistryUnavailableError
from coat_core.registry import locks, postgres
from coat_core.registry.locks import lock_database, locked
from tests.testing.hosts import Host, hosts
from tests.testing.postgres import PASSWORD, PostgresServer, running
from tests.testing.services import needs_postgres

HOLDERS = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted"


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with running() as server:
        yield server


@pytest.fixture
def uri(server: PostgresServer, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.delenv("COAT_REGISTRY_LOCK", raising=False)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri("postgres"))
    return server.uri("postgres")


@pytest.fixture
def host(uri: str, tmp_path: Path) -> Iterator[Host]:
    with hosts([tmp_path], registry=False, MLFLOW_TRACKING_URI=uri) as (host,):
        yield host


@pytest.mark.parametrize(
    ("tracking", "named", "database"),
    [
        ("", "", ""),
        ("sqlite:////x/mlflow.db", "", ""),
        ("http://tracking:5000", "", ""),
        ("postgresql://db/mlflow", "", "postgresql://db/mlflow"),
        ("http://tracking:5000", "postgresql+psycopg://db/x", "postgresql+psycopg://db/x"),
        ("postgresql://db/mlflow", "postgresql://db/x", "postgresql://db/x"),
    ],
)
def test_the_store_decides_where_the_lock_is(tracking: str, named: str, database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking)
    monkeypatch.setenv("COAT_REGISTRY_LOCK", named)
    assert lock_database() == database


def test_another_database_than_postgresql_has_no_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COAT_REGISTRY_LOCK", f"mysql://ada:{PASSWORD}@db/x")
    with pytest.raises(RegistryError, match=r"needs a PostgreSQL database.*COAT_REGISTRY_LOCK.*'mysql://db/x'.*allowed") as caught:
        lock_database()
    assert PASSWORD not in str(caught.value)


@needs_postgres
def test_a_second_host_waits_and_is_told_who_holds_the_lock(uri: str, host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    host.ask("lock", True)
    assert host.answer() == "held"
    monkeypatch.setattr(locks, "_TIMEOUT_S", 0.0)
    with pytest.raises(RegistryError, match=rf"coat {host.pid} on .* has held the lock of the registry") as caught, locked(tmp_path):
        pass
    assert PASSWORD not in str(caught.value)
    host.write()
    assert host.answer() == "released"
    with locked(tmp_path), locked(tmp_path):
        pass


@needs_postgres
def test_the_lock_of_a_killed_process_is_free(server: PostgresServer, host: Host, tmp_path: Path) -> None:
    host.ask("lock", True)
    assert host.answer() == "held"
    assert server.query(HOLDERS) == [(1,)]
    host.kill()
    with locked(tmp_path):
        assert server.query(HOLDERS) == [(1,)]
    assert server.query(HOLDERS) == [(0,)]


@needs_postgres
def test_a_lock_that_is_lost_within_the_block_is_an_error_that_can_be_retried(server: PostgresServer, uri: str, tmp_path: Path) -> None:
    with pytest.raises(RegistryUnavailableError, match="was lost while the registry was written") as caught, locked(tmp_path):
        server.query("SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory'")
    assert caught.value.retryable
    with locked(tmp_path):
        pass


@needs_postgres
def test_a_restart_of_the_server_is_waited_for(server: PostgresServer, uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []

    def restart(pause_s: float) -> None:
        pauses.append(pause_s)
        if len(pauses) == 2:
            server.start()

    server.kill()
    monkeypatch.setattr(postgres.time, "sleep", restart)
    with locked(tmp_path):
        pass
    assert pauses[:2] == [2.0, 4.0]


@needs_postgres
@pytest.mark.parametrize(
    ("change", "kind", "words"),
    [
        (("postgres", "absent"), "RegistryError", 'database "absent" does not exist.*create the database'),
        ((PASSWORD, "wrong-secret"), "RegistryRefusedError", "refused the account.*correct user and password"),
        (("postgresql", "postgresql+nodriver"), "RegistryError", "not the URI of a PostgreSQL database.*allowed: postgresql://USER"),
        (("127.0.0.1:", "127.0.0.1:x"), "RegistryError", "not the URI of a PostgreSQL database"),
    ],
    ids=["no-database", "wrong-password", "unknown-driver", "no-port"],
)
def test_what_is_wrong_with_a_uri_is_said_without_its_password(
    server: PostgresServer, change: tuple[str, str], kind: str, words: str
) -> None:
    uri = f"{server.uri('')}postgres"
    old, new = change
    uri = uri[: uri.rindex(old)] + new + uri[uri.rindex(old) + len(old) :]
    with pytest.raises(RegistryError, match=words) as caught, postgres.connection(uri, patient=False):
        pass
    assert type(caught.value).__name__ == kind
    assert not any(secret in str(caught.value) for secret in (PASSWORD, "wrong-secret"))


def test_a_server_that_is_down_is_an_error_that_can_be_retried() -> None:
    uri = "postgresql://ada:geheim@127.0.0.1:9/db"
    pytest.importorskip("psycopg2", reason="the extra `server` is not installed")
    match = r"does not answer.*'postgresql://127.0.0.1:9/db'"
    with pytest.raises(RegistryUnavailableError, match=match) as caught, postgres.connection(uri, patient=False):
        pass
    assert "geheim" not in str(caught.value)


def test_without_the_driver_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "psycopg2", None)
    with (
        pytest.raises(
            RegistryError, match=r"MLFLOW_TRACKING_URI.*'postgresql://db/x'.*install the extra `server`: .*\.\[server\]"
        ) as caught,
        postgres.connection("postgresql://ada:geheim@db/x"),
    ):
        pass
    assert "geheim" not in str(caught.value)
