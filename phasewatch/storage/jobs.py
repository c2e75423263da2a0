"""The queue: what is to be done, who does it, and how it ended. The database alone says so.

A job is claimed under a lease; finishing it is fenced by the lease's owner, in the transaction of the job's results, so
that a job whose worker was thought dead takes effect once.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, and_, delete, func, or_, select, text, update
from sqlalchemy.orm import Session

from phasewatch.errors import Conflict, NotFound
from phasewatch.storage.alerts import raise_for_failed_job
from phasewatch.storage.database import insert_if_absent
from phasewatch.storage.events import emit
from phasewatch.storage.limits import MAX_INTEGER
from phasewatch.storage.schema import Job, JobState, Scheduler, utc_now

Limits = Mapping[str, int]
"""By kind how many jobs may run at once."""

MAX_ATTEMPTS = 3
BACK_OFF_S = (2.0, 10.0)  # before the second and the third attempt
NO_LIMITS: Limits = MappingProxyType({})
_KEYS_NAMED = 5_000  # in one statement
_LIMITS_LOCK = 7_234_003  # any number no other advisory lock of ours uses


@dataclass(frozen=True)
class NewJob:
    """A job to queue; `key` is unique for ever, so asking for the same work twice queues it once."""

    key: str
    kind: str
    run_id: UUID | None = None
    segment: int | None = None
    step: int | None = None
    parameters: dict[str, Any] = field(default_factory=dict)
    priority: int = 0


def note_tick(session: Session, scheduler: str) -> None:
    """Remembers that a scheduler process is alive, and forgets those silent for a day."""
    now = utc_now()
    if not insert_if_absent(session, Scheduler, {"name": scheduler, "ticked_at": now}):
        session.execute(update(Scheduler).where(Scheduler.name == scheduler).values(ticked_at=now))
    session.execute(delete(Scheduler).where(Scheduler.ticked_at < now - timedelta(days=1)))


def last_tick(session: Session) -> datetime | None:
    """When a scheduler last ticked, of all there are."""
    return session.scalar(select(func.max(Scheduler.ticked_at)))


def enqueue(session: Session, new: NewJob, firing_id: int | None = None) -> int | None:
    """The new job's id, or None where its key is taken."""
    values = {
        "key": new.key,
        "kind": new.kind,
        "run_id": new.run_id,
        "segment": new.segment,
        "step": new.step,
        "parameters": new.parameters,
        "priority": new.priority,
        "firing_id": firing_id,
        "state": "waiting",
        "attempts": 0,
        "created_at": utc_now(),
    }
    if not insert_if_absent(session, Job, values):
        return None
    job = session.scalars(select(Job).where(Job.key == new.key)).one()
    emit(session, "job", new.run_id, _payload(job))
    return job.id


def known_keys(session: Session, keys: Collection[str]) -> set[str]:
    """Those of the keys that a job has, whatever became of it."""
    named = list(keys)
    parts = (named[first : first + _KEYS_NAMED] for first in range(0, len(named), _KEYS_NAMED))
    return {key for part in parts for key in session.scalars(select(Job.key).where(Job.key.in_(part)))}


def request(session: Session, new: NewJob) -> int:
    """The id of the job that does this work: a new one, or the one with its key, queued again where it failed."""
    made = enqueue(session, new)
    if made is not None:
        return made
    job = session.scalars(select(Job).where(Job.key == new.key)).one()
    return retry_job(session, job.id).id if job.state in ("failed", "cancelled") else job.id


def has_open_job(session: Session, run_id: UUID, kind: str) -> bool:
    """True while a job of this kind waits or runs for the run."""
    query = select(Job.id).where(Job.run_id == run_id, Job.kind == kind, Job.state.in_(("waiting", "running")))
    return session.scalar(query.limit(1)) is not None


def has_open_key(session: Session, prefix: str) -> bool:
    """True while a job whose key begins so waits or runs."""
    named = Job.key.startswith(prefix, autoescape=True)
    return session.scalar(select(Job.id).where(Job.state.in_(("waiting", "running")), named).limit(1)) is not None


