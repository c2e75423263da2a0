"""Routes of probe sets: the tokens that checkpoints are measured on, under the hash of their content."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Header, Path, Response
from sqlalchemy.orm import Session

from phasewatch.storage import probe_sets
from phasewatch.storage.schema import ProbeSetRow
from server.dependencies import ReadSession, SliceName, WriteSession
from server.problems import errors
from server.schemas.arrays import NPY, wants_npy, write_npy
from server.schemas.page import Limit, Page, TextCursor
from server.schemas.probe_sets import ProbeSetCreate, ProbeSetOut, SliceTokens, find_slice

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
    accept: Annotated[str | None, Header(include_in_schema=False)] = None,
) -> SliceTokens | Response:
    """The tokens of a slice: JSON with their texts, or int32 .npy (n_sequences, n_tokens) by Accept."""
    npy = wants_npy(accept)
    probes = probe_sets.load_probe_set(session, probe_set)
    tokens = find_slice(probes, slice).tokens
    return Response(write_npy(tokens), media_type=NPY) if npy else SliceTokens.of(tokens, probes.pieces)


def _out(session: Session, row: ProbeSetRow) -> ProbeSetOut:
    return ProbeSetOut.of(row, probe_sets.list_slices(session, row.id))
