"""Deleting a run with all it holds, in batches small enough that nobody waits, and how much disk that freed.

The one piece of storage with transactions of its own: a run may hold gigabytes, and a transaction of that size would
keep every other writer out. A deletion that is cut short is finished by the next one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, delete, func, literal, literal_column, select
from sqlalchemy.orm import Session

from phasewatch.errors import Conflict
from phasewatch.storage.artifacts import Artifacts
from phasewatch.storage.database import Database, free_disk
from phasewatch.storage.events import emit
from phasewatch.storage.runs import get_run, list_segments, set_status
from phasewatch.storage.schema import (
    ENDED,
    Checkpoint,
    LossBlock,
    LossSlice,
    MeasurementRow,
    ProbeSetRow,
    Run,
    SeriesValue,
    SliceRow,
    utc_now,
)

# What a segment holds, with how many rows go at once: a block is some 20 kB, the rest are small. Loss slices go before
# their blocks, so that nobody reads a slice that has lost some of them.
_TABLES: tuple[tuple[Any, int], ...] = (
    (LossSlice, 2_000),
    (MeasurementRow, 1_000),
    (SeriesValue, 5_000),
    (Checkpoint, 2_000),
    (LossBlock, 250),
)


@dataclass(frozen=True)
class Freed:
    """What a deletion freed: rows, bytes in the database, bytes of files.

    On SQLite these bytes went back to the disk. On PostgreSQL they are the arrays that were deleted: the space can be
    used again at once, and what lay at the end of a table's file goes back to the disk.
    """

    n_rows: int
    database_bytes: int
    artifacts_bytes: int

    @property
    def n_bytes(self) -> int:
        """Database and files together."""
        return self.database_bytes + self.artifacts_bytes


def delete_run(database: Database, artifacts: Artifacts, run_id: UUID) -> Freed:
    """Deletes a run, its segments, losses, measurements, changes, jobs and files; its probe set if no run shares it.

    Raises NotFound, Conflict while a trainer holds the run, Unavailable when the files cannot be deleted.
    """
    with database.transaction() as session:
        segments = _close(session, run_id)
    n_rows, freed = 0, 0
    for batch_rows, batch_bytes in _batches(database, segments):
        n_rows, freed = n_rows + batch_rows, freed + batch_bytes
    files = artifacts.delete_folder(str(run_id))
    with database.transaction() as session:
        freed += _delete_row(session, run_id)
    while pages := _free(database):
        freed += pages
    database.give_back_space()
    return Freed(n_rows + 1, freed, files)


def _close(session: Session, run_id: UUID) -> list[int]:
    """The ids of the run's segments. No trainer takes the run from here on."""
    run = get_run(session, run_id, lock=True)
    if run.owner is not None and run.lease_expires_at is not None and run.lease_expires_at > utc_now():
        raise Conflict(f"run {run_id} is held by {run.owner}; cancel it, and delete it when the trainer has let go")
    if run.status not in ENDED:
        set_status(session, run, "cancelled")
    return [segment.id for segment in list_segments(session, run_id)]


def _batches(database: Database, segments: list[int]) -> Iterator[tuple[int, int]]:
    """(rows, bytes) of every batch, each a transaction."""
    for table, limit in _TABLES:
        for segment_id in segments:
            n_rows = limit
            while n_rows == limit:
                with database.transaction() as session:
                    n_rows, n_bytes = _delete_batch(session, table, table.segment_id == segment_id, limit)
                    yield n_rows, free_disk(session) if database.is_sqlite else n_bytes


def _delete_batch(session: Session, table: Any, condition: ColumnElement[bool], limit: int) -> tuple[int, int]:
    """How many rows went, and the bytes of their arrays; rows are found by where they lie, which needs no search."""
    place: ColumnElement[Any] = literal_column("rowid" if session.get_bind().dialect.name == "sqlite" else "ctid")
    chosen = select(place).select_from(table).where(condition).limit(limit)
    size = func.length(table.payload) if hasattr(table, "payload") else literal(0)
    statement = delete(table).where(place.in_(chosen)).returning(size)
    sizes = session.scalars(statement, execution_options={"synchronize_session": False}).all()
    return len(sizes), sum(sizes)


def _delete_row(session: Session, run_id: UUID) -> int:
    """Deletes the run's own row, what little hangs on it, and its probe set where no other run has it."""
    run = get_run(session, run_id, lock=True)
    probe_set_id, name = run.probe_set_id, run.name
    session.execute(delete(Run).where(Run.id == run_id), execution_options={"synchronize_session": False})
    emit(session, "run", run_id, {"status": "deleted", "name": name})
    return _delete_unshared(session, probe_set_id)


def _delete_unshared(session: Session, probe_set_id: str | None) -> int:
    # Locking it first makes whoever gives it to a run at this moment finish, or find that it is gone.
    row = session.get(ProbeSetRow, probe_set_id, with_for_update=True) if probe_set_id is not None else None
    if row is None or session.scalar(select(Run.id).where(Run.probe_set_id == probe_set_id).limit(1)) is not None:
        return 0
    of_set = SliceRow.probe_set_id == probe_set_id
    n_bytes = session.scalar(select(func.sum(func.length(SliceRow.tokens))).where(of_set)) or 0
    session.execute(delete(ProbeSetRow).where(ProbeSetRow.id == probe_set_id))
    return 0 if session.get_bind().dialect.name == "sqlite" else int(n_bytes)


def _free(database: Database) -> int:
    """Pages of a SQLite file that the last rows emptied, in bytes; 0 when none are left."""
    with database.transaction() as session:
        return free_disk(session)
