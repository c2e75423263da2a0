"""What a phase change did to groups of tokens: those that a user named, and contexts that its tokens have in common.

Apart from change_tokens.py, which shows tokens one by one.
"""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

import numpy as np
from sqlalchemy.orm import Session

from phasewatch.detection.token_contexts import Context, shared_contexts
from phasewatch.storage.change_tokens import Means, changed_slice, losses_around
from phasewatch.storage.phase_changes import change_tokens, get_phase_change
from phasewatch.storage.probe_sets import get_probe_set_row, slice_tokens
from phasewatch.storage.probe_text import spell
from phasewatch.storage.schema import SliceRow
from phasewatch.storage.token_groups import load_groups


@dataclass(frozen=True)
class GroupAround:
    """A token group across a change: mean losses in nats, and how many of its n_tokens moved with the change.

    n_moved and expected (were moving unrelated to the group) are None where the change names no tokens.
    """

    name: str
    measure: str
    n_tokens: int
    n_moved: int | None
    expected: float | None
    loss_before: float | None
    loss_after: float | None


@dataclass(frozen=True)
class SharedContext:
    """A context of tokens that moved, the text of its token, and the mean losses of all its tokens in nats."""

    context: Context
    text: str | None
    loss_before: float | None
    loss_after: float | None


@dataclass(frozen=True)
class ChangedGroups:
    """Groups of the change's slice by name, and contexts, the most telling first."""

    slice: str | None
    groups: list[GroupAround]
    contexts: list[SharedContext]


def changed_groups(session: Session, change_id: UUID) -> ChangedGroups:
    """The groups and contexts of a change; raises NotFound. Losses as `moved_tokens` has them."""
    row = get_phase_change(session, change_id)
    part = changed_slice(session, row)
    if part is None:
        return ChangedGroups(None, [], [])
    groups = [group for group in load_groups(session, part.probe_set_id) if group.slice == part.name]
    moved = None if row.tokens is None else change_tokens(row)
    contexts = [] if moved is None else shared_contexts(slice_tokens(part), moved)
    if not groups and not contexts:
        return ChangedGroups(part.name, [], [])
    around = losses_around(session, row, part, None)
    named = []
    for group in groups:
        members = group.members.reshape(-1)
        n_moved = None if moved is None else int(members[moved].sum())
        expected = None if moved is None else float(members.mean() * len(moved))
        n_tokens = int(members.sum())
        named.append(GroupAround(group.name, group.measure, n_tokens, n_moved, expected, *_means(around, members)))
    return ChangedGroups(part.name, named, _spelled(session, part, contexts, around))


def _spelled(
    session: Session, part: SliceRow, contexts: list[Context], around: tuple[Means, Means]
) -> list[SharedContext]:
    pieces, ids = get_probe_set_row(session, part.probe_set_id).pieces, slice_tokens(part)
    found = []
    for one in contexts:
        of_losses = ids[:, :-1] if one.kind == "previous" else ids[:, 1:]
        text = None if pieces is None else spell(pieces, np.array([one.token_id], np.int32))[0]
        found.append(SharedContext(one, text, *_means(around, (of_losses == one.token_id).reshape(-1))))
    return found


def _means(around: tuple[Means, Means], members: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> list[float | None]:
    """Mean over the members on both sides, None where no checkpoint lies there."""
    sides = (side[members] for side in around)
    return [float(np.nanmean(side)) if np.isfinite(side).any() else None for side in sides]
