"""The real API in a thread, for tests of its clients: on a free port, ended and brought back there at will."""

from __future__ import annotations

from typing import Any

import httpx

from phasewatch.storage.artifacts import Artifacts
from phasewatch.storage.database import Database
from server.app import create_app
from server.service import HttpServer
from server.settings import Settings


class LiveServer:
    """`python -m server api` without its process. `token` becomes the admin token; keywords are settings."""

    def __init__(self, database: Database, artifacts: Artifacts, token: str | None = None, **settings: Any) -> None:
        self._settings = settings
        self._parts = database, artifacts
        self._token = token
        self._running: HttpServer | None = None
        self.url = self.start(0)

    def start(self, port: int | None = None) -> str:
        """Begins to answer; by default at the address it had."""
        port = int(self.url.rpartition(":")[2]) if port is None else port
        settings = Settings(port=port, admin_token=self._token, **self._settings)  # type: ignore[arg-type]  # pydantic wraps it
        self._running = HttpServer(settings, create_app(settings, *self._parts))
        self._running.start()
        return self._running.url

    def stop(self) -> None:
        """Ends; connections to it are refused from now on."""
        if self._running is not None:
            self._running.stop()
            self._running = None

    def get(self, path: str, **params: Any) -> Any:
        """What the API answers, read by another client than the one under test."""
        headers = {"Authorization": f"Bearer {self._token}"} if self._token else {}
        response = httpx.get(f"{self.url}/api/v1{path}", params=params, headers=headers, trust_env=False)
        return response.raise_for_status().json()
