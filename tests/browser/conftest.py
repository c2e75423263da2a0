"""Fixtures of the browser tests: one Chromium a session, a recorded run, a page at a real server.

`visit` is a watched page at the service; a test that takes `run` has the run of recorded_run.py in its database.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import pytest
from fastapi import FastAPI
from playwright.sync_api import Browser, expect, sync_playwright

from phasewatch.storage.artifacts import Artifacts
from phasewatch.storage.database import Database
from tests.browser.chromium import find_browser
from tests.browser.recorded_run import record_run
from tests.browser.watched import FLAGS, Watched, visiting
from tests.server.conftest import make_app

expect.set_options(timeout=20_000)  # a busy machine is no failure


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """A Chromium."""
    path = find_browser()
    assert path is not None, "no browser for the browser tests: install the package chromium"
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture(scope="session")
def recorded(scratch: Path, sqlite_template: Path) -> tuple[Path, UUID]:
    """A SQLite file with the recorded run, and the run's id."""
    file = Path(shutil.copyfile(sqlite_template, scratch / "recorded.db"))
    database = Database(f"sqlite:///{file}")
    with database.transaction() as session:
        run = record_run(session)
    database.close()
    return file, run


@pytest.fixture
def run(recorded: tuple[Path, UUID]) -> UUID:
    """The recorded run; a test that takes it has it in its database."""
    return recorded[1]


@pytest.fixture
def database(
    request: pytest.FixtureRequest, tmp_path: Path, sqlite_template: Path, recorded: tuple[Path, UUID]
) -> Iterator[Database]:
    """The test's own database: with the recorded run where the test takes `run`, else empty."""
    source = recorded[0] if "run" in request.fixturenames else sqlite_template
    opened = Database(f"sqlite:///{shutil.copyfile(source, tmp_path / 'phasewatch.db')}")
    yield opened
    opened.close()


@pytest.fixture
def app(database: Database, artifacts: Artifacts) -> FastAPI:
    """The service without tokens."""
    return make_app(database, artifacts)


@pytest.fixture
def visit(browser: Browser, app: FastAPI) -> Iterator[Watched]:
    """A page at the service; the test fails on any error it met."""
    with visiting(browser, app) as watched:
        yield watched
    assert watched.errors == []
