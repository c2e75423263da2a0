"""From a checkpoint to its measurements while the run goes on; workers that die, jobs that cannot be done, a stop."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select, update
from sqlalchemy.orm import Session

from phasewatch.storage import jobs as queue
from phasewatch.storage.artifacts import Artifacts
from phasewatch.storage.database import Database
from phasewatch.storage.jobs import NewJob, enqueue, get_job
from phasewatch.storage.measurements import list_measures
from phasewatch.storage.schema import Job, utc_now
from server import dispatcher as dispatcher_module
from server.dispatcher import Dispatcher
from server.executors import Executor, ProcessExecutor, ThreadExecutor, make_executor
from server.jobs import work as registry
from server.jobs.work import Failure, Store, Work, job
from server.scheduler import Scheduler
from server.settings import Settings
from tests.server.small_run import SmallRun
from tests.server.test_scheduler import until

MakeDispatcher = Callable[..., Dispatcher]


@pytest.fixture
def run(database: Database, artifacts: Artifacts) -> SmallRun:
    return SmallRun.create(database, artifacts)


@pytest.fixture
def postgresql_database(postgresql_url: str) -> Iterator[Database]:
    opened = Database(postgresql_url)
    yield opened
    opened.close()


@pytest.fixture
def dispatch() -> Iterator[MakeDispatcher]:
    """Starts dispatchers, and stops them at the end of the test."""
    started: list[Dispatcher] = []

    def make(database: Database, executor: Executor, **options: Any) -> Dispatcher:
        dispatcher = Dispatcher(database, executor, **{"poll_s": 0.02, **options})
        dispatcher.start()
        started.append(dispatcher)
        return dispatcher

    yield make
    for dispatcher in started:
        dispatcher.stop()


@pytest.fixture
def own_kinds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kinds of job that a test registers are forgotten with it."""
    monkeypatch.setattr(registry, "_bodies", dict(registry._bodies))


@pytest.fixture(autouse=True)
def _without_back_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue, "BACK_OFF_S", (0.0, 0.0))


def put_job(database: Database, kind: str, run: SmallRun | None = None, step: int | None = None) -> int:
    with database.transaction() as session:
        run_id, segment = (None, None) if run is None else (run.run_id, 0)
        job_id = enqueue(session, NewJob(f"{kind}:{step}:{time.monotonic_ns()}", kind, run_id, segment, step))
    assert job_id is not None
    return job_id


def job_of(database: Database, job_id: int) -> Job:
    with database.reading() as session:
        return get_job(session, job_id)


def states(database: Database) -> list[str]:
    with database.reading() as session:
        return list(session.scalars(select(Job.state).order_by(Job.id)))


def ended(database: Database) -> bool:
    return not {"waiting", "running"} & set(states(database))


def nothing(session: Session) -> None:
    """What a job stores that stores nothing."""


# The chain.


