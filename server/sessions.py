"""Browser sessions over HTTP: the cookie, and how a page proves that a write is its own.

A cookie is sent by the browser whatever page asks, so a write that it authenticates needs more: X-CSRF-Token, which
only a page of this server can read, and no sign that another site sent it.
"""

from __future__ import annotations

import hashlib
import hmac
from datetime import datetime
from urllib.parse import urlsplit

from starlette.requests import HTTPConnection
from starlette.responses import Response

from phasewatch.storage.schema import utc_now
from server.problems import Forbidden

COOKIE = "phasewatch_session"
CSRF_HEADER = "X-CSRF-Token"


def csrf_token(secret: str) -> str:
    """What a page sends with its writes: made from the cookie's secret, so that nothing more is stored."""
    return hmac.new(secret.encode(), b"phasewatch csrf", hashlib.sha256).hexdigest()


def set_cookie(response: Response, secret: str, expires_at: datetime, *, secure: bool) -> None:
    """Gives the browser its session: out of reach of scripts and of other sites; over https for https alone."""
    max_age = max(0, round((expires_at - utc_now()).total_seconds()))
    response.set_cookie(COOKIE, secret, max_age=max_age, path="/", secure=secure, httponly=True, samesite="strict")


def drop_cookie(response: Response, *, secure: bool) -> None:
    """Takes the session from the browser."""
    response.delete_cookie(COOKIE, path="/", secure=secure, httponly=True, samesite="strict")


def check_own_page(connection: HTTPConnection) -> None:
    """Raises Forbidden where the browser says that another site's page, or another port's, sends this."""
    site = connection.headers.get("sec-fetch-site")
    origin = connection.headers.get("origin")
    if site is not None:
        own = site in ("same-origin", "none")
    else:
        own = origin is None or _authority(origin) == connection.headers.get("host", "").lower()
    if not own:
        raise Forbidden(f"a page of {(origin or site or '')[:80]!r} may not write here; only this server's own may")


def check_csrf(connection: HTTPConnection, secret: str) -> None:
    """Raises Forbidden unless this request carries its session's CSRF token and comes from a page of this server."""
    check_own_page(connection)
    given = connection.headers.get(CSRF_HEADER, "")
    if not hmac.compare_digest(given.encode(), csrf_token(secret).encode()):
        raise Forbidden(f"a write with the session's cookie needs {CSRF_HEADER}; GET /api/v1/session names it as csrf")


def _authority(origin: str) -> str | None:
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return None
