"""Who may ask."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import String, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from phasewatch.storage.schema.base import Base, Scope, utc_now


class ApiToken(Base):
    """A bearer token, stored as the SHA-256 of its text."""

    __tablename__ = "api_tokens"
    __table_args__ = (UniqueConstraint("sha256"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    sha256: Mapped[str] = mapped_column(String(64))
    scope: Mapped[Scope]
    expires_at: Mapped[datetime | None]
    last_used_at: Mapped[datetime | None]
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
