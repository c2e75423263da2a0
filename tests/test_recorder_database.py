"""A PostgreSQL database that goes away under a recording and comes back: nothing is lost, doubled or out of order."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import psycopg
import pytest
from sqlalchemy.engine import make_url

from phasewatch.recorder import Recorder
from phasewatch.storage.artifacts import Artifacts
from phasewatch.storage.database import Database
from tests.live_server import LiveServer
from tests.test_recorder import TEXT

PATIENCE_S = 60.0  # on a machine that is busy with other things


@contextmanager
def away(maintenance_url: str, name: str) -> Iterator[None]:
    """The database as it is while its server restarts: connections are cut off, new ones are refused."""
    with psycopg.connect(maintenance_url, autocommit=True) as connection:
        connection.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name])
        yield
        connection.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")


def test_a_restart_of_the_database_loses_nothing(
    postgresql_server: str, postgresql_url: str, artifacts: Artifacts, caplog: pytest.LogCaptureFixture
) -> None:
    database = Database(postgresql_url)
    live = LiveServer(database, artifacts)
    losses = np.arange(36, dtype=np.float32).reshape(3, 12)
    with Recorder(live.url, run="tiny", flush_timeout=PATIENCE_S) as recorder:
        recorder.probe(TEXT)
        for step in range(50):
            recorder.log(step, {"loss": float(step)})
        recorder.record_losses(0, losses)
        assert recorder.flush(PATIENCE_S)
        with away(postgresql_server, str(make_url(postgresql_url).database)), caplog.at_level(logging.WARNING):
            for step in range(50, 100):
                recorder.log(step, {"loss": float(step)})
            recorder.record_losses(60, losses + 1)
            assert not recorder.flush(1.0)
            assert "answers 503" in caplog.text
        recorder.record_losses(99, losses + 2)
    [found] = live.get(f"/runs/{recorder.run_id}/series", name="loss")["items"]
    assert (found["steps"], found["values"]) == (list(range(100)), [float(step) for step in range(100)])
    for step, added in ((0, 0), (60, 1), (99, 2)):
        stored = live.get(f"/runs/{recorder.run_id}/losses/text/{step}")
        np.testing.assert_array_equal(np.reshape(stored["values"], stored["shape"]), losses + added)
    assert (recorder.failed, recorder.dropped) == (0, 0)
    live.stop()
    database.close()
