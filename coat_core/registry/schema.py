"""MLflow's tables in a PostgreSQL database that several hosts open themselves."""

from __future__ import annotations

from functools import cache

from coat_core.errors import RegistryError
from coat_core.registry.artifacts import new_root
from coat_core.registry.locks import advisory_lock
from coat_core.registry.postgres import connection
from coat_core.registry.uris import TRACKING_URI, portable


@cache
def prepare(uri: str) -> None:
    """Create MLflow's tables in an empty database; every process calls it at its start, and one creates them.

    MLflow's own lock is a file of one host: of two hosts that start at once, one would fail. Tables of another version of MLflow are
    never changed here: that needs a backup, and ends the work of hosts with the other version.

    Args:
        uri: `postgresql://…`.

    Raises:
        RegistryError: see `postgres.connection`; or no artifact root is set; or the tables are of another version of MLflow.
    """
    found = _revision(uri)
    if found is None:
        root = new_root()
        with advisory_lock(uri, "schema"):
            found = _revision(uri)
            if found is None:
                _create(uri, root)
                found = _revision(uri)
    from mlflow.store.db.utils import _get_latest_schema_revision

    needed = _get_latest_schema_revision()
    if found != needed:
        raise RegistryError(
            "the database has the tables of another version of MLflow", field=TRACKING_URI, value=portable(uri),
            allowed=f"revision {needed}; found: {found}",
            next_step="install the same requirements.lock on every host; if this host has the newer version, back the database up and run: "
            f'.venv/bin/mlflow db upgrade "${TRACKING_URI}"',
        )  # fmt: skip


def _create(uri: str, root: str) -> None:
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    SqlAlchemyStore(uri, root)


def _revision(uri: str) -> str | None:
    """Return the revision of MLflow's tables; None without any, or where their creation was interrupted."""
    import sqlalchemy

    with connection(uri) as opened:
        if not sqlalchemy.inspect(opened).has_table("alembic_version"):
            return None
        found = opened.exec_driver_sql("SELECT version_num FROM alembic_version").scalar()
        return None if found is None else str(found)
