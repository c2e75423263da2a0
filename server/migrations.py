"""Brings a database to this code's schema, or back; the scripts lie beside this package in migrations/.

A migration waits at most five seconds for a lock, so that it fails instead of stopping the service behind it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, text

from phasewatch.errors import SchemaMismatch
from phasewatch.storage.database import Database
from phasewatch.storage.schema import REVISION

SCRIPTS = Path(__file__).parent.parent / "migrations"
LOCK_TIMEOUT = "5s"
_LOCK = 7_234_002


def upgrade(database: Database, revision: str = "head") -> None:
    """Runs the migrations that are missing; several processes may call it at once.

    Raises SchemaMismatch where the database's schema is newer than the code.
    """
    found = database.schema_revision()
    if found is not None and found > REVISION:
        raise SchemaMismatch(f"the database's schema {found} is newer than this code's {REVISION}: update phasewatch")
    _run(database, revision, down=False)


def downgrade(database: Database, revision: str) -> None:
    """Takes migrations back down to `revision` ("base" for an empty database)."""
    _run(database, revision, down=True)


def _run(database: Database, revision: str, *, down: bool) -> None:
    config = Config()
    config.set_main_option("script_location", str(SCRIPTS).replace("%", "%%"))
    with database.engine.connect() as connection, _without_cascades(connection), connection.begin():
        if connection.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
            connection.execute(text(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'"))
        config.attributes["connection"] = connection
        (command.downgrade if down else command.upgrade)(config, revision)


@contextmanager
def _without_cascades(connection: Connection) -> Iterator[None]:
    """On SQLite a table is altered by dropping it for a copy, which would delete every row that refers to it."""
    if connection.dialect.name != "sqlite":
        yield
        return
    cursor = connection.connection.cursor()  # the driver's own: a statement of ours would begin a transaction
    cursor.execute("PRAGMA foreign_keys = OFF")
    try:
        yield
    finally:
        cursor.execute("PRAGMA foreign_keys = ON")
        cursor.close()
