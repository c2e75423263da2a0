"""Routes of checkpoints and their weights (safetensors, never a pickle)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from fastapi import APIRouter, Query, Response
from sqlalchemy.orm import Session

from phasewatch.errors import NotFound
from phasewatch.storage import checkpoints, runs
from phasewatch.storage.schema import Checkpoint
from server.dependencies import Body, Parts, ReadSession, RunId, SegmentNumber, Step, WriteSession
from server.problems import errors
from server.schemas.arrays import OCTETS
from server.schemas.checkpoints import CheckpointCreate, CheckpointOut, check_weights
from server.schemas.page import IntCursor, Limit, Page

router = APIRouter(prefix="/runs/{run}/checkpoints", tags=["checkpoints"], responses=errors(404))

_BINARY = {OCTETS: {"schema": {"type": "string", "format": "binary"}}}


@router.post("", status_code=201, responses={200: {"model": CheckpointOut}, **errors(404, 409, 413, 415)})
def create_checkpoint(
    run: RunId, body: CheckpointCreate, session: WriteSession, response: Response, segment: SegmentNumber = None
) -> CheckpointOut:
    """Records a checkpoint. The same again answers 200, a different one at its step 409."""
    row, created = checkpoints.put_checkpoint(session, run, body.to_storage(), segment=segment)
    response.status_code = 201 if created else 200
    return _out(session, run, [row])[0]


@router.get("")
def list_checkpoints(
    run: RunId, session: ReadSession, cursor: IntCursor = None, limit: Limit = 50
) -> Page[CheckpointOut]:
    """The visible checkpoints of a run, by step."""
    rows = checkpoints.list_checkpoints(session, run, after=cursor, limit=limit + 1)
    return Page[CheckpointOut].of(_out(session, run, rows), limit, lambda item: item, lambda item: item.step)


@router.get("/{step}")
def get_checkpoint(run: RunId, step: Step, session: ReadSession) -> CheckpointOut:
    """One checkpoint."""
    return _out(session, run, [checkpoints.get_checkpoint(session, run, step)])[0]


@router.put(
    "/{step}/weights",
    status_code=201,
    openapi_extra={"requestBody": {"required": True, "content": _BINARY}},
    responses={200: {"model": CheckpointOut}, **errors(404, 409, 413, 415)},
)
def put_weights(
    run: RunId,
    step: Step,
    body: Body,
    parts: Parts,
    session: WriteSession,
    response: Response,
    segment: Annotated[int | None, Query(ge=0, lt=2**31, description="default: the visible one's")] = None,
) -> CheckpointOut:
    """Stores the weights of a checkpoint, safetensors. The same again answers 200, others 409."""
    check_weights(body)
    row, created = checkpoints.store_weights(session, parts.artifacts, run, step, body, segment=segment)
    response.status_code = 201 if created else 200
    return _out(session, run, [row])[0]


@router.get("/{step}/weights", response_class=Response, responses={200: {"content": _BINARY}, **errors(404)})
def get_weights(run: RunId, step: Step, parts: Parts, session: ReadSession) -> Response:
    """The weights of a checkpoint as safetensors, checked against their SHA-256."""
    row = checkpoints.get_checkpoint(session, run, step)
    if row.artifact_url is None:
        raise NotFound(f"run {run} has no weights at step {step}; PUT them to …/checkpoints/{step}/weights")
    return Response(parts.artifacts.get(row.artifact_url, row.sha256), media_type=OCTETS)


def _out(session: Session, run: RunId, rows: Sequence[Checkpoint]) -> list[CheckpointOut]:
    numbers = {segment.id: segment.number for segment in runs.list_segments(session, run)}
    return [CheckpointOut.of(row, numbers[row.segment_id]) for row in rows]
