"""The queue: every job to one worker at a time, its results stored once, firings unique among schedulers."""

from __future__ import annotations

import threading
from collections import Counter
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import pytest
from sqlalchemy import delete, func, select, update

from phasewatch.errors import Conflict, NotFound
from phasewatch.storage.database import Database
from phasewatch.storage.events import events_after
from phasewatch.storage.jobs import (
    BACK_OFF_S,
    MAX_ATTEMPTS,
    NewJob,
    cancel_job,
    claim_jobs,
    enqueue,
    extend_leases,
    fail_attempt,
    finish_job,
    get_job,
    give_back_jobs,
    has_claimable,
    has_open_job,
    last_tick,
    list_jobs,
    note_tick,
    retry_job,
)
from phasewatch.storage.measurements import StoredMeasurement, list_measures, put_measurements
from phasewatch.storage.monitors import insert_firing, last_firing, list_firings, list_monitors, trim_firings
from phasewatch.storage.schema import Firing, Job, JobState, Monitor, Scheduler, utc_now
from tests.conftest import MakeRun
from tests.processes import claim_all

LEASE_S = 30.0
EXPIRED_S = -1.0
DUE = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def queue(database: Database, *keys: str, **content: object) -> list[int]:
    """Ids of new jobs with these keys."""
    with database.transaction() as session:
        ids = [enqueue(session, NewJob(key=key, kind="score", **content)) for key in keys]  # type: ignore[arg-type]
    return [job_id for job_id in ids if job_id is not None]


def fire_and_abandon(database: Database, monitor: int) -> None:
    """A scheduler's transaction that raises after its firing and its job."""
    with database.transaction() as session:
        enqueue(session, NewJob(key="a", kind="scan"), insert_firing(session, monitor, DUE))
        get_job(session, 77)


def claim(database: Database, owner: str, slots: int = 1, lease_s: float = LEASE_S) -> list[int]:
    with database.transaction() as session:
        return [job.id for job in claim_jobs(session, owner, slots, lease_s)]


def read(database: Database, job_id: int) -> Job:
    with database.reading() as session:
        return get_job(session, job_id)


def finish(database: Database, job_id: int, owner: str) -> None:
    with database.transaction() as session:
        finish_job(session, job_id, owner)


def fail(database: Database, job_id: int, owner: str, error: str = "it broke") -> None:
    with database.transaction() as session:
        fail_attempt(session, job_id, owner, error)


def forget_back_off(database: Database) -> None:
    with database.transaction() as session:
        session.execute(update(Job).values(not_before=None))


class TestEnqueue:
    def test_the_same_work_is_queued_once_for_ever(self, database: Database) -> None:
        assert len(queue(database, "a", "b", "a")) == 2
        (job_id, _) = claim(database, "worker", 2)
        finish(database, job_id, "worker")
        assert queue(database, "a") == []

    def test_two_transactions_that_queue_the_same_queue_it_once(self, database: Database) -> None:
        keys = [f"job {number}" for number in range(20)]
        with ThreadPoolExecutor(2) as pool:
            counts = list(pool.map(lambda _: len(queue(database, *keys)), range(2)))
        assert sum(counts) == 20

    def test_a_waiting_or_running_job_is_open(self, database: Database, make_run: MakeRun) -> None:
        run_id = make_run()
        queue(database, "a", run_id=run_id)
        with database.reading() as session:
            assert has_open_job(session, run_id, "score")
            assert not has_open_job(session, run_id, "scan")
            assert not has_open_job(session, UUID(int=1), "score")
        (job_id,) = claim(database, "worker")
        finish(database, job_id, "worker")
        with database.reading() as session:
            assert not has_open_job(session, run_id, "score")


