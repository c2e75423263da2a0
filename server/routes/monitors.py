"""Routes of monitors: what is watched, and when each watch was due."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path

from phasewatch.storage import jobs
from server.dependencies import ReadSession
from server.problems import errors
from server.schemas.jobs import FiringOut, MonitorOut
from server.schemas.page import IntCursor, Limit, Page

router = APIRouter(prefix="/monitors", tags=["monitors"], responses=errors())

MonitorId = Annotated[int, Path(ge=1, lt=2**63, description="the monitor's id")]


@router.get("")
def list_monitors(session: ReadSession, cursor: IntCursor = None, limit: Limit = 50) -> Page[MonitorOut]:
    """Monitors, oldest first."""
    rows = [row for row in jobs.list_monitors(session) if row.id > (cursor or 0)]
    return Page[MonitorOut].of(rows, limit, MonitorOut.of, lambda row: row.id)


@router.get("/{monitor}", responses=errors(404))
def get_monitor(monitor: MonitorId, session: ReadSession) -> MonitorOut:
    """One monitor."""
    return MonitorOut.of(jobs.get_monitor(session, monitor))


@router.get("/{monitor}/firings", responses=errors(404))
def list_firings(
    monitor: MonitorId, session: ReadSession, cursor: IntCursor = None, limit: Limit = 50
) -> Page[FiringOut]:
    """When a monitor was due, newest first."""
    rows = jobs.list_firings(session, monitor, before=cursor, limit=limit + 1)
    return Page[FiringOut].of(rows, limit, FiringOut.of, lambda row: row.id)
