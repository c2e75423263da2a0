"""Token groups in the database: what a user described, and which losses that means, found once and kept as bits.

Apart from probe_sets.py, which never changes what it holds; groups come and go, and take their measurements with them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import numpy as np
import numpy.typing as npt
from sqlalchemy import delete, select
from sqlalchemy.orm import Session, undefer

from phasewatch.errors import Conflict, NotFound
from phasewatch.ids import new_id
from phasewatch.measures.groups import measure_name
from phasewatch.storage.codecs import pack, unpack
from phasewatch.storage.database import insert_if_absent
from phasewatch.storage.limits import checked_json, checked_name
from phasewatch.storage.probe_sets import get_probe_set_row, get_slice_row, list_slices
from phasewatch.storage.schema import MeasurementRow, Run, Segment, SliceRow, TokenGroupMembers, TokenGroupRow, utc_now

Members = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class StoredGroup:
    """A group, and by slice how many losses belong to it and what its measure is called; none where none belongs."""

    row: TokenGroupRow
    n_members: dict[str, int]
    measures: dict[str, str]


@dataclass(frozen=True, eq=False)
class GroupOnSlice:
    """What is measured of a group: `measure` is its name, members (n_sequences, n_positions) of the slice."""

    group_id: UUID
    name: str
    measure: str
    slice: str
    members: Members


def put_token_group(
    session: Session, probe_set_id: str, name: str, definition: Mapping[str, Any], members: Mapping[str, Members]
) -> tuple[StoredGroup, bool]:
    """The group and whether it is new; raises Conflict where another one has its name.

    members: by slice, (n_sequences, n_positions) each.
    """
    get_probe_set_row(session, probe_set_id)
    content = {"definition": checked_json("token group", definition)}
    group_id = new_id()
    values = {"id": group_id, "probe_set_id": probe_set_id, "name": checked_name("group name", name)}
    if not insert_if_absent(session, TokenGroupRow, values | content | {"created_at": utc_now()}):
        found = get_token_group(session, probe_set_id, name)
        if found.row.definition != content["definition"]:
            raise Conflict(
                f"probe set {probe_set_id[:12]}… has another group {name!r}, {found.row.definition}; "
                "choose another name, or DELETE that one"
            )
        return found, False
    for part in list_slices(session, probe_set_id):
        if part.name in members:
            bits = np.packbits(members[part.name])
            n_members = int(members[part.name].sum())
            session.add(
                TokenGroupMembers(group_id=group_id, slice_id=part.id, n_members=n_members, members=pack(bits, "|u1"))
            )
    session.flush()
    return get_token_group(session, probe_set_id, name), True


def list_token_groups(session: Session, probe_set_id: str) -> list[StoredGroup]:
    """The groups of a probe set by name; raises NotFound for an unknown probe set."""
    get_probe_set_row(session, probe_set_id)
    of_set = TokenGroupRow.probe_set_id == probe_set_id
    rows = session.scalars(select(TokenGroupRow).where(of_set).order_by(TokenGroupRow.name)).all()
    query = (
        select(TokenGroupMembers.group_id, SliceRow.name, TokenGroupMembers.n_members)
        .join(SliceRow, SliceRow.id == TokenGroupMembers.slice_id)
        .where(SliceRow.probe_set_id == probe_set_id)
        .order_by(SliceRow.name)
    )
    counts: dict[UUID, dict[str, int]] = {}
    for group_id, slice_name, n_members in session.execute(query):
        counts.setdefault(group_id, {})[slice_name] = n_members
    slices = [part.name for part in list_slices(session, probe_set_id)]
    return [
        StoredGroup(row, found, {part: measure_name(row.name, part, slices) for part in found})
        for row, found in ((row, counts.get(row.id, {})) for row in rows)
    ]


def get_token_group(session: Session, probe_set_id: str, name: str) -> StoredGroup:
    """The group of that name; raises NotFound naming what there is."""
    groups = list_token_groups(session, probe_set_id)
    for found in groups:
        if found.row.name == name:
            return found
    names = ", ".join(found.row.name for found in groups) or "none yet"
    raise NotFound(f"probe set {probe_set_id[:12]}… has no token group {name!r}; there are: {names}")


def load_groups(session: Session, probe_set_id: str, names: Collection[str] | None = None) -> list[GroupOnSlice]:
    """The groups of a probe set on every slice in which they have members, by measure; names: None for all."""
    slices = [part.name for part in list_slices(session, probe_set_id)]
    query = (
        select(TokenGroupMembers, TokenGroupRow.name, SliceRow)
        .join(TokenGroupRow, TokenGroupRow.id == TokenGroupMembers.group_id)
        .join(SliceRow, SliceRow.id == TokenGroupMembers.slice_id)
        .where(TokenGroupRow.probe_set_id == probe_set_id)
        .options(undefer(TokenGroupMembers.members))
    )
    if names is not None:
        query = query.where(TokenGroupRow.name.in_(names))
    found = [
        GroupOnSlice(row.group_id, name, measure_name(name, part.name, slices), part.name, _members(row, part))
        for row, name, part in session.execute(query)
    ]
    return sorted(found, key=lambda one: one.measure)


def group_members(
    session: Session, probe_set_id: str, name: str, slice_name: str, *, first: int = 0, limit: int = 1_000
) -> list[int]:
    """Flat indices of the losses of a slice that belong to a group, ascending from `first` on; raises NotFound."""
    get_token_group(session, probe_set_id, name)
    get_slice_row(session, probe_set_id, slice_name)
    for group in load_groups(session, probe_set_id, [name]):
        if group.slice == slice_name:
            found: list[int] = (first + np.flatnonzero(group.members.reshape(-1)[first:])[:limit]).tolist()
            return found
    return []


def _members(row: TokenGroupMembers, part: SliceRow) -> Members:
    shape = (part.n_sequences, part.n_tokens - 1)
    bits = np.unpackbits(unpack(row.members, "|u1"), count=shape[0] * shape[1])
    return bits.astype(bool).reshape(shape)


def lock_groups(session: Session, group_ids: Collection[UUID]) -> set[UUID]:
    """Those of the groups that still exist; none of them goes before the transaction ends."""
    query = select(TokenGroupRow.id).where(TokenGroupRow.id.in_(group_ids))
    return set(session.scalars(query.with_for_update(read=True, key_share=True)))


def delete_token_group(session: Session, probe_set_id: str, name: str) -> int:
    """Deletes a group and what was measured of it in any run; how many measurements. Raises NotFound."""
    found = get_token_group(session, probe_set_id, name)
    session.execute(delete(TokenGroupRow).where(TokenGroupRow.id == found.row.id))
    segments = select(Segment.id).join(Run, Run.id == Segment.run_id).where(Run.probe_set_id == probe_set_id)
    measured = MeasurementRow.segment_id.in_(segments) & MeasurementRow.measure.in_(found.measures.values())
    statement = delete(MeasurementRow).where(measured).returning(MeasurementRow.step)
    return len(session.execute(statement, execution_options={"synchronize_session": False}).all())


def runs_with(session: Session, probe_set_id: str) -> Sequence[UUID]:
    """The runs that are measured on a probe set, oldest first."""
    query = select(Run.id).where(Run.probe_set_id == probe_set_id).order_by(Run.created_at, Run.id)
    return session.scalars(query).all()
