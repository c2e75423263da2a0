"""The command as a person types it, against the real API over SQLite."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from typer.testing import CliRunner

from phasewatch.cli import app
from phasewatch.storage.artifacts import Artifacts
from phasewatch.storage.database import Database
from tests.live_server import LiveServer


@dataclass(frozen=True)
class Answer:
    """What a call of the command said."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Call = Callable[..., Answer]


def call(*arguments: str, env: dict[str, str] | None = None) -> Answer:
    """Runs the command with these arguments."""
    result = CliRunner().invoke(app, list(arguments), env=env)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Answer(result.exit_code, result.stdout, result.stderr)


@pytest.fixture
def live(sqlite_database: Database, artifacts: Artifacts) -> Iterator[LiveServer]:
    server = LiveServer(sqlite_database, artifacts)
    yield server
    server.stop()


@pytest.fixture
def phasewatch(live: LiveServer) -> Call:
    """The command, told of the server by its environment."""
    return lambda *arguments: call(*arguments, env={"PHASEWATCH_URL": live.url})
