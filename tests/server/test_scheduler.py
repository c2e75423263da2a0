"""Ticks: firings and jobs once, whoever ticks and however often; one that fails is followed by one that works."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import func, select, update
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from phasewatch.storage.artifacts import Artifacts
from phasewatch.storage.database import Database
from phasewatch.storage.jobs import last_tick
from phasewatch.storage.schema import Event, Firing, Job, Monitor, Run, utc_now
from server import scheduler as scheduler_module
from server.scheduler import Scheduler
from tests.server.small_run import SmallRun


@pytest.fixture(autouse=True)
def _never_rests(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine makes looks slow, and what is tested here is not that."""
    monkeypatch.setattr(scheduler_module, "LONG_S", float("inf"))


def rows(database: Database) -> tuple[list[Firing], list[Job]]:
    with database.reading() as session:
        return list(session.scalars(select(Firing).order_by(Firing.id))), list(session.scalars(select(Job)))


def add_monitor(database: Database, **changes: Any) -> int:
    values: dict[str, Any] = {"name": "test", "kind": "score", "selector": {"all": True}, "parameters": {"own": 1}}
    with database.transaction() as session:
        monitor = Monitor(**values | {"trigger": {"every_s": 10}, "enabled": True, "created_at": utc_now()} | changes)
        session.add(monitor)
        session.flush()
        return monitor.id


def only(database: Database, kind: str | None = None) -> None:
    """Switches the built-in monitors off but those of one kind."""
    with database.transaction() as session:
        session.execute(update(Monitor).where(Monitor.kind != (kind or "")).values(enabled=False))


def test_a_tick_with_nothing_to_do_leaves_its_time_and_nothing_else(database: Database) -> None:
    before = utc_now()
    assert Scheduler(database, "one").tick() == 0
    assert rows(database) == ([], [])
    with database.reading() as session:
        ticked = last_tick(session)
    assert ticked is not None
    assert ticked >= before


def test_a_tick_makes_the_jobs_of_new_checkpoints_once(database: Database, artifacts: Artifacts) -> None:
    run = SmallRun.create(database, artifacts)
    scheduler = Scheduler(database, "one")
    for step in (0, 10):
        run.record(step)
    start = utc_now()
    assert scheduler.tick(start) == 2
    firings, jobs = rows(database)
    assert [(job.kind, job.run_id, job.segment, job.step, job.state) for job in jobs] == [
        ("score", run.run_id, 0, step, "waiting") for step in (0, 10)
    ]
    assert {job.firing_id for job in jobs} == {firing.id for firing in firings}
    assert timedelta(0) <= start - firings[0].scheduled_at < timedelta(seconds=1)
    for seconds in range(1, 5):
        assert scheduler.tick(start + timedelta(seconds=seconds)) == 0
    assert Scheduler(database, "two").tick(start + timedelta(seconds=5)) == 0
    assert len(rows(database)[0]) == 1
    run.record(20)
    assert scheduler.tick(start + timedelta(seconds=6)) == 1


def test_two_schedulers_never_double(database: Database, artifacts: Artifacts) -> None:
    run = SmallRun.create(database, artifacts)
    add_monitor(database, trigger={"every_s": 1}, created_at=utc_now() - timedelta(hours=1))
    start, n_ticks, n_steps = utc_now(), 12, 24
    made: list[int] = []

    def hammer(scheduler: Scheduler) -> None:
        for number in range(n_ticks):
            made.append(scheduler.tick(start + timedelta(seconds=number)))

    threads = [threading.Thread(target=hammer, args=(Scheduler(database, str(number)),)) for number in range(3)]
    for thread in threads:
        thread.start()
    for step in range(n_steps):
        run.record_losses(step, None, "text")
    for thread in threads:
        thread.join()
    made.append(Scheduler(database, "last").tick(start + timedelta(seconds=n_ticks)))
    firings, jobs = rows(database)
    assert len({(firing.monitor_id, firing.scheduled_at) for firing in firings}) == len(firings)
    by_monitor = [sorted(job.step or 0 for job in jobs if ("own" in job.parameters) is own) for own in (True, False)]
    assert by_monitor == [list(range(n_steps))] * 2
    assert sum(made) == len(jobs)


def test_a_monitor_that_slept_fires_once_coalesced(database: Database) -> None:
    only(database)
    created = utc_now() - timedelta(seconds=95)
    monitor_id = add_monitor(database, created_at=created)
    scheduler = Scheduler(database, "one")
    for seconds in (0, 1, 6, 7):  # 95 s is nine and a half periods
        scheduler.tick(created + timedelta(seconds=95 + seconds))
    firings, _ = rows(database)
    assert [(firing.scheduled_at - created, firing.coalesced) for firing in firings] == [
        (timedelta(seconds=90), True),
        (timedelta(seconds=100), False),
    ]
    assert {firing.monitor_id for firing in firings} == {monitor_id}


def test_a_disabled_monitor_does_nothing(database: Database, artifacts: Artifacts) -> None:
    SmallRun.create(database, artifacts).record(0)
    only(database)
    assert Scheduler(database, "one").tick() == 0
    assert rows(database) == ([], [])


