"""Tokens, browser sessions and the audit log as the API takes and gives them."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, SecretStr, model_validator

from phasewatch.storage.schema import ApiToken, AuditEntry, Scope
from server.schemas.values import Name


class TokenCreate(BaseModel):
    """A token to make."""

    model_config = ConfigDict(extra="forbid")

    name: Name = Field(description="whose it is, or what for")
    scope: Scope = Field("read", description="read; write, which also reads; admin, which may do everything")
    expires_at: AwareDatetime | None = Field(None, description="when it ends; null for never")


class TokenUpdate(BaseModel):
    """What can be changed of a token; what is left out stays as it is."""

    model_config = ConfigDict(extra="forbid")

    name: Name = Field("", description="a new name")
    expires_at: AwareDatetime | None = Field(None, description="another end; null for none")

    @model_validator(mode="before")
    @classmethod
    def _named(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("name", "x") is None:
            raise ValueError("name is null; leave it out to keep it")
        return values


class TokenOut(BaseModel):
    """A token, without its text: that is kept nowhere."""

    id: int = Field(description="its id")
    name: str = Field(description="whose it is, or what for")
    scope: Scope = Field(description="what it allows")
    made_by: str | None = Field(description="name of the token it was made with, or which command or setting made it")
    created_at: datetime = Field(description="when it was made, UTC")
    expires_at: datetime | None = Field(description="when it ends, UTC; null for never")
    last_used_at: datetime | None = Field(description="when it was last used, to the minute, UTC")
    revoked_at: datetime | None = Field(description="when it was revoked, UTC")

    @classmethod
    def of(cls, row: ApiToken) -> Self:
        """The token of a row."""
        return cls(**{name: getattr(row, name) for name in TokenOut.model_fields})


class NewToken(TokenOut):
    """A token that was made now, with its text."""

    token: str = Field(description="the token itself; it is never shown again")

    @classmethod
    def shown(cls, row: ApiToken, token: str) -> Self:
        """The token of a row, and its text."""
        return cls(**{name: getattr(row, name) for name in TokenOut.model_fields}, token=token)


class SignIn(BaseModel):
    """What a browser signs in with."""

    model_config = ConfigDict(extra="forbid")

    token: SecretStr = Field(min_length=1, max_length=1_000, description="a token of this server")


class SessionOut(BaseModel):
    """Who asks, and with what right."""

    name: str = Field(description="name of the token; local on a server without tokens")
    scope: Scope = Field(description="what is allowed")
    expires_at: datetime | None = Field(description="when the session or the token ends, UTC; null for never")
    csrf: str | None = Field(description="what a write sends as X-CSRF-Token; null where no cookie is involved")


class AuditEntryOut(BaseModel):
    """A write that was asked for."""

    id: int = Field(description="increasing with time")
    time: datetime = Field(description="when it was decided, UTC")
    token_id: int | None = Field(description="the token it came with; null on a server without tokens")
    name: str = Field(description="the token's name at that time")
    method: str = Field(description="HTTP method")
    route: str = Field(description="the route's template")
    target: str | None = Field(description="what the path named, or the id of what was made")
    status: int = Field(description="how it ended: 2xx was done; 401 and 403 were refused")
    request_id: str | None = Field(description="the answer's X-Request-Id")
    address: str | None = Field(description="where it came from")

    @classmethod
    def of(cls, row: AuditEntry) -> Self:
        """The entry of a row."""
        return cls(**{name: getattr(row, name) for name in cls.model_fields})
