"""Jobs, monitors and firings as the API gives them."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Self
from uuid import UUID

from pydantic import BaseModel, Field

from phasewatch.storage.schema import Firing, Job, JobState, Monitor


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
    created_at: datetime = Field(description="when it was queued, UTC")
    started_at: datetime | None = Field(description="when its last attempt began, UTC")
    finished_at: datetime | None = Field(description="when it ended, UTC")

    @classmethod
    def of(cls, row: Job) -> Self:
        """The job of a row."""
        same = {name: getattr(row, name) for name in cls.model_fields if name not in ("firing", "run")}
        return cls(**same, firing=row.firing_id, run=row.run_id)


class MonitorOut(BaseModel):
    """A scheduled watch on runs."""

    id: int = Field(description="its id")
    name: str = Field(description="what people call it")
    kind: str = Field(description="what its jobs do, such as score or scan")
    selector: dict[str, Any] = Field(description='the runs it watches: {"run": id}, {"tag": text} or {"all": true}')
    trigger: dict[str, Any] = Field(
        description='when it is due: {"every_s": n}, {"cron": text} or {"each_checkpoint": true}'
    )
    parameters: dict[str, Any] = Field(description="what its jobs are told")
    enabled: bool = Field(description="whether it fires")
    created_at: datetime = Field(description="when it was made, UTC; intervals count from here")

    @classmethod
    def of(cls, row: Monitor) -> Self:
        """The monitor of a row."""
        return cls(**{name: getattr(row, name) for name in cls.model_fields})


class FiringOut(BaseModel):
    """One time a monitor was due."""

    id: int = Field(description="its id, increasing")
    monitor: int = Field(description="the monitor that was due")
    scheduled_at: datetime = Field(description="when it was due, UTC")
    coalesced: bool = Field(description="whether earlier times that were missed stand behind it")
    created_at: datetime = Field(description="when it was noticed, UTC")

    @classmethod
    def of(cls, row: Firing) -> Self:
        """The firing of a row."""
        same = {name: getattr(row, name) for name in cls.model_fields if name != "monitor"}
        return cls(**same, monitor=row.monitor_id)
