"""The route of the audit log: who wrote what, for admins."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import AwareDatetime

from phasewatch.storage import audit
from server.dependencies import ADMIN_ONLY, ReadSession
from server.problems import errors
from server.schemas.page import IntCursor, Limit, Page
from server.schemas.tokens import AuditEntryOut
from server.schemas.values import Name

router = APIRouter(prefix="/audit", tags=["tokens"], dependencies=ADMIN_ONLY, responses=errors())


@router.get("")
def list_audit(
    session: ReadSession,
    token: Annotated[int | None, Query(ge=1, lt=2**31, description="only what came with this token")] = None,
    method: Annotated[Name | None, Query(description="only this HTTP method")] = None,
    route: Annotated[Name | None, Query(description="only this route, by its template")] = None,
    target: Annotated[Name | None, Query(description="only what names this, such as a run's id")] = None,
    since: Annotated[AwareDatetime | None, Query(description="from this time on")] = None,
    until: Annotated[AwareDatetime | None, Query(description="before this time")] = None,
    cursor: IntCursor = None,
    limit: Limit = 50,
) -> Page[AuditEntryOut]:
    """Writes that were done, or refused for want of a right, newest first; without what training runs record."""
    chosen = {"token": token, "method": method, "route": route, "target": target, "since": since, "until": until}
    rows = audit.list_entries(session, **chosen, before=cursor, limit=limit + 1)  # type: ignore[arg-type]
    return Page[AuditEntryOut].of(rows, limit, AuditEntryOut.of, lambda row: row.id)
