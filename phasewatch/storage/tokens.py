"""API tokens: shown once, kept as their SHA-256."""

from __future__ import annotations

import hashlib
import secrets

from sqlalchemy import func, or_, select
from sqlalchemy.orm import Session

from phasewatch.storage.database import insert_if_absent
from phasewatch.storage.schema import ApiToken, Scope, utc_now

PREFIX = "pw_"


def new_token() -> str:
    """A fresh secret of 256 random bits."""
    return PREFIX + secrets.token_urlsafe(32)


def token_sha256(token: str) -> str:
    """What is stored of a token. Tokens are random, so a plain hash cannot be turned round."""
    return hashlib.sha256(token.encode()).hexdigest()


def put_token(session: Session, token: str, *, name: str, scope: Scope) -> None:
    """Makes a token valid; the same token again changes nothing."""
    sha256 = token_sha256(token)
    if session.scalar(select(ApiToken.id).where(ApiToken.sha256 == sha256)) is None:
        insert_if_absent(session, ApiToken, {"name": name, "sha256": sha256, "scope": scope, "created_at": utc_now()})


def any_token(session: Session) -> bool:
    """True where at least one token exists, so that every route needs one."""
    return bool(session.scalar(select(func.count()).select_from(ApiToken)))


def find_token(session: Session, token: str) -> ApiToken | None:
    """The valid token of that text; looked up by hash, so the time taken says nothing of the secret."""
    fresh = or_(ApiToken.expires_at.is_(None), ApiToken.expires_at > utc_now())
    return session.scalars(select(ApiToken).where(ApiToken.sha256 == token_sha256(token), fresh)).first()
