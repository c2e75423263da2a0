"""Every request: its id, how it ended and how long it took, counted, and logged where it went wrong.

The outermost of the middleware, so that what the others refuse is counted, too. X-Request-Id of a proxy is kept.
"""

from __future__ import annotations

import logging
import re
import secrets
import time

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.logs import request_id
from server.metrics import Metrics

PREFIX = "/api/v1"
HEADER = "X-Request-Id"
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_USABLE = re.compile(r"[A-Za-z0-9._-]{1,64}")

log = logging.getLogger(__name__)


class Requests:
    """ASGI middleware that names, times and counts requests. Time ends where the answer begins."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        name = _request_id(Headers(scope=scope))
        request_id.set(name)  # never reset: the server's own line on a failure comes after us, in this same context
        begin = time.perf_counter()
        status = 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)[HEADER] = name
                status = message["status"]
                self._note(scope, status, time.perf_counter() - begin)
            await send(message)

        try:
            await self.app(scope, receive, send_with_id)
        finally:
            if status == 0:
                self._note(scope, 500, time.perf_counter() - begin)

    def _note(self, scope: Scope, status: int, took_s: float) -> None:
        method = scope["method"] if scope["method"] in METHODS else "other"
        route = route_template(scope)
        self._metrics.note_request(method, route, status, took_s)
        if status < 300:
            self._metrics.note_ingested(scope.get("state", {}).get("ingested", {}))
        level = logging.WARNING if status >= 500 else logging.DEBUG
        if log.isEnabledFor(level):
            path, took_ms = scope["path"][:200], round(1000 * took_s, 1)
            fields = {"method": method, "path": path, "route": route, "status": status, "took_ms": took_ms}
            log.log(level, "%s %r answered %d after %.1f ms", method, path, status, took_ms, extra={"fields": fields})


def route_template(scope: Scope) -> str:
    """The route's path with its parameters' names; a route under the API's prefix may not know of that."""
    template: str = getattr(scope.get("route"), "path", "none")
    beyond = template == "none" or template.startswith(PREFIX) or not scope["path"].startswith(PREFIX)
    return template if beyond else PREFIX + template


def _request_id(headers: Headers) -> str:
    given = headers.get(HEADER, "")
    return given if _USABLE.fullmatch(given) else secrets.token_hex(8)