class TestClaim:
    def test_best_priority_first_then_oldest(self, database: Database) -> None:
        low = queue(database, "low", "low 2")
        high = queue(database, "high", priority=5)
        assert claim(database, "worker", 10) == [*high, *low]

    def test_no_more_than_the_slots(self, database: Database) -> None:
        ids = queue(database, "a", "b", "c")
        assert claim(database, "worker", 2) == ids[:2]
        assert claim(database, "worker", 2) == ids[2:]
        assert claim(database, "worker", 2) == []

    def test_four_workers_in_two_processes_take_200_jobs_once_each(
        self, database: Database, database_url: str, processes: ProcessPoolExecutor, tmp_path: Path
    ) -> None:
        ids = queue(database, *(f"job {number}" for number in range(200)))
        workers = [processes.submit(claim_all, database_url, str(tmp_path), name, 2) for name in ("first", "second")]
        claimed = [worker.result() for worker in workers]
        assert sorted(claimed[0] + claimed[1]) == ids
        assert all(claimed)
        with database.reading() as session:
            assert Counter(job.state for job in list_jobs(session, limit=500)) == {"done": 200}

    def test_an_idle_worker_knows_without_claiming(self, database: Database) -> None:
        def claimable() -> bool:
            with database.reading() as session:
                return has_claimable(session)

        assert not claimable()
        (job_id,) = queue(database, "a")
        assert claimable()
        claim(database, "worker")
        assert not claimable()
        fail(database, job_id, "worker")
        assert not claimable()  # before its back-off is over
        forget_back_off(database)
        claim(database, "worker", lease_s=EXPIRED_S)
        assert claimable()

    def test_a_claimed_job_is_held_and_counted(self, database: Database) -> None:
        (job_id,) = queue(database, "a")
        before = utc_now()
        claim(database, "worker")
        job = read(database, job_id)
        assert (job.state, job.owner, job.attempts) == ("running", "worker", 1)
        assert job.lease_expires_at is not None
        assert job.lease_expires_at >= before + timedelta(seconds=LEASE_S)


class TestLease:
    def test_an_expired_one_is_anothers(self, database: Database) -> None:
        ids = queue(database, "a")
        claim(database, "lost", lease_s=EXPIRED_S)
        assert claim(database, "worker") == ids
        assert read(database, ids[0]).attempts == 2

    def test_a_heartbeat_keeps_it(self, database: Database) -> None:
        ids = queue(database, "a", "b")
        claim(database, "worker", 2, lease_s=EXPIRED_S)
        with database.transaction() as session:
            extend_leases(session, "worker", ids[:1], LEASE_S)
            extend_leases(session, "another", ids[1:], LEASE_S)
        assert claim(database, "another", 2) == ids[1:]

    def test_lost_three_times_a_job_is_failed_with_the_reason(self, database: Database) -> None:
        (job_id,) = queue(database, "a")
        for attempt in range(MAX_ATTEMPTS):
            assert claim(database, f"lost {attempt}", lease_s=EXPIRED_S) == [job_id]
        assert claim(database, "worker") == []
        job = read(database, job_id)
        assert (job.state, job.owner) == ("failed", None)
        assert job.error is not None
        assert "worker lost 2 was lost 3 times" in job.error

    def test_given_back_the_attempt_does_not_count(self, database: Database) -> None:
        ids = queue(database, "a", "b")
        claim(database, "leaving")
        claim(database, "staying")
        with database.transaction() as session:
            give_back_jobs(session, "leaving")
        assert (read(database, ids[0]).state, read(database, ids[0]).attempts) == ("waiting", 0)
        assert read(database, ids[1]).owner == "staying"
        assert claim(database, "next") == ids[:1]


