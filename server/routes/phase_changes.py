"""Routes of phase changes: what was found in a run, which tokens moved, and what people make of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Header, Path, Query, Response
from sqlalchemy.orm import Session

from phasewatch.storage import change_groups, change_tokens, evidence, phase_changes, runs
from phasewatch.storage.schema import PhaseChangeRow
from server.dependencies import ReadSession, RunId, WriteSession
from server.problems import errors
from server.schemas.arrays import NPY, wants_npy, write_npy
from server.schemas.change_groups import ChangedGroupsOut
from server.schemas.page import IntCursor, Limit, Page, encode_cursor
from server.schemas.phase_changes import MovedTokenOut, PhaseChangeOut, PhaseChangePage, PhaseChangeUpdate

router = APIRouter(tags=["phase changes"], responses=errors(404))

_BINARY = {"schema": {"type": "string", "format": "binary"}}

ChangeId = Annotated[UUID, Path(description="the phase change's id")]


@router.get("/runs/{run}/phase-changes")
def list_phase_changes(
    run: RunId,
    session: ReadSession,
    withdrawn: Annotated[bool, Query(description="also those that later scans no longer saw")] = False,
) -> PhaseChangePage:
    """What was found in a run, by step, and what its newest scan could not look at."""
    runs.get_run(session, run)
    found = phase_changes.list_phase_changes(session, run, withdrawn=withdrawn)
    return PhaseChangePage(items=_out(session, run, found), notes=phase_changes.scan_notes(session, run))


@router.get("/phase-changes/{change}")
def get_phase_change(change: ChangeId, session: ReadSession) -> PhaseChangeOut:
    """One phase change, with what silencing its heads did where that was measured."""
    row = phase_changes.get_phase_change(session, change)
    return _out(session, row.run_id, [row])[0]


@router.patch("/phase-changes/{change}", responses=errors(404, 413, 415))
def review_phase_change(change: ChangeId, body: PhaseChangeUpdate, session: WriteSession) -> PhaseChangeOut:
    """Acknowledges or dismisses a change, or adds a note."""
    review, note = body.over(phase_changes.get_phase_change(session, change))
    row = phase_changes.review_phase_change(session, change, review, note)
    return _out(session, row.run_id, [row])[0]


@router.get(
    "/phase-changes/{change}/tokens",
    response_model=Page[MovedTokenOut],
    responses={200: {"content": {NPY: _BINARY}, "description": "flat indices, int32"}, **errors(404, 406)},
)
def list_changed_tokens(
    change: ChangeId,
    session: ReadSession,
    order: Annotated[
        change_tokens.Order,
        Query(
            description="certain: those that move with it; gained, lost: loss fell or rose most, of all without such"
        ),
    ] = "certain",
    cursor: IntCursor = None,
    limit: Limit = 50,
    accept: Annotated[str | None, Header(include_in_schema=False)] = None,
) -> Page[MovedTokenOut] | Response:
    """The tokens that move with a change, the most certain first, in their text.

    By Accept all of these as int32 .npy, positions in the flat loss slice.
    """
    if wants_npy(accept):
        row = phase_changes.get_phase_change(session, change)
        return Response(write_npy(phase_changes.change_tokens(row)), media_type=NPY)
    first = cursor or 0
    found = change_tokens.moved_tokens(session, change, order=order, first=first, limit=limit + 1)
    following = encode_cursor(first + limit) if len(found) > limit else None
    return Page(items=[MovedTokenOut.of(token) for token in found[:limit]], next=following)


@router.get("/phase-changes/{change}/groups")
def list_changed_groups(change: ChangeId, session: ReadSession) -> ChangedGroupsOut:
    """What a change did to the token groups of its probe set, and which contexts its tokens have in common."""
    return ChangedGroupsOut.of(change_groups.changed_groups(session, change))


def _out(session: Session, run: UUID, rows: Sequence[PhaseChangeRow]) -> list[PhaseChangeOut]:
    found = evidence.load_evidence(session, run, rows)
    return [PhaseChangeOut.of(row, found.get(row.id, ())) for row in rows]
