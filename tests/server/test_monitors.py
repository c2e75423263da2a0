"""When monitors are due, and what they find to do."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import numpy as np
import pytest
from sqlalchemy import select, update

from phasewatch.errors import InvalidInput
from phasewatch.ids import new_id
from phasewatch.storage.artifacts import Artifacts
from phasewatch.storage.candidates import RunState, ScannedState, measured_runs
from phasewatch.storage.database import Database
from phasewatch.storage.jobs import NewJob, claim_jobs, enqueue, finish_job
from phasewatch.storage.measurements import StoredMeasurement, put_measurements
from phasewatch.storage.runs import open_segment
from phasewatch.storage.schema import Event, Monitor, Run, utc_now
from phasewatch.storage.selection import active_runs
from server.monitors import MAX_JOBS, find_jobs, is_scan_due, scan_job
from server.triggers import next_firing
from tests.server.small_run import SmallRun

CREATED = datetime(2026, 1, 1, 12, 0, 0, 500_000, tzinfo=UTC)
DETECTOR = "detector"


def at(hour: int, minute: int = 0, second: float = 0.0, day: int = 1) -> datetime:
    return datetime(2026, 1, day, hour, minute, tzinfo=UTC) + timedelta(seconds=second)


@pytest.mark.parametrize(
    ("trigger", "last", "now", "due", "coalesced"),
    [
        ({"every_s": 10}, None, at(12, 0, 10.4), None, False),
        ({"every_s": 10}, None, at(12, 0, 10.5), at(12, 0, 10.5), False),
        ({"every_s": 10}, None, at(12, 0, 19), at(12, 0, 10.5), False),
        ({"every_s": 10}, at(12, 0, 10.5), at(12, 0, 19), None, False),
        ({"every_s": 10}, at(12, 0, 10.5), at(12, 0, 25), at(12, 0, 20.5), False),
        ({"every_s": 10}, at(12, 0, 10.5), at(12, 1, 3), at(12, 1, 0.5), True),
        ({"every_s": 10}, None, at(12, 1, 3), at(12, 1, 0.5), True),
        ({"cron": "30 * * * *"}, None, at(12, 29, 59), None, False),
        ({"cron": "30 * * * *"}, None, at(12, 31), at(12, 30), False),
        ({"cron": "30 * * * *"}, at(12, 30), at(13, 29), None, False),
        ({"cron": "30 * * * *"}, at(12, 30), at(13, 30), at(13, 30), False),
        ({"cron": "30 * * * *"}, at(12, 30), at(15, 29), at(14, 30), True),
        ({"cron": "* * * * *"}, at(12, 30), at(9, 0, 30, day=28), at(9, 0, day=28), True),
        ({"each_checkpoint": True}, None, at(12, 0, 7.9), at(12, 0, 7.5), False),
        ({"each_checkpoint": True}, at(12, 0, 7.5), at(12, 0, 8.4), None, False),
        ({"each_checkpoint": True}, at(12, 0, 7.5), at(12, 9, 8.6), at(12, 9, 8.5), False),
    ],
)
def test_a_monitor_fires_once_for_the_newest_time_it_missed(
    trigger: dict[str, Any], last: datetime | None, now: datetime, due: datetime | None, coalesced: bool
) -> None:
    found = next_firing(trigger, CREATED, last, now)
    assert (None if found is None else found.at) == due
    if found is not None:
        assert found.coalesced is coalesced
        assert found.only_with_work is ("each_checkpoint" in trigger)
        assert next_firing(trigger, CREATED, found.at, now) is None


def test_a_yearly_cron_that_slept_for_a_decade_is_found() -> None:
    found = next_firing({"cron": "0 0 1 1 *"}, CREATED, None, datetime(2036, 7, 1, tzinfo=UTC))
    assert found is not None
    assert (found.at, found.coalesced) == (datetime(2036, 1, 1, tzinfo=UTC), True)


@pytest.mark.parametrize(
    "trigger",
    [{}, {"every_s": 0}, {"every_s": "10"}, {"each_checkpoint": False}, {"cron": "61 * * * *"}, {"cron": "x"}],
)
def test_a_trigger_that_cannot_be_read_is_named(trigger: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput, match=r"trigger|cron"):
        next_firing(trigger, CREATED, None, at(13))


# Scans.


def state(**changes: Any) -> RunState:
    values: dict[str, Any] = {
        "run_id": new_id(),
        "ended": False,
        "segment": 0,
        "last_step": 90,
        "n_measurements": 1_000,
        "scoring": False,
        "scanning": False,
        "last_scan": None,
    }
    return RunState(**values | changes)


def seen(n: int, *, ended: bool = False, segment: int = 0, detector: str = DETECTOR) -> ScannedState:
    return ScannedState(segment, {"measurements": n, "ended": ended, "detector": detector})


@pytest.mark.parametrize(
    ("changes", "due"),
    [
        ({}, True),
        ({"scanning": True}, False),
        ({"scoring": True}, True),
        ({"last_scan": seen(1_000)}, False),
        ({"last_scan": seen(955)}, False),
        ({"last_scan": seen(950)}, True),
        ({"last_scan": seen(1_000, segment=1)}, True),
        ({"last_scan": seen(1_000, detector="older")}, True),
        ({"ended": True, "last_scan": seen(1_000)}, True),
        ({"ended": True, "last_scan": seen(1_000, ended=True)}, False),
        ({"ended": True, "last_scan": seen(999, ended=True)}, True),
        ({"ended": True, "scoring": True}, False),
        ({"ended": True, "scanning": True}, False),
        ({"n_measurements": 1_012, "last_scan": seen(1_000, ended=True)}, False),
    ],
)
def test_a_scan_is_due_when_it_would_see_more_and_the_last_one_after_the_last_score(
    changes: dict[str, Any], due: bool
) -> None:
    assert is_scan_due(state(**changes), DETECTOR) is due


def test_what_a_scan_has_seen_is_seen() -> None:
    for ended in (False, True):
        before = state(ended=ended)
        job = scan_job(before, {"fdr": 0.1}, DETECTOR)
        assert job.key.startswith(f"scan:{before.run_id.hex}:0:90:{DETECTOR}")
        assert job.parameters["fdr"] == 0.1
        assert not is_scan_due(state(ended=ended, last_scan=ScannedState(0, job.parameters)), DETECTOR)


# What the database holds.


def monitor_of(database: Database, built_in: str, **changes: Any) -> Monitor:
    """A built-in monitor, changed in memory."""
    with database.reading() as session:
        found = session.scalars(select(Monitor).where(Monitor.kind == built_in)).one()
    for name, value in changes.items():
        setattr(found, name, value)
    return found


def found_jobs(database: Database, kind: str, since: datetime | None = None, **changes: Any) -> list[NewJob]:
    monitor = monitor_of(database, kind, **changes)
    with database.reading() as session:
        return find_jobs(session, monitor, since)


def queue(database: Database, jobs: list[NewJob]) -> None:
    with database.transaction() as session:
        assert all(enqueue(session, job) is not None for job in jobs)


def finish_all(database: Database) -> None:
    with database.transaction() as session:
        for job in claim_jobs(session, "me", MAX_JOBS, 60.0):
            finish_job(session, job.id, "me")


@pytest.fixture
def run(database: Database, artifacts: Artifacts) -> SmallRun:
    return SmallRun.create(database, artifacts, tags=("study",))


def steps_of(jobs: list[NewJob]) -> list[int | None]:
    return [job.step for job in jobs]


def test_a_checkpoint_is_scored_once_for_what_there_is_of_it(database: Database, run: SmallRun) -> None:
    run.record_losses(0, None, "text")
    first = found_jobs(database, "score")
    assert [(job.kind, job.run_id, job.segment, job.step) for job in first] == [("score", run.run_id, 0, 0)]
    queue(database, first)
    assert found_jobs(database, "score") == []
    keys = {first[0].key}
    for record in (lambda: run.record_losses(0, None, "repeats"), lambda: run.record_weights(0)):
        record()
        (job,) = found_jobs(database, "score")
        queue(database, [job])
        keys.add(job.key)
        assert found_jobs(database, "score") == []
    assert len(keys) == 3
    assert len(found_jobs(database, "score", parameters={"other": 1})) == 1


def test_weights_alone_are_scored_if_the_model_can_be_built(database: Database, run: SmallRun) -> None:
    run.record_weights(0)
    run.record_weights(10, spec={"kind": "somebody's own"})
    assert steps_of(found_jobs(database, "score")) == [0]


def test_a_run_without_probe_set_has_nothing_to_score(database: Database, run: SmallRun) -> None:
    run.record_weights(0)
    with database.transaction() as session:
        session.execute(update(Run).values(probe_set_id=None))
    assert found_jobs(database, "score") == []


def test_exactly_the_visible_checkpoints_are_scored(database: Database, run: SmallRun) -> None:
    random = np.random.default_rng(3)
    visible: dict[int, int] = {}
    for segment in range(5):
        start = 0 if segment == 0 else int(random.integers(0, 60))
        if segment:
            with database.transaction() as session:
                open_segment(session, run.run_id, start)
        visible = {step: owner for step, owner in visible.items() if step < start}
        for step in range(start, start + 10 * int(random.integers(1, 4)), 10):
            run.record_losses(step, step + 100 * segment, "text")
            visible[step] = segment
    jobs = found_jobs(database, "score")
    assert [(job.step, job.segment) for job in jobs] == sorted(visible.items())


@pytest.mark.parametrize(
    ("selector", "chosen"),
    [
        ({"all": True}, True),
        ({"tag": "study"}, True),
        ({"tag": "other"}, False),
        ({"run": None}, True),
        ({"run": str(UUID(int=7))}, False),
    ],
)
def test_selectors(database: Database, run: SmallRun, selector: dict[str, Any], chosen: bool) -> None:
    run.record_losses(0, None, "text")
    if "run" in selector and selector["run"] is None:
        selector = {"run": str(run.run_id)}
    for since in (None, utc_now() - timedelta(minutes=1)):
        assert bool(found_jobs(database, "score", since, selector=selector)) is chosen


@pytest.mark.parametrize("selector", [{}, {"all": False}, {"run": "seven"}, {"tag": 3}])
def test_a_selector_that_cannot_be_read_is_named(sqlite_database: Database, selector: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput, match="selector"):
        found_jobs(sqlite_database, "score", selector=selector)


def test_an_unknown_kind_is_named(sqlite_database: Database) -> None:
    monitor = monitor_of(sqlite_database, "score", kind="dance")
    with sqlite_database.reading() as session, pytest.raises(InvalidInput, match="kind 'dance'"):
        find_jobs(session, monitor, None)


def test_only_runs_that_something_happened_to_are_looked_at(database: Database, run: SmallRun) -> None:
    run.record_losses(0, None, "text")
    later = utc_now() + timedelta(seconds=1)
    with database.transaction() as session:
        session.execute(update(Event).values(time=later - timedelta(hours=1)))
    assert found_jobs(database, "score", later) == []
    assert len(found_jobs(database, "score", None)) == 1
    with database.transaction() as session:
        session.execute(update(Run).values(heartbeat_at=later))
    assert len(found_jobs(database, "score", later)) == 1
    with database.transaction() as session:
        session.execute(update(Run).values(heartbeat_at=None))
        session.execute(update(Event).values(time=later))
        assert active_runs(session, later) == {run.run_id}


def measure(database: Database, run: SmallRun, step: int, segment: int | None = None) -> None:
    values = {name: StoredMeasurement(1, np.array(0.5)) for name in ("icl_score", "repeat_gain")}
    with database.transaction() as session:
        put_measurements(session, run.run_id, step, values, segment=segment)


def test_a_run_is_scanned_as_it_is_scored(database: Database, run: SmallRun) -> None:
    assert found_jobs(database, "scan") == []
    measure(database, run, 10)
    jobs = found_jobs(database, "scan")
    assert [(job.kind, job.segment, job.step, job.parameters["ended"]) for job in jobs] == [("scan", 0, 10, False)]
    queue(database, jobs)
    measure(database, run, 20)
    assert found_jobs(database, "scan") == []  # one is open
    finish_all(database)
    (second,) = found_jobs(database, "scan")
    assert (second.step, second.parameters["measurements"]) == (20, 4)
    queue(database, [second])
    finish_all(database)
    assert found_jobs(database, "scan") == []


def test_the_last_scan_of_an_ended_run_waits_for_its_last_score(database: Database, run: SmallRun) -> None:
    measure(database, run, 10)
    run.record_losses(20, None, "text")
    queue(database, found_jobs(database, "score"))
    run.end()
    assert found_jobs(database, "scan") == []
    finish_all(database)
    (last,) = found_jobs(database, "scan")
    assert last.parameters["ended"] is True
    queue(database, [last])
    finish_all(database)
    assert found_jobs(database, "scan") == []
    measure(database, run, 15)  # an ended run still takes writes
    assert [job.parameters["measurements"] for job in found_jobs(database, "scan")] == [4]


def test_a_scan_names_the_last_step_that_a_resume_left_visible(database: Database, run: SmallRun) -> None:
    for step in (10, 20, 30):
        measure(database, run, step)
    queue(database, found_jobs(database, "scan"))
    finish_all(database)
    with database.transaction() as session:
        open_segment(session, run.run_id, 25)
    (job,) = found_jobs(database, "scan")
    assert (job.segment, job.step) == (1, 24)
    measure(database, run, 40, segment=1)
    with database.reading() as session:
        (found,) = measured_runs(session, None)
    assert (found.segment, found.last_step, found.n_measurements) == (1, 40, 8)