class TestAttempts:
    def test_a_failed_one_waits_before_the_next(self, database: Database) -> None:
        (job_id,) = queue(database, "a")
        for attempt, back_off_s in enumerate(BACK_OFF_S, start=1):
            claim(database, "worker")
            before = utc_now()
            fail(database, job_id, "worker", f"reason {attempt}")
            job = read(database, job_id)
            assert (job.state, job.attempts, job.error) == ("waiting", attempt, f"reason {attempt}")
            assert job.not_before is not None
            assert timedelta() <= job.not_before - before - timedelta(seconds=back_off_s) < timedelta(seconds=1)
            assert claim(database, "worker") == []
            forget_back_off(database)

    def test_after_the_third_it_is_failed_and_says_why(self, database: Database) -> None:
        (job_id,) = queue(database, "a")
        for _ in range(MAX_ATTEMPTS):
            forget_back_off(database)
            claim(database, "worker")
            fail(database, job_id, "worker", "no such head\x00")
        job = read(database, job_id)
        assert (job.state, job.error) == ("failed", "no such head\ufffd")
        assert job.finished_at is not None
        assert claim(database, "worker") == []

    def test_one_that_succeeds_forgets_the_error(self, database: Database) -> None:
        (job_id,) = queue(database, "a")
        claim(database, "worker")
        fail(database, job_id, "worker")
        forget_back_off(database)
        claim(database, "worker")
        finish(database, job_id, "worker")
        assert (read(database, job_id).state, read(database, job_id).error) == ("done", None)

    def test_a_retry_gives_three_fresh_ones(self, database: Database) -> None:
        (job_id,) = queue(database, "a")
        for _ in range(MAX_ATTEMPTS):
            claim(database, "lost", lease_s=EXPIRED_S)
        claim(database, "worker")
        with database.transaction() as session:
            retry_job(session, job_id)
        assert claim(database, "worker") == [job_id]
        assert read(database, job_id).attempts == 1


class TestFence:
    """What a worker that was thought dead found out is not stored twice."""

    def results(self, database: Database, run_id: UUID, job_id: int, owner: str) -> None:
        """A job's transaction: its job read first, its results stored, then the fence."""
        with database.transaction() as session:
            get_job(session, job_id)
            value = StoredMeasurement(version=1, values=1.0 if owner == "lost" else 2.0)  # type: ignore[arg-type]
            put_measurements(session, run_id, 0, {f"by {owner}": value})
            finish_job(session, job_id, owner)

    def measured(self, database: Database, run_id: UUID) -> list[str]:
        with database.reading() as session:
            return [name for name, _, _, _ in list_measures(session, run_id)]

    def test_a_lost_workers_results_are_rolled_back(self, database: Database, make_run: MakeRun) -> None:
        run_id = make_run()
        (job_id,) = queue(database, "a", run_id=run_id)
        claim(database, "lost", lease_s=EXPIRED_S)
        claim(database, "worker")
        with pytest.raises(Conflict, match=f"job {job_id} is no longer held by lost"):
            self.results(database, run_id, job_id, "lost")
        assert self.measured(database, run_id) == []
        self.results(database, run_id, job_id, "worker")
        assert self.measured(database, run_id) == ["by worker"]
        with pytest.raises(Conflict, match="no longer held by lost"):
            self.results(database, run_id, job_id, "lost")

    def test_a_job_read_before_it_changed_hands_does_not_pass(self, postgresql_url: str) -> None:
        """The job's transaction has the row in its session, and another worker takes the job meanwhile."""
        database = Database(postgresql_url)
        (job_id,) = queue(database, "a")
        claim(database, "lost", lease_s=EXPIRED_S)
        with database.transaction() as session:
            assert get_job(session, job_id).owner == "lost"
            assert claim(database, "worker") == [job_id]
            with pytest.raises(Conflict, match="no longer held"):
                finish_job(session, job_id, "lost")
        assert (read(database, job_id).state, read(database, job_id).owner) == ("running", "worker")
        database.close()

    def test_a_lost_workers_failure_is_ignored(self, database: Database) -> None:
        (job_id,) = queue(database, "a")
        claim(database, "lost", lease_s=EXPIRED_S)
        claim(database, "worker")
        fail(database, job_id, "lost")
        assert (read(database, job_id).state, read(database, job_id).error) == ("running", None)

    def test_what_a_cancelled_job_found_is_dropped(self, database: Database, make_run: MakeRun) -> None:
        run_id = make_run()
        (job_id,) = queue(database, "a", run_id=run_id)
        claim(database, "worker")
        with database.transaction() as session:
            cancel_job(session, job_id)
        with pytest.raises(Conflict, match="no longer held"):
            self.results(database, run_id, job_id, "worker")
        assert read(database, job_id).state == "cancelled"
        assert self.measured(database, run_id) == []


