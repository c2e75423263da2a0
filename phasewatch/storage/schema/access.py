"""Who may ask, who is signed in, and who wrote what."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import BigInteger, ForeignKey, Integer, String, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from phasewatch.storage.schema.base import Base, CleanText, Scope, utc_now


class ApiToken(Base):
    """A bearer token, stored as the SHA-256 of its text. A revoked one stays, so that the audit log can be read."""

    __tablename__ = "api_tokens"
    __table_args__ = (UniqueConstraint("sha256"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    sha256: Mapped[str] = mapped_column(String(64))
    scope: Mapped[Scope]
    made_by: Mapped[str | None]  # name of the token that made it, or which command or setting did
    expires_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]
    last_used_at: Mapped[datetime | None]
    created_at: Mapped[datetime] = mapped_column(default=utc_now)


class BrowserSession(Base):
    """A browser that signed in with a token, under the SHA-256 of what its cookie holds."""

    __tablename__ = "sessions"
    __table_args__ = (UniqueConstraint("sha256"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    token_id: Mapped[int] = mapped_column(ForeignKey("api_tokens.id", ondelete="CASCADE"), index=True)
    sha256: Mapped[str] = mapped_column(String(64))
    expires_at: Mapped[datetime]
    created_at: Mapped[datetime] = mapped_column(default=utc_now)


class AuditEntry(Base):
    """A write that was asked for, and by whom. No foreign key: an entry outlives what it names."""

    __tablename__ = "audit"
    __table_args__ = ({"sqlite_autoincrement": True},)

    id: Mapped[int] = mapped_column(BigInteger().with_variant(Integer, "sqlite"), primary_key=True)
    time: Mapped[datetime] = mapped_column(default=utc_now, index=True)
    token_id: Mapped[int | None]
    name: Mapped[str]  # the token's name at that time
    method: Mapped[str] = mapped_column(String(16))
    route: Mapped[str]  # its template
    target: Mapped[str | None] = mapped_column(CleanText)
    status: Mapped[int]
    request_id: Mapped[str | None] = mapped_column(String(64))
    address: Mapped[str | None] = mapped_column(String(64))