def test_a_monitor_that_cannot_fire_does_not_stop_the_others(
    sqlite_database: Database, artifacts: Artifacts, caplog: pytest.LogCaptureFixture
) -> None:
    SmallRun.create(sqlite_database, artifacts).record(0)
    broken = [
        add_monitor(sqlite_database, trigger={"cron": "every day"}),
        add_monitor(sqlite_database, kind="dance", trigger={"each_checkpoint": True}),
    ]
    with caplog.at_level(logging.ERROR):
        assert Scheduler(sqlite_database, "one").tick() == 1
    messages = sorted(record.message for record in caplog.records)
    assert [message.startswith(f"monitor {number} ") for number, message in zip(broken, messages, strict=True)] == [
        True,
        True,
    ]


def test_more_work_than_one_firing_takes_comes_with_the_next(
    sqlite_database: Database, artifacts: Artifacts, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("server.monitors", "server.scheduler"):
        monkeypatch.setattr(f"{module}.MAX_JOBS", 4)
    run = SmallRun.create(sqlite_database, artifacts)
    for step in range(10):
        run.record_losses(step, None, "text")
    start = utc_now() + timedelta(hours=2)  # so that no run counts as active, and only a full look finds anything
    scheduler = Scheduler(sqlite_database, "one")
    assert [scheduler.tick(start + timedelta(seconds=second)) for second in range(4)] == [4, 4, 2, 0]


def test_what_happened_unnoticed_is_found_by_the_next_full_look(
    sqlite_database: Database, artifacts: Artifacts
) -> None:
    run = SmallRun.create(sqlite_database, artifacts)
    scheduler = Scheduler(sqlite_database, "one")
    start = utc_now()
    scheduler.tick(start)
    run.record_losses(0, None, "text")
    with sqlite_database.transaction() as session:  # as if it had been committed long after its clock was read
        session.execute(update(Run).values(heartbeat_at=start - timedelta(hours=1)))
        session.execute(update(Event).values(time=start - timedelta(hours=1)))
    seconds = range(30, 600, 30)
    assert [scheduler.tick(start + timedelta(seconds=second)) for second in seconds] == [0] * len(seconds)
    assert scheduler.tick(start + timedelta(minutes=10)) == 1


def test_a_long_look_is_not_repeated_at_once(
    sqlite_database: Database, artifacts: Artifacts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scheduler_module, "LONG_S", 0.0)
    monkeypatch.setattr(scheduler_module, "REST", 1_000)  # of milliseconds
    run = SmallRun.create(sqlite_database, artifacts)
    scheduler = Scheduler(sqlite_database, "one")
    start = utc_now()
    scheduler.tick(start)
    run.record(0)
    assert scheduler.tick(start + timedelta(milliseconds=900)) == 0
    assert scheduler.tick(start + timedelta(hours=1)) == 1


class DatabaseAway(Database):
    """A database whose transactions fail while `away`."""

    away = False

    @contextmanager
    def transaction(self) -> Iterator[Session]:
        if self.away:
            raise OperationalError("BEGIN", None, Exception("the database is away"))
        with super().transaction() as session:
            yield session


def test_the_clock_ticks_and_survives_a_database_that_is_away(
    sqlite_url: str, artifacts: Artifacts, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(scheduler_module, "TICK_S", 0.05)
    database = DatabaseAway(sqlite_url)
    run = SmallRun.create(database, artifacts)
    database.away = True
    scheduler = Scheduler(database, "one")
    with caplog.at_level(logging.WARNING):
        scheduler.start()
        until(lambda: len(caplog.records) >= 2)
    assert {"tick failed" in record.message for record in caplog.records} == {True}
    database.away = False
    run.record(0)
    until(lambda: len(rows(database)[1]) == 1)
    scheduler.stop()
    database.close()


def test_trimming_removes_what_is_old_and_asked_for_nothing(database: Database, artifacts: Artifacts) -> None:
    only(database, "score")
    SmallRun.create(database, artifacts).record(0)
    now = utc_now()
    scheduler = Scheduler(database, "one")
    scheduler.tick(now)  # a firing with a job
    monitor_id = add_monitor(database, created_at=now - timedelta(days=3), selector={"tag": "none"})
    for hours in (50, 40, 30, 1):
        scheduler.tick(now - timedelta(hours=hours))
    with database.transaction() as session:
        session.execute(update(Firing).values(created_at=Firing.scheduled_at))
        session.execute(
            update(Firing).where(Firing.monitor_id != monitor_id).values(created_at=now - timedelta(days=9))
        )
        session.execute(update(Event).values(time=now - timedelta(days=2)))
    scheduler.trim()
    firings, jobs = rows(database)
    assert len(jobs) == 1
    assert [firing.monitor_id == monitor_id for firing in firings] == [False, True]
    assert now - firings[1].scheduled_at < timedelta(hours=2)
    with database.reading() as session:
        assert session.scalar(select(func.count()).select_from(Event)) == 0


def until(condition: Any, timeout_s: float = 30.0) -> None:
    """Waits for a condition; fails where it does not come true."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.02)


def test_firings_are_aligned_to_the_monitors_creation(sqlite_database: Database) -> None:
    only(sqlite_database)
    created = datetime.fromisoformat("2026-03-01T10:00:00.123456+00:00")
    add_monitor(sqlite_database, created_at=created, trigger={"every_s": 60})
    scheduler = Scheduler(sqlite_database, "one")
    for second in range(0, 300, 7):
        scheduler.tick(created + timedelta(seconds=second))
    firings, _ = rows(sqlite_database)
    assert [firing.scheduled_at for firing in firings] == [created + timedelta(minutes=n) for n in range(1, 5)]
