"""Routes of runs: create, list, read, change, delete, and what a trainer is told to do with them."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Query, Response

from phasewatch.storage import runs
from phasewatch.storage.deletion import delete_run
from phasewatch.storage.run_summaries import load_summaries
from phasewatch.storage.runs import RunSort
from phasewatch.storage.schema import RunStatus
from server.dependencies import Parts, ReadSession, RunId, WriteSession
from server.problems import errors
from server.schemas.page import IdCursor, Limit, Page
from server.schemas.runs import (
    FreedBytes,
    ProbeSetChoice,
    RunCreate,
    RunOut,
    RunUpdate,
    SegmentCreate,
    SegmentOut,
)
from server.schemas.values import Name

router = APIRouter(prefix="/runs", tags=["runs"], responses=errors())


@router.post("", status_code=201, responses={200: {"model": RunOut}, **errors(409, 413, 415)})
def create_run(body: RunCreate, session: WriteSession, response: Response) -> RunOut:
    """Creates a run. The same request again answers 200 and changes nothing; other content under its id, 409."""
    run, created = runs.create_run(session, body.to_storage())
    response.status_code = 201 if created else 200
    return RunOut.of(run)


@router.get("")
def list_runs(
    session: ReadSession,
    status: Annotated[RunStatus | None, Query(description="only runs in this status")] = None,
    tag: Annotated[Name | None, Query(description="only runs with this tag")] = None,
    name: Annotated[Name | None, Query(description="only runs of exactly this name")] = None,
    q: Annotated[str | None, Query(max_length=200, description="what the name, a tag or the id holds")] = None,
    sort: Annotated[RunSort, Query(description="newest, furthest, or by name or status")] = "created",
    include: Annotated[Literal["summary"] | None, Query(description="summary: loss, score and changes of each")] = None,
    cursor: IdCursor = None,
    limit: Limit = 50,
) -> Page[RunOut]:
    """Runs, newest first unless sorted otherwise."""
    found = runs.list_runs(
        session, status=status, tag=tag, name=name, search=q, sort=sort, before=cursor, limit=limit + 1
    )
    summaries = load_summaries(session, found[:limit]) if include else {}
    return Page[RunOut].of(found, limit, lambda run: RunOut.of(run, summaries.get(run.id)), lambda run: run.id)


@router.get("/{run}", responses=errors(404))
def get_run(run: RunId, session: ReadSession) -> RunOut:
    """One run."""
    return RunOut.of(runs.get_run(session, run))


@router.patch("/{run}", responses=errors(404, 409, 413, 415))
def update_run(run: RunId, body: RunUpdate, session: WriteSession) -> RunOut:
    """Renames or tags a run; says how a run recorded from outside ended."""
    return RunOut.of(runs.edit_run(session, run, **body.model_dump(exclude_unset=True)))


@router.delete("/{run}", responses=errors(404, 409))
def remove_run(run: RunId, parts: Parts) -> FreedBytes:
    """Deletes a run with all it holds, in batches of their own transactions, and frees its disk."""
    return FreedBytes(freed_bytes=delete_run(parts.database, parts.artifacts, run).n_bytes)


@router.post("/{run}/cancel", responses=errors(404, 409))
def cancel_run(run: RunId, session: WriteSession) -> RunOut:
    """Ends a run; its trainer writes a checkpoint and lets go of it."""
    return RunOut.of(runs.request_status(session, run, "cancel"))


@router.post("/{run}/pause", responses=errors(404, 409))
def pause_run(run: RunId, session: WriteSession) -> RunOut:
    """Stops a run until it is resumed; its trainer writes a checkpoint and lets go of it."""
    return RunOut.of(runs.request_status(session, run, "pause"))


@router.post("/{run}/resume", responses=errors(404, 409))
def resume_run(run: RunId, session: WriteSession) -> RunOut:
    """Lets a paused, failed or cancelled run go on from its last complete checkpoint."""
    return RunOut.of(runs.request_status(session, run, "resume"))


@router.post("/{run}/segments", status_code=201, responses=errors(404, 413, 415))
def open_segment(run: RunId, body: SegmentCreate, session: WriteSession) -> SegmentOut:
    """Opens a segment, such as after a resume: it hides the older rows from its first step on, and keeps them."""
    return SegmentOut.of(runs.open_segment(session, run, body.from_step))


@router.get("/{run}/segments", responses=errors(404))
def list_segments(run: RunId, session: ReadSession) -> Page[SegmentOut]:
    """A run's segments, oldest first."""
    return Page(items=[SegmentOut.of(segment) for segment in runs.list_segments(session, run)])


@router.put("/{run}/probe-set", responses=errors(404, 409, 413, 415))
def choose_probe_set(run: RunId, body: ProbeSetChoice, session: WriteSession) -> RunOut:
    """Gives a run its probe set; another one is refused once there are losses."""
    return RunOut.of(runs.set_probe_set(session, run, body.probe_set))
