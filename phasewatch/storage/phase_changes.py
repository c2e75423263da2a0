"""Phase changes in the database: each scan is held against what earlier scans found, so that a change keeps its id.

What a scan sees first is provisional. It is confirmed once it is over and later checkpoints have not unmade it, and
withdrawn when a later scan no longer sees it. What people said of it (acknowledged, dismissed, a note) stays.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from uuid import UUID

import numpy as np
import numpy.typing as npt
from sqlalchemy import select
from sqlalchemy.orm import Session

from phasewatch.detection.phase_change import PhaseChange
from phasewatch.errors import NotFound
from phasewatch.ids import new_id
from phasewatch.storage.alerts import raise_for_changes
from phasewatch.storage.codecs import pack, unpack
from phasewatch.storage.events import emit
from phasewatch.storage.runs import get_run
from phasewatch.storage.schema import ChangeState, PhaseChangeRow, Review, ScanRow, utc_now

CHECKPOINTS_TO_CONFIRM = 3
_COLUMNS = ("measure", "kind", "direction", "induction", "start_step", "step", "end_step", "effect", "unit", "q_value")


def store_scan(
    session: Session,
    run_id: UUID,
    found: Sequence[PhaseChange],
    steps: Sequence[int],
    *,
    detector_version: int,
    ended: bool,
    slice_name: str | None = None,
    notes: Sequence[str] = (),
) -> None:
    """Makes the run's stored changes those of a scan over the checkpoints at `steps` (ascending).

    `slice_name` is the slice that the changes' tokens index; `notes` say what the scan could not look at.
    """
    get_run(session, run_id, lock=True)  # two scans of one run store one after the other
    _write_scan(session, run_id, steps, detector_version, notes)
    if not steps:
        return
    query = select(PhaseChangeRow).where(PhaseChangeRow.run_id == run_id).order_by(PhaseChangeRow.id)
    stored = list(session.scalars(query, execution_options={"populate_existing": True}))
    matches = match_changes([row_to_change(row) for row in stored], found)
    news = []
    for change, index in zip(found, matches, strict=True):
        row = stored[index] if index is not None else None
        if row is None:
            row = PhaseChangeRow(id=new_id(), run_id=run_id, first_seen_step=steps[-1])
            session.add(row)
        state: ChangeState = "confirmed" if ended or is_settled(change, steps) else "provisional"
        if _write(session, row, change, state, steps[-1], detector_version, slice_name):
            news.append((row, change.explain()))
    for index, row in enumerate(stored):
        if index not in matches and row.state != "withdrawn":
            row.state, row.updated_at, row.last_seen_step = "withdrawn", utc_now(), steps[-1]
            emit(session, "phase_change", run_id, {"phase_change": str(row.id), "state": "withdrawn"})
            news.append((row, row_to_change(row).explain()))
    raise_for_changes(session, news)
    session.flush()


def _write_scan(
    session: Session, run_id: UUID, steps: Sequence[int], detector_version: int, notes: Sequence[str]
) -> None:
    row = session.get(ScanRow, run_id, populate_existing=True)
    if row is None:
        row = ScanRow(run_id=run_id)
        session.add(row)
    row.last_step, row.n_checkpoints = (steps[-1] if steps else None), len(steps)
    row.detector_version, row.notes, row.created_at = detector_version, list(notes), utc_now()
    session.flush()


def scan_notes(session: Session, run_id: UUID) -> list[str]:
    """What the newest scan of a run could not look at, and why nothing can be said where that is so."""
    row = session.get(ScanRow, run_id)
    return ["the run has not been scanned yet"] if row is None else list(row.notes)


def is_settled(change: PhaseChange, steps: Sequence[int]) -> bool:
    """True when the change is over and at least three checkpoints lie beyond its end."""
    return change.end_step is not None and sum(step > change.end_step for step in steps) >= CHECKPOINTS_TO_CONFIRM


def match_changes(stored: Sequence[PhaseChange], found: Sequence[PhaseChange]) -> list[int | None]:
    """For each found change the index of the stored one it is, or None; one stored change matches at most once.

    The same change: both or neither is the induction change, direction agrees, the times overlap, and so does what it
    was seen in (the induction change may be read off another head in a later scan). Nearest in log step wins.
    """
    pairs = [
        (abs(math.log((new.step + 1) / (old.step + 1))), i, j)
        for i, new in enumerate(found)
        for j, old in enumerate(stored)
        if new.induction == old.induction
        and (new.induction or (new.direction == old.direction and new.measure == old.measure))
        and new.overlaps(old)
    ]
    answer: list[int | None] = [None] * len(found)
    for _, i, j in sorted(pairs):
        if answer[i] is None and j not in answer:
            answer[i] = j
    return answer


def _write(
    session: Session,
    row: PhaseChangeRow,
    change: PhaseChange,
    state: ChangeState,
    last_step: int,
    detector_version: int,
    slice_name: str | None,
) -> bool:
    """Writes what a scan found into a row; True where that is news to whoever watches."""
    before = (row.state, row.start_step, row.step, row.end_step)
    for name in _COLUMNS:
        setattr(row, name, getattr(change, name))
    row.tokens = None if change.tokens is None else pack(change.tokens, "<i4")
    row.n_tokens = None if change.tokens is None else len(change.tokens)
    row.slice = None if change.tokens is None else slice_name
    rest = {key: value for key, value in change.to_dict().items() if key not in (*_COLUMNS, "tokens")}
    row.detail = {key: _finite(value) if key.endswith("_interval") else value for key, value in rest.items()}
    row.state, row.detector_version, row.last_seen_step = state, detector_version, last_step
    if before == (state, change.start_step, change.step, change.end_step):
        return False
    row.updated_at = utc_now()
    payload = {"phase_change": str(row.id), "state": state, "step": change.step, "induction": change.induction}
    emit(session, "phase_change", row.run_id, payload)
    return True


def _finite(interval: list[float] | None) -> list[float | str] | None:
    """An interval as JSON can hold it: an open end becomes "inf", which `PhaseChange.from_dict` reads."""
    return None if interval is None else [end if math.isfinite(end) else str(end) for end in interval]


def row_to_change(row: PhaseChangeRow) -> PhaseChange:
    """The change as the detector gave it."""
    tokens = None if row.tokens is None else unpack(row.tokens, "<i4")
    return PhaseChange.from_dict({name: getattr(row, name) for name in _COLUMNS} | row.detail | {"tokens": tokens})


def list_phase_changes(session: Session, run_id: UUID, *, withdrawn: bool = False) -> Sequence[PhaseChangeRow]:
    """The run's changes by step; withdrawn ones only when asked for."""
    query = (
        select(PhaseChangeRow).where(PhaseChangeRow.run_id == run_id).order_by(PhaseChangeRow.step, PhaseChangeRow.id)
    )
    return session.scalars(query if withdrawn else query.where(PhaseChangeRow.state != "withdrawn")).all()


def get_phase_change(session: Session, change_id: UUID) -> PhaseChangeRow:
    """The change; raises NotFound."""
    row = session.get(PhaseChangeRow, change_id)
    if row is None:
        raise NotFound(f"phase change {change_id} does not exist; GET /api/v1/runs/RUN/phase-changes lists a run's")
    return row


def review_phase_change(session: Session, change_id: UUID, review: Review | None, note: str | None) -> PhaseChangeRow:
    """Says what a person thinks of a change."""
    row = get_phase_change(session, change_id)
    row.review, row.note, row.updated_at = review, note, utc_now()
    session.flush()
    return row


def change_tokens(row: PhaseChangeRow) -> npt.NDArray[np.int32]:
    """Flat indices into the slice of the tokens that move with the change, most certain first; empty where none."""
    return np.array([], np.int32) if row.tokens is None else unpack(row.tokens, "<i4")