def has_claimable(session: Session, limits: Limits = NO_LIMITS) -> bool:
    """True where a job waits or has lost its worker; spares an idle worker the lock that `claim_jobs` takes."""
    full = [kind for kind, room in _room(session, limits).items() if room <= 0]
    return session.scalar(select(Job.id).where(_claimable(utc_now()), Job.kind.not_in(full)).limit(1)) is not None


def _claimable(now: datetime) -> ColumnElement[bool]:
    waiting = and_(Job.state == "waiting", or_(Job.not_before.is_(None), Job.not_before <= now))
    expired = and_(Job.state == "running", Job.lease_expires_at < now)
    return or_(waiting, expired)


def claim_jobs(session: Session, owner: str, slots: int, lease_s: float, limits: Limits = NO_LIMITS) -> Sequence[Job]:
    """Up to `slots` jobs that wait or whose lease ran out, now held by `owner`; best priority first, then oldest.

    One whose lease ran out for the third time is failed instead. limits: by kind how many may run at once, of all
    workers there are; whoever claims under limits waits for the others that do.
    """
    if limits and session.get_bind().dialect.name == "postgresql":
        session.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LIMITS_LOCK})
    room = _room(session, limits)
    claimed: list[Job] = []
    while len(claimed) < slots:
        full = [kind for kind, left in room.items() if left <= 0]
        query = select(Job).where(_claimable(utc_now()), Job.kind.not_in(full)).order_by(Job.priority.desc(), Job.id)
        query = query.limit(slots - len(claimed)).with_for_update(skip_locked=True)
        found = session.scalars(query, execution_options={"populate_existing": True}).all()
        if not found:
            break
        for job in found:
            if room.get(job.kind, 1) > 0 and _claim(session, job, owner, lease_s):
                claimed.append(job)
                if job.kind in room:
                    room[job.kind] -= 1
        session.flush()
    return claimed


def _room(session: Session, limits: Limits) -> dict[str, int]:
    """By limited kind how many more may run; those whose lease ran out do not."""
    if not limits:
        return {}
    held = and_(Job.state == "running", Job.lease_expires_at >= utc_now(), Job.kind.in_(limits))
    counted = session.execute(select(Job.kind, func.count()).where(held).group_by(Job.kind))
    running: dict[str, int] = dict(counted.all())
    return {kind: most - running.get(kind, 0) for kind, most in limits.items()}


def _claim(session: Session, job: Job, owner: str, lease_s: float) -> bool:
    """Gives a locked row to `owner`; False where it has lost its worker too often, which fails it."""
    now = utc_now()
    if job.state == "running" and job.attempts >= MAX_ATTEMPTS:
        lost = f"the worker {job.owner} was lost {job.attempts} times; see its log, then POST …/retry"
        _end(session, job, "failed", lost)
        return False
    job.state, job.owner, job.attempts = "running", owner, job.attempts + 1
    job.started_at, job.lease_expires_at = now, now + timedelta(seconds=lease_s)
    job.progress = job.progress_text = None
    emit(session, "job", job.run_id, _payload(job))
    return True


def extend_leases(session: Session, owner: str, job_ids: Sequence[int], lease_s: float) -> None:
    """Keeps the leases of the jobs that `owner` is still working on."""
    expires = utc_now() + timedelta(seconds=lease_s)
    held = and_(Job.id.in_(job_ids), Job.owner == owner, Job.state == "running")
    session.execute(update(Job).where(held).values(lease_expires_at=expires))


def finish_job(session: Session, job_id: int, owner: str, result: dict[str, Any] | None = None) -> None:
    """Marks a job done, in the transaction that stores its results; `result` is what it says of them itself.

    Raises Conflict where `owner` no longer holds it, which rolls the results back.
    """
    job = _held(session, job_id, owner)
    if job is None:
        raise Conflict(f"job {job_id} is no longer held by {owner}; its results are left to whoever holds it")
    job.result, job.progress = result, None if job.progress is None else 1.0
    _end(session, job, "done", None)


