"""Routes of the queue: what is waiting, running, done or failed, and why."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Path, Query

from phasewatch.storage import jobs
from phasewatch.storage.schema import JobState
from server.dependencies import Caller, ReadSession, WriteSession
from server.problems import errors
from server.schemas.jobs import JobOut
from server.schemas.page import IntCursor, Limit, Page
from server.schemas.values import Name

router = APIRouter(prefix="/jobs", tags=["jobs"], responses=errors())

JobId = Annotated[int, Path(ge=1, lt=2**63, description="the job's id")]


@router.get("")
def list_jobs(
    session: ReadSession,
    caller: Caller,
    run: Annotated[UUID | None, Query(description="only jobs of this run")] = None,
    state: Annotated[JobState | None, Query(description="only jobs in this state")] = None,
    kind: Annotated[Name | None, Query(description="only jobs of this kind")] = None,
    cursor: IntCursor = None,
    limit: Limit = 50,
) -> Page[JobOut]:
    """Jobs, newest first."""
    rows = jobs.list_jobs(session, run_id=run, state=state, kind=kind, before=cursor, limit=limit + 1)
    return Page[JobOut].of(rows, limit, lambda row: JobOut.of(row, caller), lambda row: row.id)


@router.get("/{job}", responses=errors(404))
def get_job(job: JobId, session: ReadSession, caller: Caller) -> JobOut:
    """One job, with the error of its last attempt; scope admin sees its traceback, too."""
    return JobOut.of(jobs.get_job(session, job), caller)


@router.post("/{job}/retry", responses=errors(404, 409))
def retry_job(job: JobId, session: WriteSession, caller: Caller) -> JobOut:
    """Queues a failed or cancelled job again, with three fresh attempts."""
    return JobOut.of(jobs.retry_job(session, job), caller)


@router.post("/{job}/cancel", responses=errors(404, 409))
def cancel_job(job: JobId, session: WriteSession, caller: Caller) -> JobOut:
    """Cancels a job; what a running one finds is dropped."""
    return JobOut.of(jobs.cancel_job(session, job), caller)
