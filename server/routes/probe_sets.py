"""Routes of probe sets: the tokens that checkpoints are measured on, under the hash of their content."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Header, Path, Query, Response
from sqlalchemy.orm import Session

from phasewatch.storage import probe_sets, probe_text
from phasewatch.storage.schema import ProbeSetRow
from server.dependencies import ReadSession, SliceName, WriteSession
from server.problems import errors
from server.schemas.arrays import NPY, wants_npy, write_npy
from server.schemas.page import IntCursor, Limit, Page, TextCursor, encode_cursor
from server.schemas.probe_sets import FoundText, ProbeSetCreate, ProbeSetOut, SliceTokens

router = APIRouter(prefix="/probe-sets", tags=["probe sets"], responses=errors())

ProbeSetId = Annotated[str, Path(pattern="^[0-9a-f]{64}$", description="the probe set's id, a SHA-256")]
_NPY_ANSWER = {"content": {NPY: {"schema": {"type": "string", "format": "binary"}}}, "description": "token ids, int32"}


@router.post("", status_code=201, responses={200: {"model": ProbeSetOut}, **errors(413, 415)})
def create_probe_set(body: ProbeSetCreate, session: WriteSession, response: Response) -> ProbeSetOut:
    """Stores a probe set under the hash of its content; the same tokens again answer 200."""
    probes = body.to_library()
    response.status_code = 201 if probe_sets.put_probe_set(session, probes) else 200
    return _out(session, probe_sets.get_probe_set_row(session, probes.sha256))


@router.get("")
def list_probe_sets(session: ReadSession, cursor: TextCursor = None, limit: Limit = 50) -> Page[ProbeSetOut]:
    """Probe sets in the order of their ids."""
    rows = probe_sets.list_probe_sets(session, after=cursor, limit=limit + 1)
    return Page[ProbeSetOut].of(rows, limit, lambda row: _out(session, row), lambda row: row.id)


@router.get("/{probe_set}", responses=errors(404))
def get_probe_set(probe_set: ProbeSetId, session: ReadSession) -> ProbeSetOut:
    """One probe set, without its tokens."""
    return _out(session, probe_sets.get_probe_set_row(session, probe_set))


@router.get("/{probe_set}/slices/{slice}", response_model=SliceTokens, responses={200: _NPY_ANSWER, **errors(404, 406)})
def get_slice(
    probe_set: ProbeSetId,
    slice: SliceName,
    session: ReadSession,
    first: Annotated[int, Query(ge=0, lt=2**31, description="the first sequence")] = 0,
    count: Annotated[int | None, Query(ge=1, lt=2**31, description="how many sequences; default: all")] = None,
    accept: Annotated[str | None, Header(include_in_schema=False)] = None,
) -> SliceTokens | Response:
    """The tokens of a slice: JSON with their texts, or int32 .npy (n_sequences, n_tokens) by Accept."""
    npy = wants_npy(accept)
    found = probe_text.load_stretch(session, probe_set, slice, first=first, count=count)
    return Response(write_npy(found.tokens), media_type=NPY) if npy else SliceTokens.of(found)


@router.get("/{probe_set}/slices/{slice}/search", responses=errors(404))
def search_slice(
    probe_set: ProbeSetId,
    slice: SliceName,
    session: ReadSession,
    text: Annotated[str, Query(min_length=1, max_length=1_000, description="characters, as they stand")],
    cursor: IntCursor = None,
    limit: Limit = 50,
) -> Page[FoundText]:
    """Where a text stands in a slice, across tokens, by sequence and position."""
    n_tokens = probe_sets.get_slice_row(session, probe_set, slice).n_tokens
    after = None if cursor is None else divmod(cursor, n_tokens)
    found = probe_text.find_text(session, probe_set, slice, text, after=after, limit=limit + 1)
    shown = [FoundText.of(one, n_tokens) for one in found[:limit]]
    last = shown[-1].sequence * n_tokens + shown[-1].position if len(found) > limit else None
    return Page(items=shown, next=None if last is None else encode_cursor(last))


def _out(session: Session, row: ProbeSetRow) -> ProbeSetOut:
    return ProbeSetOut.of(row, probe_sets.list_slices(session, row.id))
