"""Fixtures of the service's tests: the application over a test's database, and a client that speaks to it."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import numpy.typing as npt
import pytest
import uvicorn
from fastapi import FastAPI
from fastapi.testclient import TestClient

from phasewatch.storage.artifacts import Artifacts
from phasewatch.storage.database import Database
from server.app import create_app
from server.settings import Settings
from tests.conftest import MakeRun, make_probes

ADDRESS = "http://127.0.0.1:8000"
SECRET_KEY = "a key of tests, which seals nothing that matters"
NPY = {"Content-Type": "application/x-npy"}
JSON = {"Content-Type": "application/json"}

MakeClient = Callable[..., TestClient]


def npy(values: npt.ArrayLike, dtype: str = "<f4") -> bytes:
    """An array as a .npy body, written by numpy."""
    buffer = io.BytesIO()
    np.save(buffer, np.asarray(values, dtype))
    return buffer.getvalue()


def losses(seed: int = 0, shape: tuple[int, ...] = (2, 8)) -> npt.NDArray[np.float32]:
    """Losses of one step of `make_probes()`, in nats."""
    return np.random.default_rng(seed).gamma(2.0, 1.5, shape).astype(np.float32)


def npy_with_header(text: str, values: bytes = b"") -> bytes:
    """A .npy body with a header of our own."""
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode() + values


def refused(answer: Any, status: int, *words: str) -> None:
    """Asserts a problem of that status whose detail has these words."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    for word in words:
        assert word in answer.json()["detail"]


def make_app(database: Database, artifacts: Artifacts, **settings: Any) -> FastAPI:
    """The application over a database; keywords are settings."""
    given = {"database_url": "sqlite:///unused.db", "secret_key": SECRET_KEY} | settings
    return create_app(Settings(**given), database, artifacts)


@contextmanager
def serving(app: FastAPI) -> Iterator[str]:
    """The application behind a real server on a free port of this machine; its address."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error", timeout_graceful_shutdown=2))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.005)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    app.state.service.events.close()
    server.should_exit = True
    thread.join()


@pytest.fixture
def make_client(artifacts: Artifacts) -> Iterator[MakeClient]:
    """Makes a client of the application over a database: `make_client(database, max_body_bytes=100)`."""
    with ExitStack() as stack:

        def make(database: Database, **settings: Any) -> TestClient:
            app = make_app(database, artifacts, **settings)
            return stack.enter_context(TestClient(app, base_url=ADDRESS))

        yield make


@pytest.fixture
def client(database: Database, make_client: MakeClient) -> TestClient:
    """A client of the service, on SQLite, then on PostgreSQL."""
    return make_client(database)


@pytest.fixture
def sqlite_client(sqlite_database: Database, make_client: MakeClient) -> TestClient:
    """A client of the service on SQLite, for a test to which the kind of database is nothing."""
    return make_client(sqlite_database)


@pytest.fixture
def run(make_run: MakeRun) -> UUID:
    """A run with a probe set of one slice `text`, 2 × 8 losses a step."""
    return make_run(probes=make_probes())


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing a test starts writes into the folder it was started in."""
    monkeypatch.chdir(tmp_path)
