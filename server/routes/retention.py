"""Routes of retention: what of a run's weights and losses would go, and the job that lets it go."""

from __future__ import annotations

from fastapi import APIRouter, Response

from phasewatch.storage.jobs import enqueue
from phasewatch.storage.retention import plan_retention
from phasewatch.storage.schema import utc_now
from server.dependencies import RunId, WriteSession
from server.jobs.retention import retention_job
from server.problems import errors
from server.schemas.retention import RetentionOut, RetentionRequest

router = APIRouter(prefix="/runs/{run}/retention", tags=["retention"], responses=errors(404))


@router.post("", status_code=202, responses={200: {"model": RetentionOut}, **errors(404, 413, 415)})
def retain(run: RunId, body: RetentionRequest, session: WriteSession, response: Response) -> RetentionOut:
    """What the rules would remove of a run (200 with dry_run), and the job that removes it (202)."""
    plan = plan_retention(session, run, body.rules, utc_now())
    job = None if body.dry_run else enqueue(session, retention_job(session, run, body.rules))
    response.status_code = 200 if body.dry_run else 202
    return RetentionOut.of(plan, job)
