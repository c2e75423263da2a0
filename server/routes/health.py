"""Routes for those who watch over the service itself; they need no token."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from fastapi import APIRouter
from pydantic import BaseModel, Field

from phasewatch.storage.jobs import last_tick
from phasewatch.storage.schema import REVISION
from server.dependencies import Parts
from server.problems import errors

router = APIRouter(tags=["health"])


class Health(BaseModel):
    """The process answers."""

    status: Literal["ok"] = Field("ok", description="always ok")


class Ready(BaseModel):
    """The service can work."""

    status: Literal["ready"] = Field("ready", description="always ready; otherwise the answer is 503")
    schema_: str = Field(alias="schema", description="revision of the database's schema, the code's own")
    last_tick: datetime | None = Field(description="when a scheduler last ticked, UTC; null before the first time")


@router.get("/health", responses=errors())
async def health() -> Health:
    """Answers as long as the process does."""
    return Health()


@router.get("/ready", responses=errors())
def ready(parts: Parts) -> Ready:
    """Answers 200 when the database is in reach and its schema is the code's, else 503."""
    parts.database.check_schema()
    with parts.database.reading() as session:
        return Ready(schema=REVISION, last_tick=last_tick(session))
