"""Routes of alerts: what channels were told of, what waits, and every attempt to deliver it."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Path, Query

from phasewatch.storage import deliveries
from phasewatch.storage.schema import AlertKind, AlertState
from server.dependencies import ADMIN_ONLY, ReadSession, WriteSession
from server.problems import errors
from server.schemas.alerts import AlertDetail, AlertOut
from server.schemas.page import IntCursor, Limit, Page

router = APIRouter(prefix="/alerts", tags=["alerts"], responses=errors())

AlertId = Annotated[int, Path(ge=1, lt=2**63, description="the alert's id")]


@router.get("")
def list_alerts(
    session: ReadSession,
    run: Annotated[UUID | None, Query(description="only alerts about this run")] = None,
    change: Annotated[UUID | None, Query(description="only alerts about this phase change")] = None,
    channel: Annotated[int | None, Query(ge=1, lt=2**63, description="only alerts for this channel")] = None,
    state: Annotated[AlertState | None, Query(description="only alerts in this state")] = None,
    kind: Annotated[AlertKind | None, Query(description="only alerts of this kind")] = None,
    cursor: IntCursor = None,
    limit: Limit = 50,
) -> Page[AlertOut]:
    """Alerts, newest first."""
    rows = deliveries.list_alerts(
        session,
        run_id=run,
        change_id=change,
        channel_id=channel,
        state=state,
        kind=kind,
        before=cursor,
        limit=limit + 1,
    )
    return Page[AlertOut].of(rows, limit, AlertOut.of, lambda row: row.id)


@router.get("/{alert}", responses=errors(404))
def get_alert(alert: AlertId, session: ReadSession) -> AlertDetail:
    """One alert, with every attempt to deliver it."""
    return AlertDetail.with_log(deliveries.get_alert(session, alert), deliveries.list_deliveries(session, alert))


@router.post("/{alert}/retry", responses=errors(404, 409), dependencies=ADMIN_ONLY)
def retry_alert(alert: AlertId, session: WriteSession) -> AlertOut:
    """Lets a failed alert be sent again, with fresh attempts."""
    return AlertOut.of(deliveries.retry_alert(session, alert))
