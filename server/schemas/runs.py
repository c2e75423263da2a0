"""Runs and segments as the API takes and gives them."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal, Self
from uuid import UUID

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from phasewatch.storage.run_summaries import RunSummary
from phasewatch.storage.runs import NewRun
from phasewatch.storage.schema import Run, RunStatus, Segment
from phasewatch.training import TrainingConfig
from server.reduction import kept_points
from server.schemas.values import JsonObject, Name, StepNumber, Text, from_array

SPARKLINE_POINTS = 60
Tags = list[Name]


class RunCreate(BaseModel):
    """A run to create. With `training` a trainer takes it; without, it is recorded from outside."""

    model_config = ConfigDict(extra="forbid")

    id: UUID | None = Field(None, description="the run's id, a UUIDv7; makes a repeated request harmless")
    name: Name | None = Field(None, description="what people call it; default: the name in `training`")
    training: TrainingConfig | None = Field(None, description="how a trainer is to train it")
    config: JsonObject = Field(default_factory=dict, description="the caller's own description of the run")
    tags: Tags = Field(default_factory=list, max_length=100, description="words to find it by")
    parent: UUID | None = Field(None, description="the run that this one continues or varies")

    @model_validator(mode="after")
    def _named(self) -> Self:
        if self.name is None and self.training is None:
            raise ValueError("a run recorded from outside needs a name")
        return self

    def to_storage(self) -> NewRun:
        """The run as storage takes it."""
        training = None if self.training is None else self.training.model_dump(mode="json")
        name = self.name or (self.training.name if self.training else "")
        return NewRun(name, self.id, training, self.config, tuple(self.tags), self.parent)


class RunUpdate(BaseModel):
    """What can be changed of a run; what is left out stays as it is."""

    model_config = ConfigDict(extra="forbid")

    name: Name | None = Field(None, description="a new name")
    tags: Tags | None = Field(None, max_length=100, description="the new tags, in place of the old ones")
    status: Literal["completed", "failed"] | None = Field(None, description="how a run recorded from outside ended")
    failure: Text | None = Field(None, description="why it failed; with status failed only")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.failure is not None and self.status != "failed":
            raise ValueError("failure goes with status failed")
        return self


class RunSummaryOut(BaseModel):
    """What a list shows of a run."""

    loss: float | None = Field(description="the newest mean loss, nats: held out where there is any, else of training")
    loss_steps: list[int] = Field(description="(n,), ascending, n at most 60")
    loss_values: list[float | None] = Field(description="(n,), nats, no spike left out; null where not finite")
    icl_score: float | None = Field(description="the newest in-context learning score, nats")
    n_changes: int = Field(description="phase changes found that neither a scan nor a person took back")
    induction_step: int | None = Field(description="the step at which induction heads form, where they do")

    @classmethod
    def of(cls, found: RunSummary) -> Self:
        """The summary that storage read."""
        steps, values = np.array(found.loss_steps, np.int64), np.array(found.loss_values, np.float64)
        kept = kept_points(steps, values, SPARKLINE_POINTS, "log")
        shown = from_array(values[kept])
        return cls(
            loss=shown[-1] if shown else None,
            loss_steps=steps[kept].tolist(),
            loss_values=shown,
            icl_score=found.icl_score,
            n_changes=found.n_changes,
            induction_step=found.induction_step,
        )


class RunOut(BaseModel):
    """A run."""

    id: UUID = Field(description="UUIDv7, so that ids sort by time of creation")
    name: str = Field(description="what people call it; not unique")
    status: RunStatus = Field(description="where it stands; writes are taken in every status")
    training: dict[str, Any] | None = Field(description="its TrainingConfig; null where it is recorded from outside")
    config: dict[str, Any] = Field(description="the caller's own description")
    tags: list[str] = Field(description="words to find it by")
    parent: UUID | None = Field(description="the run that this one continues or varies")
    probe_set: str | None = Field(description="id of its probe set; null until it has one")
    last_step: int | None = Field(description="the newest step that anything was recorded at")
    n_steps: int | None = Field(description="steps the run is to have; null where nobody said")
    failure: str | None = Field(description="why it failed")
    owner: str | None = Field(description="the trainer that holds it")
    created_at: datetime = Field(description="when it was created, UTC")
    started_at: datetime | None = Field(description="when it began to run, UTC")
    finished_at: datetime | None = Field(description="when it ended, UTC")
    heartbeat_at: datetime | None = Field(description="when it was last heard from, UTC")
    summary: RunSummaryOut | None = Field(None, description="with ?include=summary alone")

    @classmethod
    def of(cls, row: Run, summary: RunSummary | None = None) -> Self:
        """The run of a row."""
        other = ("probe_set", "n_steps", "summary")
        same = {name: getattr(row, name) for name in cls.model_fields if name not in other}
        n_steps = row.training.get("steps") if row.training else None
        shown = None if summary is None else RunSummaryOut.of(summary)
        return cls(**same, probe_set=row.probe_set_id, n_steps=n_steps, summary=shown)


class FreedBytes(BaseModel):
    """What a deletion gave back to the disk."""

    freed_bytes: int = Field(description="bytes freed, in the database and among the artifacts")


class ProbeSetChoice(BaseModel):
    """The probe set that a run is to be measured on."""

    model_config = ConfigDict(extra="forbid")

    probe_set: str = Field(min_length=1, max_length=64, pattern="^[0-9a-f]+$", description="id of a probe set")


class SegmentCreate(BaseModel):
    """A new stretch of a run, such as after a resume."""

    model_config = ConfigDict(extra="forbid")

    from_step: StepNumber = Field(description="its first step; older rows from there on are kept but hidden")


class SegmentOut(BaseModel):
    """An unbroken stretch of a run."""

    number: int = Field(description="0 for the first segment of a run")
    from_step: int = Field(description="its first step")
    created_at: datetime = Field(description="when it was opened, UTC")

    @classmethod
    def of(cls, row: Segment) -> Self:
        """The segment of a row."""
        return cls(number=row.number, from_step=row.from_step, created_at=row.created_at)
