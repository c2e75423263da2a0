"""Whom to tell of what: channels, the alerts that were raised for them, and every attempt to deliver one."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import BigInteger, ForeignKey, Index, Integer, Text, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from phasewatch.ids import new_id
from phasewatch.storage.schema.base import AlertKind, AlertState, Base, ChannelKind, CleanText, DeliveryOutcome, utc_now


class Channel(Base):
    """Where alerts go. `address` may be shown; `url` and `secret` are sealed by the service and may not."""

    __tablename__ = "channels"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    kind: Mapped[ChannelKind]
    address: Mapped[str] = mapped_column(Text)
    url: Mapped[str] = mapped_column(Text)
    secret: Mapped[str | None] = mapped_column(Text)
    rules: Mapped[dict[str, Any]]
    quiet_hours: Mapped[dict[str, Any] | None]
    enabled: Mapped[bool]
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
    updated_at: Mapped[datetime] = mapped_column(default=utc_now)


class Alert(Base):
    """One thing to tell one channel, once; the row is its own place in the queue, held under a lease while it is sent.

    Alerts with the same `delivery_id` go out as one message, which keeps that id over every attempt.
    """

    __tablename__ = "alerts"
    __table_args__ = (
        UniqueConstraint("channel_id", "key"),
        Index(None, "state", "not_before"),
        Index(None, "run_id"),
        Index(None, "phase_change_id"),
        Index(None, "delivery_id"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    channel_id: Mapped[int] = mapped_column(ForeignKey("channels.id", ondelete="CASCADE"))
    key: Mapped[str] = mapped_column(Text)
    kind: Mapped[AlertKind]
    run_id: Mapped[UUID | None] = mapped_column(ForeignKey("runs.id", ondelete="CASCADE"))
    phase_change_id: Mapped[UUID | None] = mapped_column(ForeignKey("phase_changes.id", ondelete="CASCADE"))
    title: Mapped[str] = mapped_column(CleanText)
    payload: Mapped[dict[str, Any]]
    state: Mapped[AlertState]
    delivery_id: Mapped[UUID] = mapped_column(default=new_id)
    held_until: Mapped[datetime | None]  # the end of the quiet hours it was raised in
    not_before: Mapped[datetime]
    attempts: Mapped[int]
    owner: Mapped[str | None]
    lease_expires_at: Mapped[datetime | None]
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
    finished_at: Mapped[datetime | None]


class Delivery(Base):
    """One attempt to deliver an alert, and what came of it."""

    __tablename__ = "deliveries"
    __table_args__ = (Index(None, "alert_id"),)

    id: Mapped[int] = mapped_column(BigInteger().with_variant(Integer, "sqlite"), primary_key=True)
    alert_id: Mapped[int] = mapped_column(ForeignKey("alerts.id", ondelete="CASCADE"))
    attempt: Mapped[int]
    time: Mapped[datetime]
    outcome: Mapped[DeliveryOutcome]
    status_code: Mapped[int | None]
    took_ms: Mapped[float]
    detail: Mapped[str | None] = mapped_column(CleanText)
