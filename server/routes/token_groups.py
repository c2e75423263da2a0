"""Routes of token groups: sets of tokens that a user describes on a probe set, and which are measured by name."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query, Response

from phasewatch.probes import TEXT
from phasewatch.storage import token_groups
from server.dependencies import Parts, ReadSession, WriteSession
from server.measuring import define_group
from server.problems import errors
from server.routes.probe_sets import ProbeSetId
from server.schemas.page import Page
from server.schemas.token_groups import (
    MAX_MEMBERS,
    DeletedMeasurements,
    GroupLabel,
    MembersOut,
    TokenGroupCreate,
    TokenGroupOut,
)

router = APIRouter(prefix="/probe-sets/{probe_set}/groups", tags=["token groups"], responses=errors(404))

GroupName = Annotated[GroupLabel, Path(description="the group's name")]


@router.post("", status_code=201, responses={200: {"model": TokenGroupOut}, **errors(404, 409, 413, 415)})
def create_group(probe_set: ProbeSetId, body: TokenGroupCreate, parts: Parts, response: Response) -> TokenGroupOut:
    """Defines a group, measured from here on and at all checkpoints before. The same again 200, another one 409."""
    found, created = define_group(parts.database, probe_set, body.name, body.group)
    response.status_code = 201 if created else 200
    return TokenGroupOut.of(found)


@router.get("")
def list_groups(probe_set: ProbeSetId, session: ReadSession) -> Page[TokenGroupOut]:
    """The groups of a probe set, by name."""
    return Page(items=[TokenGroupOut.of(found) for found in token_groups.list_token_groups(session, probe_set)])


@router.get("/{group}")
def get_group(probe_set: ProbeSetId, group: GroupName, session: ReadSession) -> TokenGroupOut:
    """One group."""
    return TokenGroupOut.of(token_groups.get_token_group(session, probe_set, group))


@router.get("/{group}/members")
def list_members(
    probe_set: ProbeSetId,
    group: GroupName,
    session: ReadSession,
    slice: Annotated[str, Query(max_length=64, description="the slice whose losses are meant")] = TEXT,
    first: Annotated[int, Query(ge=0, lt=2**31, description="the least position in the flat loss slice")] = 0,
    limit: Annotated[int, Query(ge=1, le=MAX_MEMBERS, description="how many at most")] = 1_000,
) -> MembersOut:
    """Which losses of a slice belong to a group, ascending."""
    found = token_groups.group_members(session, probe_set, group, slice, first=first, limit=limit + 1)
    return MembersOut.of(found, limit)


@router.delete("/{group}")
def delete_group(probe_set: ProbeSetId, group: GroupName, session: WriteSession) -> DeletedMeasurements:
    """Deletes a group, and everything that was measured of it."""
    return DeletedMeasurements(measurements=token_groups.delete_token_group(session, probe_set, group))