def test_results_appear_while_the_run_is_going(
    run: SmallRun, dispatch: MakeDispatcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.scheduler.LONG_S", float("inf"))  # a busy machine makes looks slow, and then rests
    database = run.database
    scheduler = Scheduler(database, "one")
    dispatch(database, ThreadExecutor(database, run.artifacts))
    start = utc_now()
    for number in range(3):
        run.record(10 * number)
        scheduler.tick(start + timedelta(seconds=2 * number))
        until(lambda: ended(database))
        with database.reading() as session:
            found = {name: (n, last) for name, _, n, last in list_measures(session, run.run_id)}
        assert found["prefix_matching"] == found["icl_score"] == (number + 1, 10 * number)
    run.end()
    scheduler.tick(start + timedelta(seconds=60))
    until(lambda: ended(database))
    with database.reading() as session:
        last = session.scalars(select(Job).where(Job.kind == "scan").order_by(Job.id.desc())).first()
        assert set(session.scalars(select(Job.state))) == {"done"}
    assert last is not None
    assert (last.step, last.parameters["ended"]) == (20, True)


def test_several_dispatchers_do_every_job_once(run: SmallRun, dispatch: MakeDispatcher) -> None:
    database = run.database
    for step in range(12):
        run.record_losses(step, None, "text")
    made = Scheduler(database, "one").tick()
    for _ in range(3):
        dispatch(database, ThreadExecutor(database, run.artifacts, slots=2))
    until(lambda: ended(database))
    with database.reading() as session:
        assert sorted(session.scalars(select(Job.attempts).where(Job.state == "done"))) == [1] * made


# Jobs that cannot be done.


def test_a_job_that_cannot_be_done_fails_readably_after_three_attempts(
    database: Database, artifacts: Artifacts, dispatch: MakeDispatcher, own_kinds: None
) -> None:
    @job("poison")
    def poison(work: Work, database: Database, artifacts: Artifacts) -> Store:
        raise ArithmeticError(f"the sum of step {work.step} does not add up")

    job_id = put_job(database, "poison", step=None)
    dispatch(database, ThreadExecutor(database, artifacts))
    until(lambda: ended(database))
    found = job_of(database, job_id)
    assert (found.state, found.attempts) == ("failed", 3)
    assert found.error == "ArithmeticError: the sum of step None does not add up"
    assert found.traceback is not None
    assert "in poison" in found.traceback
    assert found.finished_at is not None


def test_an_executor_that_cannot_start_a_job_costs_it_an_attempt(
    sqlite_database: Database, artifacts: Artifacts, dispatch: MakeDispatcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: ProcessExecutor, work: Work) -> Failure | None:
        raise OSError("no process can be started")

    monkeypatch.setattr(ProcessExecutor, "_run", refuse)
    job_id = put_job(sqlite_database, "score")
    dispatch(sqlite_database, ProcessExecutor(sqlite_database, artifacts))
    until(lambda: ended(sqlite_database))
    assert str(job_of(sqlite_database, job_id).error).startswith("OSError: no process can be started")


# Workers that die, and workers that stop.


def test_a_job_whose_process_is_killed_is_done_again(
    postgresql_database: Database, artifacts: Artifacts, dispatch: MakeDispatcher
) -> None:
    database = postgresql_database  # a child on SQLite runs in test_main.py
    run = SmallRun.create(database, artifacts)
    run.record(0)
    job_id = put_job(database, "score", run, 0)
    executor = ProcessExecutor(database, run.artifacts)
    assert executor.process_ids == []  # none before the first job
    dispatch(database, executor)
    until(lambda: bool(executor.process_ids))
    first = executor.process_ids[0]
    os.kill(first, signal.SIGKILL)  # it needs seconds to import torch, so the job cannot be done
    until(lambda: job_of(database, job_id).attempts == 2)
    assert "SIGKILL" in str(job_of(database, job_id).error)
    until(lambda: ended(database))
    found = job_of(database, job_id)
    assert (found.state, found.attempts, found.error) == ("done", 2, None)
    with database.reading() as session:
        assert "prefix_matching" in {name for name, *_ in list_measures(session, run.run_id)}
    second = executor.process_ids
    assert second != [first]
    put_job(database, "score", run, 0)
    until(lambda: ended(database))
    assert executor.process_ids == second  # a child is kept for the next job


class Held:
    """A kind of job that lasts until `release` is set; registered as "held"."""

    def __init__(self) -> None:
        self.began, self.release = threading.Event(), threading.Event()
        job("held")(self.body)

    def body(self, work: Work, database: Database, artifacts: Artifacts) -> Store:
        self.began.set()
        assert self.release.wait(30)
        return nothing


def test_a_long_job_keeps_its_lease(
    database: Database, artifacts: Artifacts, dispatch: MakeDispatcher, own_kinds: None
) -> None:
    held = Held()
    job_id = put_job(database, "held")
    for _ in range(2):
        dispatch(database, ThreadExecutor(database, artifacts), lease_s=0.8)
    assert held.began.wait(10)
    holder, until_then = job_of(database, job_id).owner, utc_now() + timedelta(seconds=2)
    until(lambda: utc_now() > until_then)
    found = job_of(database, job_id)
    assert (found.owner, found.attempts, found.state) == (holder, 1, "running")
    held.release.set()
    until(lambda: ended(database))
    assert job_of(database, job_id).attempts == 1


def test_a_lost_workers_job_is_done_by_another_and_takes_effect_once(
    database: Database, artifacts: Artifacts, dispatch: MakeDispatcher, own_kinds: None
) -> None:
    held = Held()
    job_id = put_job(database, "held")
    dispatch(database, ThreadExecutor(database, artifacts))
    assert held.began.wait(10)
    held.began.clear()
    with database.transaction() as session:  # as if the machine had been away for longer than the lease
        session.execute(update(Job).values(lease_expires_at=utc_now() - timedelta(seconds=1)))
    other = dispatch(database, ThreadExecutor(database, artifacts))
    assert held.began.wait(10)
    assert job_of(database, job_id).owner == other.owner
    held.release.set()
    until(lambda: ended(database))
    found = job_of(database, job_id)
    assert (found.state, found.attempts, found.error) == ("done", 2, None)


def test_a_stop_gives_back_what_is_not_done(
    database: Database, artifacts: Artifacts, monkeypatch: pytest.MonkeyPatch, own_kinds: None
) -> None:
    monkeypatch.setattr(dispatcher_module, "GRACE_S", 0.05)
    held = Held()
    job_id = put_job(database, "held")
    dispatcher = Dispatcher(database, ThreadExecutor(database, artifacts), poll_s=0.02)
    dispatcher.start()
    assert held.began.wait(10)
    put_job(database, "held")
    dispatcher.stop()
    found = job_of(database, job_id)
    assert (found.state, found.attempts, found.owner) == ("waiting", 0, None)
    assert dispatcher.is_busy
    held.release.set()
    until(lambda: not dispatcher.is_busy)
    assert states(database) == ["waiting", "waiting"]  # nothing more was claimed, and what ended late is not stored


def test_a_stop_lets_what_is_nearly_done_end(sqlite_database: Database, artifacts: Artifacts, own_kinds: None) -> None:
    held = Held()
    job_id = put_job(sqlite_database, "held")
    dispatcher = Dispatcher(sqlite_database, ThreadExecutor(sqlite_database, artifacts), poll_s=0.02)
    dispatcher.start()
    assert held.began.wait(10)
    threading.Timer(0.1, held.release.set).start()
    dispatcher.stop()
    assert job_of(sqlite_database, job_id).state == "done"


def test_a_database_that_is_away_is_waited_for(
    sqlite_database: Database, artifacts: Artifacts, dispatch: MakeDispatcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatcher_module, "AWAY_S", 0.02)
    run = SmallRun.create(sqlite_database, artifacts)
    run.record(0)
    real, failed = dispatcher_module.claim_jobs, threading.Event()

    def fail_once(*arguments: Any) -> Any:
        if not failed.is_set():
            failed.set()
            raise OSError("the database is away")
        return real(*arguments)

    monkeypatch.setattr(dispatcher_module, "claim_jobs", fail_once)
    put_job(sqlite_database, "score", run, 0)
    dispatch(sqlite_database, ThreadExecutor(sqlite_database, artifacts))
    until(lambda: states(sqlite_database) == ["done"])
    assert failed.is_set()


def test_the_setting_names_the_executor(sqlite_database: Database, artifacts: Artifacts) -> None:
    for kind, expected in (("thread", ThreadExecutor), ("process", ProcessExecutor)):
        settings = Settings(executor=kind)  # type: ignore[arg-type]  # a literal of the loop
        executor = make_executor(settings, sqlite_database, artifacts, 3)
        assert isinstance(executor, expected)
        assert executor.slots == 3
        executor.close()
