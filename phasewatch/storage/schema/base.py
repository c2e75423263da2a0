"""What every table shares: the declarative base, its type map and naming convention, and the types of columns."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Literal, get_args
from uuid import UUID

from sqlalchemy import (
    JSON,
    DateTime,
    Double,
    Enum,
    LargeBinary,
    MetaData,
    String,
    Text,
    Uuid,
)
from sqlalchemy.engine import Dialect
from sqlalchemy.orm import DeclarativeBase
from sqlalchemy.types import TypeDecorator

from phasewatch.storage.limits import clean_text

RunStatus = Literal["queued", "running", "paused", "completed", "failed", "cancelled"]
JobState = Literal["waiting", "running", "done", "failed", "cancelled"]
ChangeState = Literal["provisional", "confirmed", "withdrawn"]
Review = Literal["acknowledged", "dismissed"]
Scope = Literal["read", "write", "admin"]
ChannelKind = Literal["apprise", "webhook"]
AlertKind = Literal["phase_change", "stale_run", "divergence", "job_failed"]
AlertState = Literal["waiting", "sending", "sent", "failed"]
DeliveryOutcome = Literal["delivered", "refused", "unreachable", "forbidden"]

ENDED: tuple[RunStatus, ...] = ("completed", "failed", "cancelled")


def utc_now() -> datetime:
    """The present as an aware UTC time; the only clock storage reads."""
    return datetime.now(UTC)


class AwareDateTime(TypeDecorator[datetime]):
    """An aware UTC time on every database; SQLite itself forgets the zone."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"time {value!r} has no zone; give an aware UTC time")
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class CleanText(TypeDecorator[str]):
    """Text from outside, such as an error's: characters that PostgreSQL refuses become U+FFFD on every database."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        return None if value is None else clean_text(value)


def _names(literal: Any) -> Enum:
    return Enum(*get_args(literal), native_enum=False, length=16, create_constraint=False)


class Base(DeclarativeBase):
    """Declarative base with one type map and one naming convention."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {  # noqa: RUF012  SQLAlchemy's own declaration
        UUID: Uuid(),
        datetime: AwareDateTime(),
        bytes: LargeBinary(),
        float: Double(),
        str: String(),
        dict[str, Any]: JSON(),
        list[Any]: JSON(),
        RunStatus: _names(RunStatus),
        JobState: _names(JobState),
        ChangeState: _names(ChangeState),
        Review: _names(Review),
        Scope: _names(Scope),
        ChannelKind: _names(ChannelKind),
        AlertKind: _names(AlertKind),
        AlertState: _names(AlertState),
        DeliveryOutcome: _names(DeliveryOutcome),
    }