def note_progress(session: Session, job_id: int, owner: str, done: float, doing: str | None = None) -> bool:
    """Says how far a job is, from 0 to 1, in a transaction of its own; False where `owner` no longer holds it."""
    held = and_(Job.id == job_id, Job.owner == owner, Job.state == "running")
    values = {"progress": min(max(done, 0.0), 1.0), "progress_text": doing}
    return session.scalar(update(Job).where(held).values(**values).returning(Job.id)) is not None


def fail_attempt(session: Session, job_id: int, owner: str, error: str, traceback: str | None = None) -> None:
    """Records a failed attempt: the job waits for the next one, or is failed after the third."""
    job = _held(session, job_id, owner)
    if job is None:
        return
    job.traceback = traceback
    if job.attempts >= MAX_ATTEMPTS:
        _end(session, job, "failed", error)
        return
    job.state, job.owner, job.lease_expires_at, job.error = "waiting", None, None, error
    job.not_before = utc_now() + timedelta(seconds=BACK_OFF_S[job.attempts - 1])
    emit(session, "job", job.run_id, _payload(job))


def give_back_jobs(session: Session, owner: str) -> None:
    """Returns every job of a worker that stops in an orderly way; the attempt does not count."""
    query = select(Job).where(Job.owner == owner, Job.state == "running").order_by(Job.id).with_for_update()
    for job in session.scalars(query, execution_options={"populate_existing": True}):
        job.state, job.owner, job.lease_expires_at, job.attempts = "waiting", None, None, job.attempts - 1
        emit(session, "job", job.run_id, _payload(job))


def _held(session: Session, job_id: int, owner: str) -> Job | None:
    """The job with its row locked, as it is now and not as the session may have read it before; None unless held."""
    query = select(Job).where(Job.id == job_id, Job.owner == owner, Job.state == "running").with_for_update()
    return session.scalars(query, execution_options={"populate_existing": True}).one_or_none()


def get_job(session: Session, job_id: int, *, lock: bool = False) -> Job:
    """The job; raises NotFound."""
    known = 0 < job_id <= MAX_INTEGER
    job = session.get(Job, job_id, with_for_update=lock or None, populate_existing=lock) if known else None
    if job is None:
        raise NotFound(f"job {job_id} does not exist; GET /api/v1/jobs lists those that do")
    return job


def list_jobs(
    session: Session,
    *,
    run_id: UUID | None = None,
    state: str | None = None,
    kind: str | None = None,
    before: int | None = None,
    limit: int = 50,
) -> Sequence[Job]:
    """Jobs newest first; `before` is the id the previous page ended with."""
    query = select(Job).order_by(Job.id.desc()).limit(limit)
    for column, wanted in ((Job.run_id, run_id), (Job.state, state), (Job.kind, kind)):
        if wanted is not None:
            query = query.where(column == wanted)
    return session.scalars(query if before is None else query.where(Job.id < before)).all()


def retry_job(session: Session, job_id: int) -> Job:
    """Queues a failed or cancelled job again with three fresh attempts; raises Conflict for one in another state."""
    job = get_job(session, job_id, lock=True)
    if job.state not in ("failed", "cancelled"):
        raise Conflict(f"job {job_id} is {job.state}; only failed and cancelled jobs can be retried")
    job.state, job.attempts, job.not_before, job.finished_at = "waiting", 0, None, None
    job.progress = job.progress_text = None
    emit(session, "job", job.run_id, _payload(job))
    return job


def cancel_job(session: Session, job_id: int) -> Job:
    """Cancels a job that waits or runs (what a running one finds is dropped); raises Conflict for an ended one."""
    job = get_job(session, job_id, lock=True)
    if job.state not in ("waiting", "running"):
        raise Conflict(f"job {job_id} is {job.state}; only waiting and running jobs can be cancelled")
    _end(session, job, "cancelled", None)
    return job


def _end(session: Session, job: Job, state: JobState, error: str | None) -> None:
    job.state, job.error, job.finished_at, job.owner, job.lease_expires_at = state, error, utc_now(), None, None
    emit(session, "job", job.run_id, _payload(job))
    if state == "failed":
        raise_for_failed_job(session, job)


def _payload(job: Job) -> dict[str, Any]:
    return {"job": job.id, "kind": job.kind, "state": job.state, "step": job.step}
