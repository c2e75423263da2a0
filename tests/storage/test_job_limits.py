"""Limits by kind, whoever claims; and what a job says of itself while it runs and when it is done."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from sqlalchemy import select
from sqlalchemy.orm import Session

from phasewatch.storage.database import Database
from phasewatch.storage.jobs import (
    NewJob,
    claim_jobs,
    enqueue,
    fail_attempt,
    finish_job,
    get_job,
    has_claimable,
    note_progress,
)
from phasewatch.storage.schema import Job
from tests.storage.test_jobs import EXPIRED_S, LEASE_S, queue

# Limits by kind.


def test_no_more_of_a_limited_kind_run_than_its_limit(database: Database) -> None:
    queue(database, *(f"s{number}" for number in range(5)))
    with database.transaction() as session:
        for number in range(3):
            enqueue(session, NewJob(key=f"m{number}", kind="measure", priority=-1))
    limits = {"score": 2, "scan": 1}
    with database.transaction() as session:
        first = [(job.kind, job.key) for job in claim_jobs(session, "one", 4, LEASE_S, limits)]
        second = [job.key for job in claim_jobs(session, "two", 4, LEASE_S, limits)]
        assert first == [("score", "s0"), ("score", "s1"), ("measure", "m0"), ("measure", "m1")]
        assert second == ["m2"]
        assert not has_claimable(session, limits)
        assert has_claimable(session)
        finish_job(session, get_id(session, "s0"), "one")
        assert [job.key for job in claim_jobs(session, "two", 4, LEASE_S, limits)] == ["s2"]


def test_a_job_that_lost_its_worker_does_not_count_against_its_limit(database: Database) -> None:
    queue(database, "a", "b")
    limits = {"score": 1}
    with database.transaction() as session:
        assert [job.key for job in claim_jobs(session, "lost", 2, EXPIRED_S, limits)] == ["a"]
        assert [job.key for job in claim_jobs(session, "next", 2, LEASE_S, limits)] == ["a"]
        assert claim_jobs(session, "third", 2, LEASE_S, limits) == []


def test_workers_that_claim_at_once_keep_to_the_limit(database: Database) -> None:
    queue(database, *(f"s{number}" for number in range(40)))
    counts: list[int] = []

    def work(owner: str) -> None:
        for _ in range(10):
            with database.transaction() as session:
                claimed = claim_jobs(session, owner, 2, LEASE_S, {"score": 3})
            with database.reading() as session:
                counts.append(len(session.scalars(select(Job.id).where(Job.state == "running")).all()))
            for job in claimed:
                with database.transaction() as session:
                    finish_job(session, job.id, owner)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, "abcd"))
    assert 0 < max(counts) <= 3


def get_id(session: Session, key: str) -> int:
    return session.scalars(select(Job.id).where(Job.key == key)).one()


# What a job says of itself.


def test_progress_is_kept_for_whoever_holds_the_job(database: Database) -> None:
    (job_id,) = queue(database, "a")
    with database.transaction() as session:
        assert not note_progress(session, job_id, "one", 0.5)
        claim_jobs(session, "one", 1, LEASE_S)
        assert note_progress(session, job_id, "one", 0.5, "half of it")
        assert not note_progress(session, job_id, "two", 0.9)
        session.expire_all()
        found = get_job(session, job_id)
        assert (found.progress, found.progress_text) == (0.5, "half of it")
        fail_attempt(session, job_id, "one", "no", "where")
        job = get_job(session, job_id, lock=True)
        job.not_before = None
        session.flush()
        (again,) = claim_jobs(session, "two", 1, LEASE_S)
        assert (again.progress, again.progress_text, again.traceback) == (None, None, "where")
        assert note_progress(session, job_id, "two", 7.0)
        finish_job(session, job_id, "two", {"found": [1, 2]})
        session.flush()
        session.expire_all()
        done = get_job(session, job_id)
        assert (done.state, done.progress, done.result) == ("done", 1.0, {"found": [1, 2]})
