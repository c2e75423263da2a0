"""Who is to do what, and when: monitors, their firings, jobs, schedulers; and the events that people watch live."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import JSON, BigInteger, ForeignKey, Index, Integer, String, Text, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from phasewatch.storage.schema.base import Base, CleanText, JobState, utc_now


class Monitor(Base):
    """A scheduled watch on runs."""

    __tablename__ = "monitors"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    kind: Mapped[str] = mapped_column(String(32))
    selector: Mapped[dict[str, Any]]
    trigger: Mapped[dict[str, Any]]
    parameters: Mapped[dict[str, Any]]
    enabled: Mapped[bool]
    created_at: Mapped[datetime] = mapped_column(default=utc_now)


class Firing(Base):
    """One time a monitor was due; whoever inserts the row makes its jobs."""

    __tablename__ = "firings"
    __table_args__ = (UniqueConstraint("monitor_id", "scheduled_at"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    monitor_id: Mapped[int] = mapped_column(ForeignKey("monitors.id", ondelete="CASCADE"))
    scheduled_at: Mapped[datetime]
    coalesced: Mapped[bool]  # older times that were due and missed stand behind this one
    created_at: Mapped[datetime] = mapped_column(default=utc_now)


class Job(Base):
    """One unit of work a firing asked for; `key` makes a repeat harmless."""

    __tablename__ = "jobs"
    __table_args__ = (
        UniqueConstraint("key"),
        Index(None, "state", "priority", "id"),
        Index(None, "run_id", "kind"),
        Index(None, "firing_id"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(Text)
    kind: Mapped[str] = mapped_column(String(32))
    firing_id: Mapped[int | None] = mapped_column(ForeignKey("firings.id", ondelete="SET NULL"))
    run_id: Mapped[UUID | None] = mapped_column(ForeignKey("runs.id", ondelete="CASCADE"))
    segment: Mapped[int | None]
    step: Mapped[int | None] = mapped_column(BigInteger)
    parameters: Mapped[dict[str, Any]]
    priority: Mapped[int]  # higher first
    state: Mapped[JobState]
    attempts: Mapped[int]
    owner: Mapped[str | None]
    lease_expires_at: Mapped[datetime | None]
    not_before: Mapped[datetime | None]  # back-off after a failed attempt
    error: Mapped[str | None] = mapped_column(CleanText)
    traceback: Mapped[str | None] = mapped_column(CleanText)
    progress: Mapped[float | None]  # of the attempt under way, 0 to 1
    progress_text: Mapped[str | None] = mapped_column(CleanText)
    result: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))  # what it says itself when done
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]


class Scheduler(Base):
    """A scheduler process and when it last ticked; the only trace of one that stopped."""

    __tablename__ = "schedulers"

    name: Mapped[str] = mapped_column(primary_key=True)
    ticked_at: Mapped[datetime]


class Event(Base):
    """Something that happened, for those who watch live; trimmed after a day."""

    __tablename__ = "events"
    __table_args__ = ({"sqlite_autoincrement": True},)

    id: Mapped[int] = mapped_column(BigInteger().with_variant(Integer, "sqlite"), primary_key=True)
    time: Mapped[datetime] = mapped_column(default=utc_now, index=True)
    kind: Mapped[str] = mapped_column(String(32))
    run_id: Mapped[UUID | None]
    payload: Mapped[dict[str, Any]]
