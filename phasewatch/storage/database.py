"""One database, SQLite or PostgreSQL: engine, transactions, and the check that its schema is the code's.

`Database.transaction()` is the only place that commits; everything below it flushes. SQLite runs in WAL with
BEGIN IMMEDIATE for writers, because a transaction that starts as a reader fails when it turns writer.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

from sqlalchemy import Connection, Executable, Table, create_engine, event, inspect, select, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DisconnectionError
from sqlalchemy.orm import Session
from sqlalchemy.pool import ConnectionPoolEntry, PoolProxiedConnection

from phasewatch.errors import InvalidInput, SchemaMismatch
from phasewatch.storage.events import write_events
from phasewatch.storage.schema import REVISION, Base

BUSY_TIMEOUT_S = 30.0
IDLE_S = 1.0
PAGE_SIZE = 16_384
ONE_STATE = "one state"  # in `info` of a session for reading: what may be remembered while it lasts
_READING = "phasewatch_reading"
_WITH_PAYLOADS = ("loss_blocks", "measurements", "series", "slices")


@dataclass(frozen=True)
class Limits:
    """How long PostgreSQL lets things take, in seconds; 0 for any time."""

    statement_s: float = 0.0
    lock_s: float = 0.0
    idle_in_transaction_s: float = 0.0

    def options(self) -> str:
        """As libpq takes them when a connection begins."""
        named = {
            "statement_timeout": self.statement_s,
            "lock_timeout": self.lock_s,
            "idle_in_transaction_session_timeout": self.idle_in_transaction_s,
        }
        return " ".join(f"-c {name}={round(1000 * seconds)}" for name, seconds in named.items() if seconds)


class Database:
    """Engine and transactions of one database.

    Raises InvalidInput for a URL of another database than SQLite or PostgreSQL.
    """

    def __init__(self, url: str, *, pool_size: int = 20, limits: Limits | None = None) -> None:
        self.url = _driver_url(url)
        options: dict[str, Any] = {"pool_size": pool_size, "max_overflow": pool_size}
        if self.is_sqlite:
            if self.url.database in (None, "", ":memory:"):
                raise InvalidInput(f"database {url!r} names no file; use sqlite:///FOLDER/NAME.db")
            Path(str(self.url.database)).parent.mkdir(parents=True, exist_ok=True)
            options["connect_args"] = {"timeout": BUSY_TIMEOUT_S, "check_same_thread": False}
        else:
            if limits is not None and (asked := limits.options()):
                given = str(self.url.query.get("options", ""))
                options["connect_args"] = {"options": f"{asked} {given}".strip()}  # what the URL says counts last
        self.engine = create_engine(self.url, **options)
        if self.is_sqlite:
            event.listen(self.engine, "connect", _prepare_sqlite)
            event.listen(self.engine, "begin", _begin_sqlite)
        self._closings = 0
        event.listen(self.engine, "connect", self._note_opened)
        event.listen(self.engine, "checkin", self._close_late_one)
        if not self.is_sqlite:
            event.listen(self.engine, "checkout", self._ask_idle_one)
        one_state = {} if self.is_sqlite else {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
        self._reading = self.engine.execution_options(**{_READING: True}, **one_state)

    @property
    def is_sqlite(self) -> bool:
        return self.url.get_backend_name() == "sqlite"

    @contextmanager
    def transaction(self) -> Iterator[Session]:
        """A session that commits when the block ends and rolls back when it raises."""
        with Session(self.engine, expire_on_commit=False) as session, session.begin():
            yield session
            write_events(session)

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """A session for reading one consistent state; nothing it does is kept."""
        with Session(self._reading, expire_on_commit=False, info={ONE_STATE: {}}) as session:
            yield session

    def check_schema(self) -> None:
        """Raises SchemaMismatch unless the database's schema is the one this code was written for."""
        found = self.schema_revision()
        if found == REVISION:
            return
        if found is None:
            raise SchemaMismatch(
                f"the database has no schema yet, this code needs {REVISION}: run `python -m server migrate`"
            )
        if found > REVISION:
            raise SchemaMismatch(
                f"the database's schema {found} is newer than this code's {REVISION}: update phasewatch"
            )
        raise SchemaMismatch(
            f"the database's schema {found} is older than this code's {REVISION}: run `python -m server migrate`"
        )

    def schema_revision(self) -> str | None:
        """The revision of the last migration that ran, or None in an empty database."""
        with self.engine.connect() as connection:
            if not inspect(connection).has_table("alembic_version"):
                return None
            revision: str | None = connection.scalar(text("SELECT version_num FROM alembic_version"))
            return revision

    def give_back_space(self) -> None:
        """Lets files shrink after a deletion. Not within a transaction: neither database does it there."""
        if self.is_sqlite:
            with closing(self.engine.raw_connection()) as connection:
                connection.cursor().execute("PRAGMA wal_checkpoint(PASSIVE)")
        else:
            with self.engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
                connection.execute(text(f"VACUUM {', '.join(_WITH_PAYLOADS)}"))

    def close(self) -> None:
        """Closes every connection; one that a thread still uses is closed when that gives it back."""
        self._closings += 1
        self.engine.dispose()

    def _note_opened(self, connection: Any, record: ConnectionPoolEntry) -> None:
        record.info["closings"] = self._closings

    def _ask_idle_one(self, connection: Any, record: ConnectionPoolEntry, proxy: PoolProxiedConnection) -> None:
        """Replaces a connection that lay idle and has gone; to ask at every use would cost as much as to use it."""
        used = record.info.get("used")
        if used is not None and time.monotonic() - used > IDLE_S:
            try:
                self.engine.dialect.do_ping(connection)
            except self.engine.dialect.loaded_dbapi.Error as error:
                raise DisconnectionError(str(error)) from error

    def _close_late_one(self, connection: Any, record: ConnectionPoolEntry) -> None:
        record.info["used"] = time.monotonic()
        if connection is not None and record.info.get("closings") != self._closings:
            connection.close()


