"""A server in forty lines: what a recorder needs of the API, with faults on demand, behind httpx's MockTransport."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from typing import Any

import httpx
import numpy as np

Fault = httpx.Response | Exception


class FakeServer:
    """Keeps what it is sent. `faults` are answered before anything else, one a request; `veto` may refuse a request."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, str, Any]] = []  # method, path and content of what was taken or refused
        self.faults: list[Fault] = []
        self.lost_answers = 0  # this many requests are taken, and their answers lost
        self.veto: Callable[[str, str, Any], int | None] = lambda method, path, content: None
        self.authorizations: set[str | None] = set()
        self.series: list[tuple[int, str, Any]] = []
        self.transport = httpx.MockTransport(self._answer)

    @property
    def paths(self) -> list[str]:
        return [f"{method} {path}" for method, path, _ in self.requests]

    def content(self, of: str) -> Any:
        """The content of the only request whose method and path end with `of`."""
        [found] = [content for method, path, content in self.requests if f"{method} {path}".endswith(of)]
        return found

    def _answer(self, request: httpx.Request) -> httpx.Response:
        if self.faults:
            fault = self.faults.pop(0)
            if isinstance(fault, Exception):
                raise fault
            return fault
        self.authorizations.add(request.headers.get("Authorization"))
        path = request.url.raw_path.decode().removeprefix("/api/v1")
        body = request.read()
        is_array = request.headers.get("content-type") == "application/x-npy"
        content = np.load(io.BytesIO(body), allow_pickle=False) if is_array else json.loads(body) if body else None
        self.requests.append((request.method, path, content))
        status = self.veto(request.method, path, content)
        if status is not None:
            return httpx.Response(status, json={"status": status, "title": "no", "detail": f"refused {path}"})
        if self.lost_answers:
            self.lost_answers -= 1
            raise httpx.ReadError("connection reset")
        if "/series" in path:
            self.series += [(p["step"], name, v) for p in content["points"] for name, v in p["values"].items()]
        return httpx.Response(201, json={"number": 3} if path.endswith("/segments") else {})
