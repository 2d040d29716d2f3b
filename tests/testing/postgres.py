"""A PostgreSQL server of the tests: on a free port of the loopback interface, thrown away at the end."""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from coat_core.servers import free_port

USER, PASSWORD = "coat", "secret-of-the-tests"
_HANG_S = 600.0
_OPTIONS = ("fsync=off", "max_connections=50", "log_min_messages=fatal")


def binaries() -> Path | None:
    """Return the folder of PostgreSQL's programs; None if they are not installed."""
    found = shutil.which("initdb")
    places = [*sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True), *([Path(found).parent] if found else [])]
    return next((place for place in places if (place / "initdb").exists() and (place / "pg_ctl").exists()), None)


def _account() -> pwd.struct_passwd | None:
    try:
        return pwd.getpwnam("postgres") if os.geteuid() == 0 else None
    except KeyError:
        return None


def reason_to_skip() -> str:
    """Return why tests with PostgreSQL cannot run here; empty if they can."""
    if binaries() is None:
        return "PostgreSQL's programs are not installed (Debian: postgresql)"
    if importlib.util.find_spec("psycopg2") is None:
        return "the extra `server` is not installed (psycopg2)"
    if os.geteuid() == 0 and _account() is None:
        return "PostgreSQL refuses root, and there is no user postgres"
    return ""


class PostgresServer:
    """A cluster in a folder of its own. As root, its processes run as the user postgres."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        self._data = folder / "data"
        self._programs = binaries()
        password = folder / "password"
        password.write_text(PASSWORD)
        if account := _account():
            for path in (folder, password):
                os.chown(path, account.pw_uid, account.pw_gid)
        self._call(
            "initdb", "-D", self._data, "-U", USER, f"--pwfile={password}", "--auth=scram-sha-256", "--locale=C.UTF-8", "-E", "UTF8",
            "--no-sync",
        )  # fmt: skip

    def uri(self, database: str, scheme: str = "postgresql") -> str:
        """Return the URI of a database, with its password."""
        return f"{scheme}://{USER}:{PASSWORD}@127.0.0.1:{self.port}/{database}"

    def start(self) -> None:
        """Start the server and wait until it accepts connections."""
        options = " ".join(f"-c {option}" for option in _OPTIONS)
        server = f"-h 127.0.0.1 -p {self.port} -k {self.folder} {options}"
        command = ("-D", self._data, "-w", "-t", "120", "-l", self.folder / "log", "-o", server, "start")
        deadline = time.monotonic() + _HANG_S
        # After SIGKILL the processes of the last server may still be ending.
        while (done := self._call("pg_ctl", *command, check=False)).returncode:
            assert time.monotonic() < deadline, (self.folder / "log").read_text() + done.stderr
            time.sleep(0.2)

    def kill(self) -> None:
        """End the server with SIGKILL."""
        pid = int((self._data / "postmaster.pid").read_text().splitlines()[0])
        os.kill(pid, signal.SIGKILL)

    def stop(self) -> None:
        """End the server at once."""
        self._call("pg_ctl", "-D", self._data, "-m", "immediate", "stop", check=False)

    def create(self, database: str, template: str = "template0") -> str:
        """Create a database and return its URI."""
        self.query(f'CREATE DATABASE "{database}" TEMPLATE "{template}"')
        return self.uri(database)

    def query(self, statement: str, database: str = "postgres") -> list[tuple[object, ...]]:
        """Run one statement and return its rows."""
        import sqlalchemy

        engine = sqlalchemy.create_engine(self.uri(database), isolation_level="AUTOCOMMIT", poolclass=sqlalchemy.pool.NullPool)
        with engine.connect() as connection:
            found = connection.exec_driver_sql(statement)
            return [tuple(row) for row in found] if found.returns_rows else []

    def _call(self, program: str, *arguments: object, check: bool = True) -> subprocess.CompletedProcess[str]:
        assert self._programs is not None
        user = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
        command = [*user, str(self._programs / program), *map(str, arguments)]
        # `pg_ctl` leaves its output to the server: a pipe would never end.
        with tempfile.TemporaryFile("w+") as output:
            done = subprocess.run(command, cwd="/", stdin=subprocess.DEVNULL, stdout=output, stderr=output, check=False, timeout=_HANG_S)
            output.seek(0)
            text = output.read()
        assert done.returncode == 0 or not check, text
        return subprocess.CompletedProcess(command, done.returncode, "", text)


@contextmanager
def running() -> Iterator[PostgresServer]:
    """Run a server until the block ends."""
    # Not below pytest's own folders: the user postgres cannot enter them.
    with tempfile.TemporaryDirectory(prefix="coat-postgres-", ignore_cleanup_errors=True) as folder:
        server = PostgresServer(Path(folder))
        server.start()
        try:
            yield server
        finally:
            server.stop()
