"""What was found in runs, and what people said of it."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import BigInteger, ForeignKey, Index, String
from sqlalchemy.orm import Mapped, mapped_column

from phasewatch.storage.schema.base import Base, ChangeState, CleanText, Review, utc_now


class ScanRow(Base):
    """The newest scan of a run: how far it saw, and what it could not look at or say, sentence by sentence."""

    __tablename__ = "scans"

    run_id: Mapped[UUID] = mapped_column(ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True)
    last_step: Mapped[int | None] = mapped_column(BigInteger)  # None: there was no checkpoint with losses
    n_checkpoints: Mapped[int]
    detector_version: Mapped[int]
    notes: Mapped[list[Any]]  # of str
    created_at: Mapped[datetime] = mapped_column(default=utc_now)


class PhaseChangeRow(Base):
    """A phase change found in a run, and what people said of it."""

    __tablename__ = "phase_changes"
    __table_args__ = (Index(None, "run_id"),)

    id: Mapped[UUID] = mapped_column(primary_key=True)
    run_id: Mapped[UUID] = mapped_column(ForeignKey("runs.id", ondelete="CASCADE"))
    state: Mapped[ChangeState]
    review: Mapped[Review | None]
    note: Mapped[str | None] = mapped_column(CleanText)
    measure: Mapped[str]
    kind: Mapped[str] = mapped_column(String(16))
    direction: Mapped[str] = mapped_column(String(8))
    induction: Mapped[bool]
    start_step: Mapped[int] = mapped_column(BigInteger)
    step: Mapped[int] = mapped_column(BigInteger)
    end_step: Mapped[int | None] = mapped_column(BigInteger)
    effect: Mapped[float | None]
    unit: Mapped[str]
    q_value: Mapped[float | None]
    slice: Mapped[str | None]
    n_tokens: Mapped[int | None]
    tokens: Mapped[bytes | None]  # zstd-compressed little-endian int32, most certain first
    detail: Mapped[dict[str, Any]]  # the rest of the change: intervals, heads, signs, events
    detector_version: Mapped[int]
    first_seen_step: Mapped[int] = mapped_column(BigInteger)  # the run's last step when it was first reported
    last_seen_step: Mapped[int] = mapped_column(BigInteger)
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
    updated_at: Mapped[datetime] = mapped_column(default=utc_now)
