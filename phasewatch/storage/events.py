"""What happened, for those who watch live: rows with an increasing id, written in the transaction of what they tell."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import delete, func, select, text
from sqlalchemy.orm import Session

from phasewatch.storage.schema import Event, utc_now

KEPT = timedelta(days=1)
_LOCK = 7_234_001  # any number no other advisory lock of ours uses


def emit(session: Session, kind: str, run_id: UUID | None, payload: dict[str, Any]) -> None:
    """Adds an event; call it last in a transaction.

    On PostgreSQL a lock held until the commit makes ids become visible in their order, so that a reader that asks for
    what lies beyond the last id it saw misses nothing.
    """
    session.flush()
    if session.get_bind().dialect.name == "postgresql":
        session.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
    session.add(Event(kind=kind, run_id=run_id, payload=payload))
    session.flush()


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