class TestRequests:
    STATES: tuple[JobState, ...] = ("waiting", "running", "done", "failed", "cancelled")

    def test_what_may_be_asked_in_which_state(self, database: Database) -> None:
        for state in self.STATES:
            for ask, sources, target in (
                (retry_job, ("failed", "cancelled"), "waiting"),
                (cancel_job, ("waiting", "running"), "cancelled"),
            ):
                (job_id,) = queue(database, f"{ask.__name__} {state}")
                with database.transaction() as session:
                    session.execute(update(Job).where(Job.id == job_id).values(state=state))
                if state in sources:
                    with database.transaction() as session:
                        ask(session, job_id)
                    assert read(database, job_id).state == target
                else:
                    with database.transaction() as session, pytest.raises(Conflict, match=f"job {job_id} is {state}"):
                        ask(session, job_id)

    def test_an_unknown_job_is_named(self, database: Database) -> None:
        for job_id in [0, -1, 77, 2**31, 2**70]:
            with pytest.raises(NotFound, match=f"job {job_id} does not exist"):
                read(database, job_id)

    def test_lists_newest_first_in_pages_and_by_kind(self, database: Database, make_run: MakeRun) -> None:
        run_id = make_run()
        ids = queue(database, "a", "b", "c") + queue(database, "d", run_id=run_id)
        with database.reading() as session:
            page = list_jobs(session, limit=3)
            assert [job.id for job in page] == ids[:0:-1]
            assert [job.id for job in list_jobs(session, before=page[-1].id)] == ids[:1]
            assert [job.id for job in list_jobs(session, run_id=run_id)] == ids[3:]
            assert list_jobs(session, kind="scan") == []
            assert len(list_jobs(session, state="waiting")) == 4

    def test_every_change_is_told(self, database: Database) -> None:
        (job_id,) = queue(database, "a")
        claim(database, "worker")
        with database.transaction() as session:
            give_back_jobs(session, "worker")
        claim(database, "worker")
        fail(database, job_id, "worker")
        forget_back_off(database)
        claim(database, "worker")
        finish(database, job_id, "worker")
        with database.reading() as session:
            told = [event.payload["state"] for event in events_after(session, 0)]
        assert told == ["waiting", "running", "waiting", "running", "waiting", "running", "done"]


