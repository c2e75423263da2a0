"""Who wrote what: an entry a write, in the transaction of what it tells where that has one; trimmed after a year."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta

from sqlalchemy import delete, func, insert, select
from sqlalchemy.orm import Session

from phasewatch.storage.schema import AuditEntry, utc_now

KEPT = timedelta(days=365)
KEPT_ENTRIES = 1_000_000
TRIMMED_AT_ONCE = 10_000
_LONGEST_TARGET = 500


@dataclass(frozen=True)
class NewEntry:
    """A write: who asked (`token_id` None without tokens), for which route, of which thing, and how that ended."""

    token_id: int | None
    name: str
    method: str
    route: str
    target: str | None
    status: int
    request_id: str | None
    address: str | None


def put_entry(session: Session, entry: NewEntry) -> None:
    """Writes an entry."""
    values = asdict(entry) | {"time": utc_now(), "target": entry.target and entry.target[:_LONGEST_TARGET]}
    session.execute(insert(AuditEntry).values(**values))


def list_entries(
    session: Session,
    *,
    token: int | None = None,
    method: str | None = None,
    route: str | None = None,
    target: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    before: int | None = None,
    limit: int = 50,
) -> Sequence[AuditEntry]:
    """Entries, newest first; those of a token, method or route, with this text in their target, from `since` on."""
    query = select(AuditEntry).order_by(AuditEntry.id.desc()).limit(limit)
    exact = {AuditEntry.token_id: token, AuditEntry.method: method, AuditEntry.route: route}
    query = query.where(*(column == value for column, value in exact.items() if value is not None))
    if target is not None:
        query = query.where(AuditEntry.target.contains(target, autoescape=True))
    if since is not None:
        query = query.where(AuditEntry.time >= since)
    if until is not None:
        query = query.where(AuditEntry.time < until)
    return session.scalars(query if before is None else query.where(AuditEntry.id < before)).all()


def trim_audit(session: Session) -> int:
    """Removes entries older than a year, and the oldest beyond a million, some thousands at once; how many."""
    newest = session.scalar(select(func.max(AuditEntry.id))) or 0
    due = (AuditEntry.time < utc_now() - KEPT) | (AuditEntry.id <= newest - KEPT_ENTRIES)
    oldest = select(AuditEntry.id).where(due).order_by(AuditEntry.id).limit(TRIMMED_AT_ONCE)
    return len(session.execute(delete(AuditEntry).where(AuditEntry.id.in_(oldest)).returning(AuditEntry.id)).all())
