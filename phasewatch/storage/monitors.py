"""Monitors and their firings: what is watched, and when each watch was due.

Apart from jobs.py, which keeps the queue: that is asked many times a second, and this once.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import and_, delete, func, select
from sqlalchemy.orm import Session

from phasewatch.errors import NotFound
from phasewatch.storage.database import insert_if_absent
from phasewatch.storage.limits import MAX_INTEGER, checked_json, checked_name
from phasewatch.storage.schema import Firing, Job, Monitor, utc_now

EDITABLE = ("name", "selector", "trigger", "parameters", "enabled")


def create_monitor(
    session: Session,
    *,
    name: str,
    kind: str,
    selector: Mapping[str, Any],
    trigger: Mapping[str, Any],
    parameters: Mapping[str, Any],
    enabled: bool = True,
) -> Monitor:
    """A new monitor; its intervals count from now. Raises InvalidInput for what the database cannot keep."""
    monitor = Monitor(
        name=checked_name("monitor name", name),
        kind=kind,
        selector=checked_json("selector", selector),
        trigger=checked_json("trigger", trigger),
        parameters=checked_json("parameters", parameters),
        enabled=enabled,
        created_at=utc_now(),
    )
    session.add(monitor)
    session.flush()
    return monitor


def edit_monitor(session: Session, monitor_id: int, changes: Mapping[str, Any]) -> Monitor:
    """The monitor with these of its `EDITABLE` columns changed; raises NotFound.

    One that was off and missed what came due meanwhile fires once when it is switched on.
    """
    monitor = get_monitor(session, monitor_id, lock=True)
    for column in EDITABLE:
        if column in changes:
            setattr(monitor, column, changes[column])
    session.flush()
    return monitor


def delete_monitor(session: Session, monitor_id: int) -> int:
    """Deletes a monitor and its firings; how many of these there were. Its jobs stay. Raises NotFound."""
    monitor = get_monitor(session, monitor_id, lock=True)
    gone = session.execute(delete(Firing).where(Firing.monitor_id == monitor.id).returning(Firing.id)).all()
    session.delete(monitor)
    session.flush()
    return len(gone)


def list_monitors(session: Session, *, enabled: bool | None = None) -> Sequence[Monitor]:
    """Monitors, oldest first."""
    query = select(Monitor).order_by(Monitor.id)
    return session.scalars(query if enabled is None else query.where(Monitor.enabled == enabled)).all()


def get_monitor(session: Session, monitor_id: int, *, lock: bool = False) -> Monitor:
    """The monitor; raises NotFound."""
    monitor = session.get(Monitor, min(monitor_id, MAX_INTEGER), with_for_update=lock or None, populate_existing=lock)
    if monitor is None:
        raise NotFound(f"monitor {monitor_id} does not exist; GET /api/v1/monitors lists those that do")
    return monitor


def insert_firing(session: Session, monitor_id: int, scheduled_at: datetime, *, coalesced: bool = False) -> int | None:
    """The new firing's id, or None where another scheduler inserted it first."""
    values = {"monitor_id": monitor_id, "scheduled_at": scheduled_at}
    known = select(Firing.id).filter_by(**values)
    if session.scalar(known) is not None:
        return None
    inserted = insert_if_absent(session, Firing, values | {"coalesced": coalesced, "created_at": utc_now()})
    return session.scalar(known) if inserted else None


def last_firing(session: Session, monitor_id: int) -> datetime | None:
    """When the monitor's newest firing was due."""
    return session.scalar(select(func.max(Firing.scheduled_at)).where(Firing.monitor_id == monitor_id))


def list_firings(session: Session, monitor_id: int, *, before: int | None = None, limit: int = 50) -> Sequence[Firing]:
    """A monitor's firings, newest first; `before` is the id the previous page ended with."""
    monitor = get_monitor(session, monitor_id)
    query = select(Firing).where(Firing.monitor_id == monitor.id).order_by(Firing.id.desc()).limit(limit)
    return session.scalars(query if before is None else query.where(Firing.id < before)).all()


def trim_firings(session: Session) -> int:
    """Removes firings older than a day that asked for nothing, except each monitor's newest; how many."""
    newest = select(func.max(Firing.id)).group_by(Firing.monitor_id)
    asked = select(Job.id).where(Job.firing_id == Firing.id).exists()
    old = and_(Firing.created_at < utc_now() - timedelta(days=1), Firing.id.not_in(newest), ~asked)
    return len(session.execute(delete(Firing).where(old).returning(Firing.id)).all())


def jobs_of_firings(session: Session, firing_ids: Sequence[int]) -> dict[int, list[Job]]:
    """By firing the jobs that it asked for, oldest first."""
    found: dict[int, list[Job]] = defaultdict(list)
    for job in session.scalars(select(Job).where(Job.firing_id.in_(firing_ids)).order_by(Job.id)):
        found[job.firing_id or 0].append(job)
    return found
