"""Who may ask for what: bearer tokens where there are any, and the loopback address alone where there are none.

Separate from the routes, and in front of all of them, so that no new route can forget it.
"""

from __future__ import annotations

import ipaddress
import logging
import time
from urllib.parse import urlsplit

from anyio import CapacityLimiter, to_thread
from pydantic import SecretStr
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session
from starlette.datastructures import Headers
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Receive, Scope, Send

from phasewatch.errors import InvalidInput, PhasewatchError
from phasewatch.storage.database import Database
from phasewatch.storage.schema import Scope as TokenScope
from phasewatch.storage.sessions import find_session
from phasewatch.storage.tokens import USE_NOTED_EVERY, any_token, find_token, note_use, put_token, token_sha256
from server.audit import READING, SIGN_IN, client_address, is_ingest
from server.callers import LOCAL, Caller
from server.problems import Forbidden, TokenNeeded, problem_of
from server.rate_limits import RateLimits
from server.sessions import COOKIE, check_csrf, check_own_page
from server.settings import Settings

log = logging.getLogger(__name__)

CACHE_S = 1.0
"""How long what the database said of tokens is believed: a new or revoked token counts after a second."""

CACHED_TOKENS = 1_000
PUBLIC = ("/api/v1/health", "/api/v1/ready")
PUBLIC_FOLDER = "/static/"
PAGES = ("/", "/compare", "/monitors", "/jobs", "/alerts", "/tokens", "/settings")
PAGE_FOLDERS = ("/runs/", "/changes/")
_MARGIN_S = 0.1


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
    """What the database knows of tokens and sessions, remembered for a second."""

    def __init__(self, settings: Settings, database: Database) -> None:
        self._settings = settings
        self._database = database
        self._any: tuple[float, bool] | None = None
        self._callers: dict[str, tuple[float, Caller]] = {}
        self._uses: dict[int, float] = {}

    def install_tokens(self) -> None:
        """Makes the tokens of the settings valid; one that was revoked stays so, which the log says."""
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
                if not put_token(session, token, name=name, scope=scope, made_by="the settings"):
                    log.warning("the token of %s was revoked and stays so; set another", name)
        self.forget()

    def forget(self) -> None:
        """Asks the database anew, because tokens or sessions were changed here."""
        self._any = None
        self._callers.clear()

    def remembers(self, connection: HTTPConnection) -> bool:
        """True where `check` needs no database, so that it may run where nothing may wait."""
        soon = time.monotonic() + _MARGIN_S
        if self._any is None or self._any[0] < soon:
            return False
        secret = bearer_token(connection) or connection.cookies.get(COOKIE)
        known = self._callers.get(token_sha256(secret)) if secret else None
        return not self._any[1] or not secret or (known is not None and known[0] >= soon)

    def needs_token(self) -> bool:
        """True where at least one token exists. Reads the database at most once a second."""
        known = self._any
        if known is None or known[0] < time.monotonic():
            with self._database.reading() as session:
                known = self._any = (time.monotonic() + CACHE_S, any_token(session))
        return known[1]

    def caller_of(self, secret: str, *, cookie: bool = False) -> Caller:
        """Whose token it is, or whose session's cookie. Raises TokenNeeded for one that is not valid."""
        key = token_sha256(secret)
        known = self._callers.get(key)
        if known is not None and known[0] >= time.monotonic():
            return known[1]
        with self._database.reading() as session:
            caller = _session_caller(session, secret) if cookie else _token_caller(session, secret)
        if caller is None:
            self._callers.pop(key, None)
            what = "session is over; sign in again" if cookie else "bearer token is not valid: it is unknown, revoked"
            raise TokenNeeded(f"the {what}" + ("" if cookie else " or has expired"))
        if len(self._callers) >= CACHED_TOKENS:
            self._callers.clear()
        self._callers[key] = (time.monotonic() + CACHE_S, caller)
        return caller

    def is_stranger(self, connection: HTTPConnection) -> bool:
        """True for a token or cookie that was not let in lately; what strangers do keeps nobody else out."""
        secret = bearer_token(connection) or connection.cookies.get(COOKIE)
        return bool(secret) and token_sha256(secret or "") not in self._callers

    def check(self, connection: HTTPConnection) -> Caller | None:
        """Who asks; None where anybody may. Raises TokenNeeded, or Forbidden for another machine's name or page."""
        method, path = connection.scope["method"], connection.scope["path"]
        if not self.needs_token():
            self._check_loopback(method, connection.headers)
            return LOCAL
        if is_public(method, path):
            if path == SIGN_IN:
                check_own_page(connection)
            return None
        token = bearer_token(connection)
        if token is not None:
            return self.caller_of(token)
        secret = connection.cookies.get(COOKIE)
        if secret is None:
            raise TokenNeeded("this server has tokens: send `Authorization: Bearer TOKEN`, or sign in on its page")
        caller = self.caller_of(secret, cookie=True)
        if method not in READING:
            check_csrf(connection, secret)
        return caller

    def use_is_due(self, token_id: int) -> bool:
        """True at most once a minute for a token: its use is then to be noted."""
        now = time.monotonic()
        if self._uses.get(token_id, 0.0) > now:
            return False
        self._uses[token_id] = now + USE_NOTED_EVERY.total_seconds()
        return True

    def note_use(self, token_id: int) -> None:
        """Writes that a token was used. It can wait: a database that is away is no reason to fail."""
        try:
            with self._database.transaction() as session:
                note_use(session, token_id)
        except SQLAlchemyError as error:
            log.warning("use of token %d not noted: %s", token_id, getattr(error, "orig", error))

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


