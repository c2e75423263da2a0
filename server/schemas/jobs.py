"""Jobs as the API gives them."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Self
from uuid import UUID

from pydantic import BaseModel, Field

from phasewatch.storage.schema import Job, JobState
from server.callers import Caller


class JobOut(BaseModel):
    """One unit of work that a firing asked for."""

    id: int = Field(description="its id, increasing")
    key: str = Field(description="unique for ever, so that the same work is queued once")
    kind: str = Field(description="what it does, such as score or scan")
    firing: int | None = Field(description="the firing that asked for it")
    run: UUID | None = Field(description="the run it works on")
    segment: int | None = Field(description="the segment it works on")
    step: int | None = Field(description="the step it works on; for a scan the last one it sees")
    parameters: dict[str, Any] = Field(description="what else it was told")
    priority: int = Field(description="higher is first")
    state: JobState = Field(description="where it stands")
    attempts: int = Field(description="how often it was tried; the third failure ends it")
    error: str | None = Field(description="why the last attempt failed")
    traceback: str | None = Field(description="where in the code it failed; null unless scope admin asks")
    progress: float | None = Field(description="how far the attempt under way is, 0 to 1; null where it does not say")
    progress_text: str | None = Field(description="what it is doing")
    result: dict[str, Any] | None = Field(description="what it says of its outcome itself")
    created_at: datetime = Field(description="when it was queued, UTC")
    started_at: datetime | None = Field(description="when its last attempt began, UTC")
    finished_at: datetime | None = Field(description="when it ended, UTC")

    @classmethod
    def of(cls, row: Job, caller: Caller) -> Self:
        """The job of a row, as much of it as the caller may see."""
        same = {name: getattr(row, name) for name in cls.model_fields if name not in ("firing", "run", "traceback")}
        traceback = row.traceback if caller.is_admin else None
        return cls(**same, firing=row.firing_id, run=row.run_id, traceback=traceback)
