"""Which writes stand in the audit log, and the middleware that writes those which no route's transaction holds.

What a caller changed (2xx), and what it tried without the right to (403, or 401 at the sign-in), is kept. Everything
else changed nothing. What training runs record is left out: it comes by the thousand, and the run itself is its record.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

from anyio import to_thread
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session
from starlette.requests import HTTPConnection
from starlette.routing import compile_path
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from phasewatch.storage.audit import NewEntry, put_entry
from phasewatch.storage.database import Database
from server.callers import Caller
from server.logs import request_id
from server.requests import PREFIX, route_template

log = logging.getLogger(__name__)

READING = ("GET", "HEAD", "OPTIONS", "TRACE")
SIGN_IN = f"{PREFIX}/session"
INGEST = (
    ("PUT", f"{PREFIX}/runs/{{run}}/losses/{{slice}}/{{step}}"),
    ("POST", f"{PREFIX}/runs/{{run}}/series"),
    ("POST", f"{PREFIX}/runs/{{run}}/measurements"),
    ("POST", f"{PREFIX}/runs/{{run}}/checkpoints"),
    ("PUT", f"{PREFIX}/runs/{{run}}/checkpoints/{{step}}/weights"),
)
"""What training runs write, at a high rate: counted apart by the rate limits, and not in the audit log."""

_INGEST = tuple((method, compile_path(template)[0]) for method, template in INGEST)


def is_ingest(method: str, path: str) -> bool:
    """True for what training runs write."""
    return any(method == known and pattern.match(path) for known, pattern in _INGEST)


def is_kept(method: str, path: str, status: int) -> bool:
    """True where a request that ended with `status` stands in the audit log."""
    if method in READING:
        return False
    refused = status == 403 or (status == 401 and path == SIGN_IN)
    return refused or (200 <= status < 300 and not is_ingest(method, path))


def note_in_transaction(session: Session, scope: Scope, status: int) -> None:
    """Writes a request's entry into the transaction that does what it asks."""
    if is_kept(scope["method"], scope["path"], status):
        put_entry(session, _entry(scope, status, route_template(scope)))
        scope["state"]["audited"] = True


class Audit:
    """ASGI middleware that writes the entries which no transaction of a route holds, before the answer leaves."""

    def __init__(self, app: ASGIApp, database: Database, find_paths: Callable[[], Mapping[str, Any]]) -> None:
        """`find_paths` gives the paths of the OpenAPI document."""
        self.app = app
        self._database = database
        self._find_paths = find_paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] in READING:
            await self.app(scope, receive, send)
            return
        state = scope.setdefault("state", {})

        async def send_noted(message: Message) -> None:
            if message["type"] == "http.response.start":
                status = message["status"]
                if is_kept(scope["method"], scope["path"], status) and not state.get("audited"):
                    await to_thread.run_sync(self._write, _entry(scope, status, self._find_template(scope)))
            await send(message)

        await self.app(scope, receive, send_noted)

    def _write(self, entry: NewEntry) -> None:
        """Best effort: what is noted here has been decided, and a database that is away must not undo the answer."""
        try:
            with self._database.transaction() as session:
                put_entry(session, entry)
        except SQLAlchemyError as error:
            what = f"{entry.method} {entry.route} by {entry.name}: {entry.status}"
            log.warning("not in the audit log: %s (%s)", what, getattr(error, "orig", error))

    def _find_template(self, scope: Scope) -> str:
        """The template of the route, also of a request that was refused before it was routed."""
        if "route" in scope:
            return route_template(scope)
        for template, methods in self._find_paths().items():
            found = compile_path(template)[0].match(scope["path"]) if scope["method"].lower() in methods else None
            if found is not None:
                scope["path_params"] = found.groupdict()
                return template
        return "none"


def _entry(scope: Scope, status: int, route: str) -> NewEntry:
    state: dict[str, Any] = scope["state"]
    caller: Caller | None = state.get("caller")
    given = scope.get("path_params", {})
    target = state.get("audit_target") or ", ".join(f"{name}={value}" for name, value in given.items()) or None
    return NewEntry(
        token_id=None if caller is None else caller.token_id,
        name="nobody" if caller is None else caller.name,
        method=scope["method"][:16],
        route=route,
        target=target,
        status=status,
        request_id=request_id.get(),
        address=client_address(HTTPConnection(scope)),
    )


def client_address(connection: HTTPConnection) -> str:
    """Where a request comes from, as the server or a trusted proxy says."""
    return "unknown" if connection.client is None else connection.client.host[:64]
