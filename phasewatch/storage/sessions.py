"""Browsers that signed in: a cookie's secret, kept as its SHA-256, stands for the token it was opened with."""

from __future__ import annotations

import secrets
from datetime import timedelta

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from phasewatch.storage.schema import ApiToken, BrowserSession, utc_now
from phasewatch.storage.tokens import is_valid, token_sha256

PREFIX = "pws_"


def open_session(session: Session, token: ApiToken, lifetime: timedelta) -> tuple[BrowserSession, str]:
    """Opens a session of that lifetime, or of the token's rest where that is shorter; its row, and the secret."""
    secret = PREFIX + secrets.token_urlsafe(32)
    expires_at = utc_now() + lifetime
    if token.expires_at is not None:
        expires_at = min(expires_at, token.expires_at)
    row = BrowserSession(token_id=token.id, sha256=token_sha256(secret), expires_at=expires_at)
    session.add(row)
    session.flush()
    return row, secret


def find_session(session: Session, secret: str) -> tuple[BrowserSession, ApiToken] | None:
    """The open session of that secret and its token, which must still be valid; looked up by hash, as tokens are."""
    query = (
        select(BrowserSession, ApiToken)
        .join(ApiToken, ApiToken.id == BrowserSession.token_id)
        .where(BrowserSession.sha256 == token_sha256(secret), BrowserSession.expires_at > utc_now(), is_valid())
    )
    found = session.execute(query).first()
    return None if found is None else (found[0], found[1])


def close_session(session: Session, secret: str) -> None:
    """Ends a session; one that is not open is nothing to complain of."""
    session.execute(delete(BrowserSession).where(BrowserSession.sha256 == token_sha256(secret)))


def trim_sessions(session: Session) -> int:
    """Removes sessions that are over; how many."""
    over = delete(BrowserSession).where(BrowserSession.expires_at <= utc_now()).returning(BrowserSession.id)
    return len(session.execute(over).all())
