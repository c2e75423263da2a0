"""Who may ask for what: bearer tokens where there are any, and the loopback address alone where there are none.

Separate from the routes, and in front of all of them, so that no new route can forget it.
"""

from __future__ import annotations

import ipaddress
import time
from urllib.parse import urlsplit

from anyio import CapacityLimiter, to_thread
from pydantic import SecretStr
from sqlalchemy.exc import SQLAlchemyError
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from phasewatch.errors import InvalidInput, PhasewatchError
from phasewatch.storage.database import Database
from phasewatch.storage.schema import Scope as TokenScope
from phasewatch.storage.tokens import any_token, find_token, put_token, token_sha256
from server.callers import LOCAL, Caller
from server.problems import Forbidden, TokenNeeded, problem_of
from server.settings import Settings

CACHE_S = 1.0
"""How long what the database said of tokens is believed: a new or revoked token counts after a second."""

CACHED_TOKENS = 1_000
PUBLIC = ("/api/v1/health", "/api/v1/ready")
PUBLIC_FOLDER = "/static/"
PAGES = ("/", "/compare", "/monitors", "/jobs", "/alerts", "/tokens", "/settings")
PAGE_FOLDERS = ("/runs/", "/changes/")
READING = ("GET", "HEAD", "OPTIONS")


def check_address(settings: Settings, database: Database) -> None:
    """Raises InvalidInput where the service would listen beyond this machine with no token to keep others out."""
    if is_loopback(settings.host) or settings.admin_token is not None:
        return
    with database.reading() as session:
        if any_token(session):
            return
    raise InvalidInput(
        f"refusing to listen on {settings.host} without a token: set PHASEWATCH_ADMIN_TOKEN (or "
        "PHASEWATCH_ADMIN_TOKEN_FILE), or listen on 127.0.0.1"
    )


def is_loopback(host: str) -> bool:
    """True for an address that only this machine reaches."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def host_name(header: str) -> str:
    """The host of a Host header in lower case, without its port; brackets of an IPv6 address stay."""
    name, colon, port = header.strip().lower().rpartition(":")
    return name if colon and port.isdecimal() and not name.endswith(":") else header.strip().lower()


class Gate:
    """What the database knows of tokens, remembered for a second."""

    def __init__(self, settings: Settings, database: Database) -> None:
        self._settings = settings
        self._database = database
        self._any: tuple[float, bool] | None = None
        self._callers: dict[str, tuple[float, Caller]] = {}

    def install_tokens(self) -> None:
        """Makes the tokens of the settings valid."""
        settings = self._settings
        given: tuple[tuple[str, SecretStr | None, TokenScope], ...] = (
            ("PHASEWATCH_ADMIN_TOKEN", settings.admin_token, "admin"),
            ("PHASEWATCH_METRICS_TOKEN", settings.metrics_token, "read"),
        )
        tokens = [(name, token.get_secret_value(), scope) for name, token, scope in given if token is not None]
        if not tokens:
            return
        with self._database.transaction() as session:
            for name, token, scope in tokens:
                put_token(session, token, name=name, scope=scope)
        self._any = None

    def needs_token(self) -> bool:
        """True where at least one token exists. Reads the database at most once a second."""
        known = self._any
        if known is None or known[0] < time.monotonic():
            with self._database.reading() as session:
                known = self._any = (time.monotonic() + CACHE_S, any_token(session))
        return known[1]

    def caller_of(self, token: str) -> Caller:
        """Whose token it is; raises TokenNeeded for one that is not valid."""
        key = token_sha256(token)
        known = self._callers.get(key)
        if known is not None and known[0] >= time.monotonic():
            return known[1]
        with self._database.reading() as session:
            found = find_token(session, token)
        if found is None:
            self._callers.pop(key, None)
            raise TokenNeeded("the bearer token is not valid: it is unknown, revoked or has expired")
        if len(self._callers) >= CACHED_TOKENS:
            self._callers.clear()
        caller = Caller(found.name, found.scope, found.id, found.expires_at)
        self._callers[key] = (time.monotonic() + CACHE_S, caller)
        return caller

    def check(self, method: str, path: str, headers: Headers) -> Caller | None:
        """Who asks; None where anybody may. Raises TokenNeeded or Forbidden where this may not be answered."""
        if not self.needs_token():
            self._check_loopback(method, headers)
            return LOCAL
        if path in PUBLIC or path.startswith(PUBLIC_FOLDER):
            return None
        caller = self.caller_of(bearer_token(headers))
        needed: TokenScope = "read" if method in READING else "write"
        if not caller.may(needed):
            raise Forbidden(f"{method} {path} needs a token of scope {needed}; this one has scope {caller.scope}")
        return caller

    def _check_loopback(self, method: str, headers: Headers) -> None:
        names = self._settings.host_names
        host = headers.get("host", "")
        if host_name(host) not in names:
            raise Forbidden(
                f"the Host header {host[:80]!r} names another machine; without tokens these are answered: "
                f"{', '.join(names)} (PHASEWATCH_ALLOWED_HOSTS)"
            )
        origin = headers.get("origin")
        if origin is not None and method not in READING and not _same_site(origin, names):
            raise Forbidden(f"a page of {origin[:80]!r} may not write here; without tokens only this server's own may")


def _same_site(origin: str, names: tuple[str, ...]) -> bool:
    try:
        return host_name(urlsplit(origin).netloc) in names
    except ValueError:
        return False


def bearer_token(headers: Headers) -> str:
    """The token of the Authorization header; raises TokenNeeded without one."""
    kind, _, token = headers.get("authorization", "").partition(" ")
    if kind.lower() != "bearer" or not token.strip():
        raise TokenNeeded("this server has tokens: send `Authorization: Bearer TOKEN`")
    return token.strip()


class Access:
    """ASGI middleware that asks the gate. A page is shown without its data, so that it can ask for the token."""

    def __init__(self, app: ASGIApp, gate: Gate) -> None:
        self.app = app
        self.gate = gate
        self._threads = CapacityLimiter(8)  # its own, so that /health answers while every worker thread is busy

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        method, path = scope["method"], scope["path"]
        state = scope.setdefault("state", {})
        check = self.gate.check
        try:
            state["caller"] = await to_thread.run_sync(check, method, path, Headers(scope=scope), limiter=self._threads)
        except TokenNeeded as error:
            if not (method == "GET" and is_page(path)):
                await problem_of(error)(scope, receive, send)
                return
            state["token_needed"] = True
        except PhasewatchError as error:
            await problem_of(error)(scope, receive, send)
            return
        except SQLAlchemyError as error:
            if path not in PUBLIC:  # these say themselves that the database is away
                await problem_of(error)(scope, receive, send)
                return
        await self.app(scope, receive, send)


def is_page(path: str) -> bool:
    """True for the addresses of pages: they hold no data themselves."""
    return path in PAGES or path.startswith(PAGE_FOLDERS)
