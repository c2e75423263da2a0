"""The route of server-sent events."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Header, Query
from fastapi.responses import StreamingResponse

from server.dependencies import Parts
from server.problems import errors

router = APIRouter(tags=["events"], responses=errors())

MEDIA_TYPE = "text/event-stream"
_EVENT = {
    "type": "object",
    "properties": {name: {"type": "string"} for name in ("id", "event", "data", "retry")},
    "required": ["id", "event", "data"],
}
_STREAM = {MEDIA_TYPE: {"itemSchema": _EVENT}}


@router.get(
    "/events",
    response_class=StreamingResponse,
    responses={200: {"content": _STREAM, "description": "events as they happen"}},
)
async def stream_events(
    parts: Parts,
    run: Annotated[UUID | None, Query(description="only events of this run")] = None,
    last_event_id: Annotated[int | None, Header(ge=0, lt=2**63, description="resume after this event's id")] = None,
) -> StreamingResponse:
    """Runs, checkpoints, measurements, phase changes and jobs as they happen: `id`, `event` (the kind) and `data`."""
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(parts.events.stream(last_event_id, run), media_type=MEDIA_TYPE, headers=headers)
