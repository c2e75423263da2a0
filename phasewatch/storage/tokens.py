"""API tokens: shown once, kept as their SHA-256, revoked but not forgotten."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, and_, delete, func, or_, select, update
from sqlalchemy.orm import Session

from phasewatch.errors import Conflict, InvalidInput, NotFound
from phasewatch.storage.database import insert_if_absent
from phasewatch.storage.limits import checked_name
from phasewatch.storage.schema import ApiToken, BrowserSession, Scope, utc_now

PREFIX = "pw_"
USE_NOTED_EVERY = timedelta(minutes=1)


def new_token() -> str:
    """A fresh secret of 256 random bits."""
    return PREFIX + secrets.token_urlsafe(32)


def token_sha256(token: str) -> str:
    """What is stored of a token. Tokens are random, so a plain hash cannot be turned round."""
    return hashlib.sha256(token.encode()).hexdigest()


def put_token(session: Session, token: str, *, name: str, scope: Scope, made_by: str | None = None) -> bool:
    """Makes a token valid; the same token again changes nothing. False for one that was revoked: it stays so."""
    sha256 = token_sha256(token)
    known = session.scalars(select(ApiToken).where(ApiToken.sha256 == sha256)).first()
    if known is None:
        values = {"name": name, "sha256": sha256, "scope": scope, "made_by": made_by, "created_at": utc_now()}
        insert_if_absent(session, ApiToken, values)
    return known is None or known.revoked_at is None


def create_token(
    session: Session, *, name: str, scope: Scope, expires_at: datetime | None = None, made_by: str | None = None
) -> tuple[ApiToken, str]:
    """Makes a token; its row, and its text, which is kept nowhere.

    Raises InvalidInput for a name that cannot be kept or a time that is over, Conflict where the first token of all is
    not an admin's: from then on every route needs one, and nobody could make another.
    """
    _check_expiry(expires_at)
    if scope != "admin" and not any_token(session):
        raise Conflict(
            f"the first token needs scope admin, not {scope}: once there is one, every route needs a token, and only "
            "an admin's makes others"
        )
    token = new_token()
    row = ApiToken(
        name=checked_name("token name", name),
        sha256=token_sha256(token),
        scope=scope,
        expires_at=expires_at,
        made_by=made_by,
    )
    session.add(row)
    session.flush()
    return row, token


def any_token(session: Session) -> bool:
    """True where there is or ever was a token: every route needs one, and the last one's end opens nothing."""
    return bool(session.scalar(select(func.count()).select_from(ApiToken)))


def any_admin(session: Session) -> bool:
    """True where somebody can still make and revoke tokens."""
    return bool(_valid_admins(session))


def find_token(session: Session, token: str) -> ApiToken | None:
    """The valid token of that text; looked up by hash, so the time taken says nothing of the secret."""
    sha256 = token_sha256(token)
    found = session.scalars(select(ApiToken).where(ApiToken.sha256 == sha256, is_valid())).first()
    return found if found is not None and hmac.compare_digest(found.sha256, sha256) else None


def is_valid() -> ColumnElement[bool]:
    """The condition that a token is neither revoked nor over."""
    return and_(ApiToken.revoked_at.is_(None), or_(ApiToken.expires_at.is_(None), ApiToken.expires_at > utc_now()))


def get_token(session: Session, token_id: int) -> ApiToken:
    """One token's row, revoked or not. Raises NotFound."""
    found = session.get(ApiToken, token_id)
    if found is None:
        raise NotFound(f"no token has the id {token_id}; `phasewatch token list` shows them")
    return found


def list_tokens(
    session: Session, *, revoked: bool = False, after: int | None = None, limit: int = 50
) -> Sequence[ApiToken]:
    """Tokens, oldest first; those that were revoked only if asked for."""
    query = select(ApiToken).where(ApiToken.id > (after or 0)).order_by(ApiToken.id).limit(limit)
    return session.scalars(query if revoked else query.where(ApiToken.revoked_at.is_(None))).all()


def edit_token(session: Session, token_id: int, **changes: Any) -> ApiToken:
    """Renames a token (`name`) or gives it another end (`expires_at`, None for none).

    Raises NotFound, InvalidInput, and Conflict for one that was revoked.
    """
    found = get_token(session, token_id)
    if found.revoked_at is not None:
        raise Conflict(f"token {token_id} ({found.name}) was revoked; make another")
    if "name" in changes:
        found.name = checked_name("token name", changes["name"])
    if "expires_at" in changes:
        _check_expiry(changes["expires_at"])
        found.expires_at = changes["expires_at"]
    session.flush()
    return found


def revoke_token(session: Session, token_id: int, *, last_admin: bool = False) -> ApiToken:
    """Ends a token and every session opened with it; again changes nothing.

    Raises NotFound, and Conflict for the last valid admin token unless `last_admin` says that this is meant.
    """
    admins = {row.id for row in _valid_admins(session, lock=True)}
    found = get_token(session, token_id)
    if admins == {token_id} and not last_admin:
        raise Conflict(
            f"token {token_id} ({found.name}) is the last one of scope admin: without it nobody can make or revoke "
            "tokens but `python -m server token create`; revoke it with ?last_admin=true if that is meant"
        )
    if found.revoked_at is None:
        found.revoked_at = utc_now()
    session.execute(delete(BrowserSession).where(BrowserSession.token_id == token_id))
    session.flush()
    return found


def note_use(session: Session, token_id: int) -> None:
    """Remembers that a token was used now; written at most once a minute."""
    now = utc_now()
    long_ago = or_(ApiToken.last_used_at.is_(None), ApiToken.last_used_at < now - USE_NOTED_EVERY)
    session.execute(update(ApiToken).where(ApiToken.id == token_id, long_ago).values(last_used_at=now))


def _valid_admins(session: Session, *, lock: bool = False) -> Sequence[ApiToken]:
    query = select(ApiToken).where(ApiToken.scope == "admin", is_valid()).order_by(ApiToken.id)
    return session.scalars(query.with_for_update() if lock else query).all()


def _check_expiry(expires_at: datetime | None) -> None:
    if expires_at is not None and expires_at <= utc_now():
        raise InvalidInput(f"expires_at {expires_at.isoformat()} is over; give a time to come, or none")
