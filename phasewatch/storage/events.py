"""What happened, for those who watch live: rows with an increasing id, written in the transaction of what they tell."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import delete, func, insert, select, text
from sqlalchemy.orm import Session

from phasewatch.storage.schema import Event, utc_now

KEPT = timedelta(days=1)
_PENDING = "phasewatch_events"
_LOCK = 7_234_001  # any number no other advisory lock of ours uses


def emit(session: Session, kind: str, run_id: UUID | None, payload: dict[str, Any]) -> None:
    """Tells of something; `Database.transaction` writes it as its last act, so that no lock is awaited after it."""
    pending = session.info.setdefault(_PENDING, [])
    pending.append({"kind": kind, "run_id": run_id, "payload": payload, "time": utc_now()})


def write_events(session: Session) -> None:
    """Writes what was emitted; only the commit may follow.

    On PostgreSQL a lock held until the commit makes ids become visible in their order, so that a reader that asks for
    what lies beyond the last id it saw misses nothing.
    """
    pending = session.info.pop(_PENDING, [])
    if not pending:
        return
    session.flush()
    if session.get_bind().dialect.name == "postgresql":
        session.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
    session.execute(insert(Event), pending)


def events_after(session: Session, last_id: int, limit: int = 1_000) -> Sequence[Event]:
    """Events with an id above `last_id`, oldest first."""
    return session.scalars(select(Event).where(Event.id > last_id).order_by(Event.id).limit(limit)).all()


def last_event_id(session: Session) -> int:
    """The id of the newest event, 0 before the first."""
    return session.scalar(select(func.max(Event.id))) or 0


def trim_events(session: Session) -> int:
    """Removes events older than a day; how many."""
    result = session.execute(delete(Event).where(Event.time < utc_now() - KEPT).returning(Event.id))
    return len(result.all())