def _token_caller(session: Session, token: str) -> Caller | None:
    found = find_token(session, token)
    return None if found is None else Caller(found.name, found.scope, found.id, found.expires_at)


def _session_caller(session: Session, secret: str) -> Caller | None:
    found = find_session(session, secret)
    if found is None:
        return None
    opened, token = found
    return Caller(token.name, token.scope, token.id, opened.expires_at)


def _same_site(origin: str, names: tuple[str, ...]) -> bool:
    try:
        return host_name(urlsplit(origin).netloc) in names
    except ValueError:
        return False


def bearer_token(connection: HTTPConnection) -> str | None:
    """The token of the Authorization header, None without one. Raises TokenNeeded for another kind of header."""
    given = connection.headers.get("authorization")
    if given is None:
        return None
    kind, _, token = given.partition(" ")
    if kind.lower() != "bearer" or not token.strip():
        raise TokenNeeded("the Authorization header holds no token: send `Authorization: Bearer TOKEN`")
    return token.strip()


def is_public(method: str, path: str) -> bool:
    """True for what needs no token: is it alive, the pages' own files, and signing in."""
    return path in PUBLIC or path.startswith(PUBLIC_FOLDER) or (method == "POST" and path == SIGN_IN)


def needed_scope(method: str, path: str) -> TokenScope:
    """The scope that a request needs before its route has a say; whoever reads may sign out, too."""
    return "read" if method in READING or path == SIGN_IN else "write"


class Access:
    """ASGI middleware that asks the gate and counts. A page is shown without its data, so that one can sign in."""

    def __init__(self, app: ASGIApp, gate: Gate, limits: RateLimits) -> None:
        self.app = app
        self.gate = gate
        self._limits = limits
        self._threads = CapacityLimiter(8)  # its own, so that /health answers while every worker thread is busy

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        state = scope.setdefault("state", {})
        try:
            caller = await self._admit(scope, HTTPConnection(scope))
        except TokenNeeded as error:
            if not (scope["method"] == "GET" and is_page(scope["path"])):
                await problem_of(error)(scope, receive, send)
                return
            state["token_needed"] = True
            caller = None
        except (PhasewatchError, SQLAlchemyError) as error:
            if isinstance(error, PhasewatchError) or scope["path"] not in PUBLIC:  # which say so themselves
                await problem_of(error)(scope, receive, send)
                return
            caller = None
        await self.app(scope, receive, send)
        if caller is not None and caller.token_id is not None and self.gate.use_is_due(caller.token_id):
            await to_thread.run_sync(self.gate.note_use, caller.token_id, limiter=self._threads)

    async def _admit(self, scope: Scope, connection: HTTPConnection) -> Caller | None:
        """Who asks. Raises what `Gate.check` does, Forbidden for a scope that is too small, and TooManyRequests."""
        method, path, address = scope["method"], scope["path"], client_address(connection)
        try:
            if self.gate.remembers(connection):
                caller = self.gate.check(connection)
            elif self.gate.is_stranger(connection) and not self._limits.may_attempt(address):
                raise TokenNeeded("not looked up")
            else:
                caller = await to_thread.run_sync(self.gate.check, connection, limiter=self._threads)
        except TokenNeeded:
            self._limits.take_attempt(address)
            raise
        scope["state"]["caller"] = caller
        if caller is None:
            self._limits.take_attempt(address) if path == SIGN_IN else self._limits.take_public(address)
            return None
        if caller.token_id is not None:
            self._limits.take_request(caller.token_id, ingest=is_ingest(method, path))
        needed = needed_scope(method, path)
        if not caller.may(needed):
            raise Forbidden(f"{method} {path} needs a token of scope {needed}; this one has scope {caller.scope}")
        return caller


def is_page(path: str) -> bool:
    """True for the addresses of pages: they hold no data themselves."""
    return path in PAGES or path.startswith(PAGE_FOLDERS)