def insert_if_absent(session: Session, model: type[Base], values: dict[str, Any]) -> bool:
    """Inserts one row unless its key is taken; True when it was inserted.

    On PostgreSQL this waits for a transaction that is inserting the same key, so the row found afterwards is committed.
    """
    build = sqlite.insert if session.get_bind().dialect.name == "sqlite" else postgresql.insert
    keys = list(inspect(model).primary_key)
    statement = build(model).values(**values).on_conflict_do_nothing().returning(*keys)
    return session.execute(statement).first() is not None


def insert_all_absent(session: Session, table: Table, rows: Sequence[dict[str, Any]]) -> list[tuple[Any, ...]]:
    """Inserts the rows whose keys are free, as `insert_if_absent` does with one; the keys of those.

    Each row has every column.
    """
    session.flush()
    dialect = session.get_bind().dialect.name
    return [tuple(row) for row in session.connection().execute(_insert_absent(table, dialect), rows)]


@lru_cache
def _insert_absent(table: Table, dialect: str) -> Executable:
    build = sqlite.insert if dialect == "sqlite" else postgresql.insert
    return build(table).on_conflict_do_nothing().returning(*table.primary_key)


def tables_of(*models: type[Base]) -> tuple[Table, ...]:
    """The tables of these classes, for statements that do without the ORM."""
    return tuple(cast(Table, model.__table__) for model in models)


def free_disk(session: Session, max_pages: int = 2_000) -> int:
    """Gives pages that deletion emptied back to the disk; bytes freed (0 on PostgreSQL, which vacuums by itself)."""
    if session.get_bind().dialect.name != "sqlite":
        return 0
    session.flush()
    free = min(session.scalar(text("PRAGMA freelist_count")) or 0, max_pages)
    cursor = session.connection().connection.cursor()
    for _ in range(free):
        cursor.execute("PRAGMA incremental_vacuum(1)")  # with a larger number the driver would stop after one page, too
    cursor.close()
    return int(free) * PAGE_SIZE


def database_answers(database: Database) -> bool:
    """True when the database runs a statement; raises the driver's error otherwise."""
    with database.reading() as session:
        return session.scalar(select(1)) == 1


def _driver_url(url: str) -> URL:
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise InvalidInput(
            "the database URL cannot be read; use sqlite:///FILE or postgresql://USER:PASSWORD@HOST/NAME"
        ) from error
    match parsed.get_backend_name():
        case "sqlite":
            return parsed
        case "postgresql" | "postgres":
            return parsed.set(drivername="postgresql+psycopg")
    raise InvalidInput(f"database {parsed.drivername!r} is not supported; use sqlite:/// or postgresql://")


def _prepare_sqlite(connection: Any, record: ConnectionPoolEntry) -> None:
    connection.isolation_level = None  # the driver starts no transaction by itself; `_begin_sqlite` does
    cursor = connection.cursor()
    if cursor.execute("PRAGMA page_count").fetchone()[0] == 0:  # these write, and would wait for whoever writes
        cursor.execute(f"PRAGMA page_size = {PAGE_SIZE}")
        cursor.execute("PRAGMA auto_vacuum = INCREMENTAL")
    if cursor.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
        cursor.execute("PRAGMA journal_mode = WAL")
    cursor.execute("PRAGMA synchronous = FULL")
    cursor.execute("PRAGMA foreign_keys = ON")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    reading = connection.get_execution_options().get(_READING, False)
    connection.exec_driver_sql("BEGIN" if reading else "BEGIN IMMEDIATE")
