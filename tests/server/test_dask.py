"""Jobs on a real dask scheduler and worker of this machine: done there, and done again where the worker was killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import dask
import pytest
from distributed import LocalCluster

from phasewatch.errors import InvalidInput, Unavailable
from phasewatch.storage import jobs as queue
from phasewatch.storage.artifacts import Artifacts
from phasewatch.storage.database import Database
from phasewatch.storage.measurements import list_measures
from server.dask_executor import DaskExecutor, check_dask_address
from server.dispatcher import Dispatcher
from server.executors import make_executor
from server.settings import Settings
from tests.server.small_run import SmallRun
from tests.server.test_dispatcher import ended, job_of, put_job
from tests.server.test_scheduler import until

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    """A scheduler that repeats nothing, without workers: each test starts its own."""
    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 0}),
        LocalCluster(n_workers=0, processes=True, host="127.0.0.1", dashboard_address="127.0.0.1:0") as started,
    ):
        yield started


@pytest.fixture
def start_worker(cluster: LocalCluster, tmp_path: Path) -> Iterator[Callable[[], subprocess.Popen[bytes]]]:
    """Starts a worker of one thread that nothing restarts, and waits until the scheduler knows it."""
    started: list[subprocess.Popen[bytes]] = []

    def start() -> subprocess.Popen[bytes]:
        known = set(cluster.scheduler.workers)
        options = ("--no-nanny", "--no-dashboard", "--nthreads=1", "--memory-limit=0", f"--local-directory={tmp_path}")
        command = (sys.executable, "-m", "distributed.cli.dask_worker", cluster.scheduler_address, *options)
        worker = subprocess.Popen(command, stderr=subprocess.DEVNULL, env={**os.environ, "PYTHONPATH": str(ROOT)})
        started.append(worker)
        until(lambda: bool(set(cluster.scheduler.workers) - known), 60)
        return worker

    yield start
    for worker in started:
        worker.kill()
        worker.wait()
    until(lambda: not cluster.scheduler.workers, 60)


def test_a_killed_worker_costs_the_job_one_attempt(
    database: Database,
    artifacts: Artifacts,
    cluster: LocalCluster,
    start_worker: Callable[[], subprocess.Popen[bytes]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(queue, "BACK_OFF_S", (0.0, 0.0))
    run = SmallRun.create(database, artifacts)
    run.record(0)
    worker = start_worker()
    settings = Settings(executor="dask", dask_address=cluster.scheduler_address)
    executor = make_executor(settings, database, artifacts, 1)
    assert isinstance(executor, DaskExecutor)
    assert executor.slots == 1
    job_id = put_job(database, "score", run, 0)
    worker.send_signal(signal.SIGSTOP)  # so that the job is there and cannot be done
    dispatcher = Dispatcher(database, executor, poll_s=0.02)
    dispatcher.start()
    try:
        until(lambda: any(one.processing for one in list(cluster.scheduler.workers.values())))  # not merely claimed
        worker.kill()
        start_worker()
        until(lambda: ended(database), 60)
    finally:
        dispatcher.stop()
    found = job_of(database, job_id)
    assert (found.state, found.attempts, found.error) == ("done", 2, None)
    with database.reading() as session:
        assert "prefix_matching" in {name for name, *_ in list_measures(session, run.run_id)}


def test_a_job_that_fails_there_says_why(
    sqlite_database: Database,
    artifacts: Artifacts,
    cluster: LocalCluster,
    start_worker: Callable[[], subprocess.Popen[bytes]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(queue, "BACK_OFF_S", (0.0, 0.0))
    start_worker()
    dispatcher = Dispatcher(
        sqlite_database, DaskExecutor(sqlite_database, artifacts, cluster.scheduler_address), poll_s=0.02
    )
    job_id = put_job(sqlite_database, "unheard_of")
    dispatcher.start()
    try:
        until(lambda: ended(sqlite_database))
    finally:
        dispatcher.stop()
    found = job_of(sqlite_database, job_id)
    assert (found.state, found.attempts) == ("failed", 3)
    assert "no job is of kind 'unheard_of'" in str(found.error)
    assert "run_work" in str(found.traceback)


def test_a_scheduler_that_repeats_jobs_is_refused(
    sqlite_database: Database, artifacts: Artifacts, cluster: LocalCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster.scheduler, "allowed_failures", 3)
    executor = DaskExecutor(sqlite_database, artifacts, cluster.scheduler_address)
    with pytest.raises(InvalidInput, match="ALLOWED_FAILURES=0"):
        assert executor.slots
    executor.close()


def test_a_scheduler_that_is_away_is_said_to_be(
    sqlite_database: Database, artifacts: Artifacts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.dask_executor.CONNECT_S", 0.2)
    executor = DaskExecutor(sqlite_database, artifacts, "tcp://127.0.0.1:9")
    with pytest.raises(Unavailable, match="does not answer"):
        assert executor.slots


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("tcp://10.0.0.5:8786", "TLS"),
        ("tcp://dask:8786", "TLS"),
        ("", "tls://HOST:PORT"),
        ("http://127.0.0.1:1", "tcp"),
    ],
)
def test_dask_is_spoken_to_by_tls_or_on_this_machine(address: str, words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        check_dask_address(address)
    check_dask_address("tls://dask:8786")
    check_dask_address("tcp://localhost:8786")