class TestFirings:
    def monitor(self, database: Database) -> int:
        with database.reading() as session:
            return list_monitors(session)[0].id

    def test_every_database_begins_with_three_monitors(self, database: Database) -> None:
        with database.reading() as session:
            found = {
                monitor.kind: (monitor.enabled, monitor.selector, monitor.trigger)
                for monitor in list_monitors(session, enabled=True)
            }
            assert list_monitors(session, enabled=False) == []
        assert found == dict.fromkeys(
            ("score", "scan", "ablate_on_change"), (True, {"all": True}, {"each_checkpoint": True})
        )

    def test_a_due_time_fires_once(self, database: Database) -> None:
        monitor = self.monitor(database)
        with database.transaction() as session:
            assert insert_firing(session, monitor, DUE) is not None
            assert insert_firing(session, monitor, DUE) is None
            assert insert_firing(session, monitor, DUE.astimezone(datetime.now().astimezone().tzinfo)) is None
            assert insert_firing(session, monitor, DUE + timedelta(microseconds=1)) is not None
            assert last_firing(session, monitor) == DUE + timedelta(microseconds=1)

    def test_two_schedulers_make_its_jobs_once(self, database: Database) -> None:
        """Both look at the same due times at once; whoever inserts the firing makes the jobs in its transaction."""
        monitor, barrier = self.monitor(database), threading.Barrier(2)

        def tick(scheduler: int) -> int:
            fired = 0
            for number in range(20):
                barrier.wait()
                with database.transaction() as session:
                    firing = insert_firing(session, monitor, DUE + timedelta(seconds=number))
                    if firing is not None:
                        fired += 1
                        enqueue(session, NewJob(key=f"{number} by {scheduler}", kind="scan"), firing)
            return fired

        with ThreadPoolExecutor(2) as pool:
            assert sum(pool.map(tick, range(2))) == 20
        with database.reading() as session:
            assert session.scalar(select(func.count()).select_from(Firing)) == 20
            jobs = list_jobs(session, limit=100)
        assert len(jobs) == len({job.firing_id for job in jobs}) == 20

    def test_an_abandoned_one_leaves_neither_firing_nor_jobs(self, database: Database) -> None:
        monitor = self.monitor(database)
        with pytest.raises(NotFound):
            fire_and_abandon(database, monitor)
        with database.transaction() as session:
            assert insert_firing(session, monitor, DUE) is not None
            assert list_jobs(session) == []

    def test_jobs_outlive_their_monitor(self, database: Database) -> None:
        monitor = self.monitor(database)
        with database.transaction() as session:
            enqueue(session, NewJob(key="a", kind="scan"), insert_firing(session, monitor, DUE))
        with database.transaction() as session:
            session.execute(delete(Monitor).where(Monitor.id == monitor))
        with database.reading() as session:
            assert [job.firing_id for job in list_jobs(session)] == [None]


class TestFiringsKept:
    def test_newest_first_in_pages(self, database: Database) -> None:
        with database.transaction() as session:
            ids = [insert_firing(session, 1, DUE + timedelta(seconds=number)) for number in range(4)]
        with database.reading() as session:
            page = [firing.id for firing in list_firings(session, 1, limit=3)]
            rest = [firing.id for firing in list_firings(session, 1, before=page[-1])]
            assert list_firings(session, 2) == []
            for unknown in (99, 0, 2**70):
                with pytest.raises(NotFound, match=f"monitor {unknown} does not exist"):
                    list_firings(session, unknown)
        assert page + rest == ids[::-1]

    def test_old_ones_that_asked_for_nothing_are_trimmed_but_for_the_newest(self, database: Database) -> None:
        with database.transaction() as session:
            ids = [insert_firing(session, monitor, DUE) for monitor in (1, 2)]
            ids += [insert_firing(session, 1, DUE + timedelta(seconds=number)) for number in (1, 2, 3)]
            enqueue(session, NewJob(key="a", kind="scan"), ids[2])
            old = update(Firing).where(Firing.id != ids[4]).values(created_at=utc_now() - timedelta(days=2))
            session.execute(old)
        with database.transaction() as session:
            assert trim_firings(session) == 2
            left = {firing.id for monitor in (1, 2) for firing in list_firings(session, monitor)}
        assert left == {ids[1], ids[2], ids[4]}


class TestTicks:
    def test_last_of_all_schedulers(self, database: Database) -> None:
        with database.reading() as session:
            assert last_tick(session) is None
        before = utc_now()
        for name in ("a", "b", "a"):
            with database.transaction() as session:
                note_tick(session, name)
        with database.reading() as session:
            ticked = last_tick(session)
            assert session.scalar(select(func.count()).select_from(Scheduler)) == 2
        assert ticked is not None
        assert ticked >= before

    def test_one_silent_for_a_day_is_forgotten(self, database: Database) -> None:
        with database.transaction() as session:
            session.add(Scheduler(name="old", ticked_at=utc_now() - timedelta(days=2)))
        with database.transaction() as session:
            note_tick(session, "new")
        with database.reading() as session:
            assert session.scalars(select(Scheduler.name)).all() == ["new"]
