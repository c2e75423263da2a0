"""Routes of monitors: what is watched, and when each watch was due."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query
from sqlalchemy.orm import Session

from phasewatch.storage import monitors
from phasewatch.storage.runs import get_run
from phasewatch.storage.schema import utc_now
from server.dependencies import Parts, ReadSession, WriteSession
from server.jobs.folder import folder_below
from server.monitors import fire
from server.problems import errors
from server.schemas.monitors import (
    ComingTimes,
    CronLine,
    DeletedMonitor,
    Fired,
    FiringOut,
    FolderMonitor,
    MonitorCreate,
    MonitorEdit,
    MonitorOut,
    RunSelector,
    columns_of,
)
from server.schemas.page import IntCursor, Limit, Page
from server.triggers import coming_times

router = APIRouter(prefix="/monitors", tags=["monitors"], responses=errors())

MonitorId = Annotated[int, Path(ge=1, lt=2**63, description="the monitor's id")]


@router.post("", status_code=201, responses=errors(404, 413, 415))
def create_monitor(body: MonitorCreate, parts: Parts, session: WriteSession) -> MonitorOut:
    """Makes a monitor. 404: its run does not exist. Kind watch_folder needs the setting PHASEWATCH_WATCH_ROOT."""
    _check_run(session, body.selector)
    if isinstance(body, FolderMonitor):
        folder_below(parts.settings.watch_root, body.parameters.folder)
    return MonitorOut.of(monitors.create_monitor(session, **columns_of(body)))


@router.get("")
def list_monitors(session: ReadSession, cursor: IntCursor = None, limit: Limit = 50) -> Page[MonitorOut]:
    """Monitors, oldest first."""
    rows = [row for row in monitors.list_monitors(session) if row.id > (cursor or 0)]
    return Page[MonitorOut].of(rows, limit, MonitorOut.of, lambda row: row.id)


@router.get("/due")
def list_due(
    cron: Annotated[CronLine, Query(description="minute, hour, day, month, weekday")],
    count: Annotated[int, Query(ge=1, le=20, description="how many times")] = 3,
) -> ComingTimes:
    """When a cron line is due next, before a monitor has it."""
    return ComingTimes(times=coming_times(cron, utc_now(), count))


@router.get("/{monitor}", responses=errors(404))
def get_monitor(monitor: MonitorId, session: ReadSession) -> MonitorOut:
    """One monitor."""
    return MonitorOut.of(monitors.get_monitor(session, monitor))


@router.patch("/{monitor}", responses=errors(404, 409, 413, 415))
def update_monitor(monitor: MonitorId, body: MonitorEdit, parts: Parts, session: WriteSession) -> MonitorOut:
    """Changes a monitor. 409: its kind has no such trigger or parameter."""
    row = monitors.get_monitor(session, monitor, lock=True)
    _check_run(session, body.selector)
    if body.parameters is not None and body.parameters.folder is not None:
        folder_below(parts.settings.watch_root, body.parameters.folder)
    return MonitorOut.of(monitors.edit_monitor(session, monitor, body.changes(row)))


@router.delete("/{monitor}", responses=errors(404))
def delete_monitor(monitor: MonitorId, session: WriteSession) -> DeletedMonitor:
    """Deletes a monitor with the history of its firings; the jobs it asked for stay."""
    return DeletedMonitor(firings=monitors.delete_monitor(session, monitor))


@router.post("/{monitor}/fire", status_code=202, responses=errors(404))
def fire_monitor(monitor: MonitorId, session: WriteSession) -> Fired:
    """Fires a monitor now, whether it is on or off."""
    firing, jobs = fire(session, monitor)
    return Fired(firing=firing, jobs=jobs)


@router.get("/{monitor}/firings", responses=errors(404))
def list_firings(
    monitor: MonitorId, session: ReadSession, cursor: IntCursor = None, limit: Limit = 50
) -> Page[FiringOut]:
    """When a monitor was due, newest first, and the jobs it asked for."""
    rows = monitors.list_firings(session, monitor, before=cursor, limit=limit + 1)
    jobs = monitors.jobs_of_firings(session, [row.id for row in rows[:limit]])
    return Page[FiringOut].of(rows, limit, lambda row: FiringOut.of(row, jobs), lambda row: row.id)


def _check_run(session: Session, selector: object) -> None:
    if isinstance(selector, RunSelector):
        get_run(session, selector.run)
