"""Runs and their segments: creation, status, the trainer's lease, and which rows of a run's past are visible."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from itertools import islice
from typing import Any, Final, Literal
from uuid import UUID

from sqlalchemy import ColumnElement, and_, bindparam, case, false, func, or_, select, tuple_, update
from sqlalchemy.orm import InstrumentedAttribute, Session

from phasewatch.errors import Conflict, NotFound
from phasewatch.ids import new_id
from phasewatch.storage.database import ONE_STATE, insert_if_absent, tables_of
from phasewatch.storage.events import emit
from phasewatch.storage.limits import MAX_INTEGER, checked_json, checked_name, checked_step
from phasewatch.storage.limits import MAX_STEP as MAX_STEP
from phasewatch.storage.schema import ENDED, LossSlice, ProbeSetRow, Run, RunStatus, Segment, utc_now

RunSort = Literal["created", "name", "step", "status"]


@dataclass(frozen=True)
class NewRun:
    """What a caller says of a run when it creates one."""

    name: str
    id: UUID | None = None
    training: dict[str, Any] | None = None
    config: dict[str, Any] | None = None
    tags: tuple[str, ...] = ()
    parent: UUID | None = None


def create_run(session: Session, new: NewRun) -> tuple[Run, bool]:
    """The run and whether it was created now; a repeat with the same content finds the first one.

    A run with `training` is queued for a trainer; one without is running, recorded from outside. Raises Conflict where
    the id is taken by a different run, NotFound for an unknown parent, InvalidInput for what JSON cannot hold.
    """
    if new.parent is not None and session.get(Run, new.parent) is None:
        raise NotFound(f"parent run {new.parent} does not exist")
    content = {
        "name": checked_name("run name", new.name),
        "training": None if new.training is None else checked_json("training", new.training),
        "config": checked_json("config", new.config or {}),
        "tags": [checked_name("tag", tag) for tag in new.tags],
        "parent": new.parent,
    }
    now = utc_now()
    status: RunStatus = "running" if new.training is None else "queued"
    started = now if new.training is None else None
    run_id = new.id or new_id()
    created = insert_if_absent(
        session, Run, {"id": run_id, "status": status, "created_at": now, "started_at": started, **content}
    )
    run = get_run(session, run_id)
    if created:
        session.add(Segment(run_id=run_id, number=0, from_step=0))
        emit(session, "run", run_id, {"status": status, "name": new.name})
    elif any(getattr(run, name) != value for name, value in content.items() if name != "tags"):
        raise Conflict(
            f"run {run_id} exists with another name, configuration or parent; leave out the id to create a new run"
        )
    return run, created


def get_run(session: Session, run_id: UUID, *, lock: bool = False) -> Run:
    """The run; raises NotFound. `lock` holds its row until the transaction ends; rows that refer to it may be added."""
    run = session.get(Run, run_id, with_for_update={"key_share": True} if lock else None, populate_existing=lock)
    if run is None:
        raise NotFound(f"run {run_id} does not exist; GET /api/v1/runs lists those that do")
    return run


def list_runs(
    session: Session,
    *,
    status: str | None = None,
    tag: str | None = None,
    name: str | None = None,
    search: str | None = None,
    sort: RunSort = "created",
    before: UUID | None = None,
    limit: int = 50,
) -> Sequence[Run]:
    """Runs, newest first unless `sort` says otherwise; `before` is the id the previous page ended with.

    search: what the name, a tag or the id holds, whatever the case.
    """
    key, falling = _sort_key(sort)
    query = select(Run).order_by(*(column.desc() if falling else column for column in (key, Run.id)))
    if status is not None:
        query = query.where(Run.status == status)
    if name is not None:
        query = query.where(Run.name == name)
    if before is not None:
        get_run(session, before)
        place = tuple_(*session.execute(select(key, Run.id).where(Run.id == before)).one())
        query = query.where(tuple_(key, Run.id) < place if falling else tuple_(key, Run.id) > place)
    if tag is not None or search:
        # Tags are a JSON list, which the two databases search differently; runs are few enough to look at.
        rows = session.execute(query.with_only_columns(Run.id, Run.name, Run.tags))
        found = (run_id for run_id, name, tags in rows if _matches(run_id, name, tags, tag, search))
        query = query.where(Run.id.in_(list(islice(found, limit))))
    return session.scalars(query.limit(limit)).all()


def _sort_key(sort: RunSort) -> tuple[ColumnElement[Any], bool]:
    """What runs are sorted by, and whether from the greatest down."""
    if sort == "step":
        return func.coalesce(Run.last_step, -1), True
    if sort == "created":
        return Run.created_at.expression, True
    return (Run.name if sort == "name" else Run.status).expression, False


def _matches(run_id: UUID, name: str, tags: Sequence[str], tag: str | None, search: str | None) -> bool:
    if tag is not None and tag not in tags:
        return False
    return not search or any(search.casefold() in text.casefold() for text in (name, *tags, str(run_id)))


def set_status(session: Session, run: Run, status: RunStatus, failure: str | None = None) -> None:
    """Moves a run to `status` and tells those who watch."""
    run.status, run.failure = status, failure
    now = utc_now()
    if status == "running" and run.started_at is None:
        run.started_at = now
    run.finished_at = now if status in ENDED else None
    payload = {"status": status, "name": run.name} | ({"failure": failure} if failure else {})
    emit(session, "run", run.id, payload)


def edit_run(
    session: Session,
    run_id: UUID,
    *,
    name: str | None = None,
    tags: Sequence[str] | None = None,
    status: Literal["completed", "failed"] | None = None,
    failure: str | None = None,
) -> Run:
    """Renames or tags a run, or ends one that is recorded from outside; None leaves a thing as it is.

    Raises Conflict for the end of a run that a trainer holds, or that was cancelled.
    """
    run = get_run(session, run_id, lock=True)
    if name is not None:
        run.name = checked_name("run name", name)
    if tags is not None:
        run.tags = [checked_name("tag", tag) for tag in tags]
    if status is None:
        if name is not None or tags is not None:
            emit(session, "run", run.id, {"status": run.status, "name": run.name})
        return run
    if run.training is not None:
        raise Conflict(f"run {run_id} is trained here, so its trainer says how it ends; POST …/cancel stops it")
    if run.status == "cancelled":
        raise Conflict(f"run {run_id} was cancelled; it cannot be {status} as well")
    if (run.status, run.failure) != (status, failure):
        set_status(session, run, status, failure)
    return run


def request_status(session: Session, run_id: UUID, action: str) -> Run:
    """Cancels, pauses or resumes a run; raises Conflict where its status does not allow it.

    The trainer that holds the run sees it at its next heartbeat, writes a checkpoint and gives the run back.
    """
    run = get_run(session, run_id, lock=True)
    allowed: dict[str, tuple[tuple[RunStatus, ...], RunStatus]] = {
        "cancel": (("queued", "running", "paused"), "cancelled"),
        "pause": (("queued", "running"), "paused"),
        "resume": (("paused", "failed", "cancelled"), "queued" if run.training is not None else "running"),
    }
    sources, target = allowed[action]
    if run.status == target:
        return run
    if run.status not in sources:
        raise Conflict(f"run {run_id} is {run.status}; {action} needs one of: {', '.join(sources)}")
    set_status(session, run, target)
    return run


# The trainer's lease.


def claim_run(session: Session, owner: str, lease_s: float) -> Run | None:
    """The oldest run that is queued or running and under nobody's lease, now held by `owner`; None without one."""
    now = utc_now()
    free = or_(Run.lease_expires_at.is_(None), Run.lease_expires_at < now)
    due = Run.status.in_(("queued", "running"))
    query = select(Run).where(Run.training.is_not(None), due, free).order_by(Run.created_at, Run.id).limit(1)
    run = session.scalars(query.with_for_update(skip_locked=True)).first()
    if run is None:
        return None
    run.owner, run.heartbeat_at, run.lease_expires_at = owner, now, now + timedelta(seconds=lease_s)
    set_status(session, run, "running")
    return run


def extend_run_lease(session: Session, run_id: UUID, owner: str, lease_s: float) -> RunStatus | None:
    """Keeps `owner`'s lease; the run's status, or None when the lease is another's by now."""
    now = utc_now()
    statement = (
        update(Run)
        .where(Run.id == run_id, Run.owner == owner)
        .values(heartbeat_at=now, lease_expires_at=now + timedelta(seconds=lease_s))
        .returning(Run.status)
    )
    return session.scalar(statement)


def release_run(
    session: Session, run_id: UUID, owner: str, status: RunStatus | None = None, failure: str | None = None
) -> bool:
    """Gives a run back, in `status` if one is given; False, and nothing done, where `owner` no longer holds it."""
    run = get_run(session, run_id, lock=True)
    if run.owner != owner:
        return False
    run.owner = run.lease_expires_at = None
    if status is not None and run.status == "running":
        set_status(session, run, status, failure)
    return True


[_RUNS] = tables_of(Run)
_NOTE_STEP: Final = (
    update(_RUNS)
    .where(_RUNS.c.id == bindparam("run"))
    .values(
        last_step=case(
            (or_(_RUNS.c.last_step.is_(None), _RUNS.c.last_step < bindparam("step")), bindparam("step")),
            else_=_RUNS.c.last_step,
        ),
        heartbeat_at=bindparam("now"),
    )
)


def note_step(session: Session, run_id: UUID, step: int) -> None:
    """Remembers the newest step a run has reported, and that it was heard from."""
    session.flush()
    session.connection().execute(_NOTE_STEP, {"run": run_id, "step": step, "now": utc_now()})
    loaded = session.identity_map.get(Run.__mapper__.identity_key_from_primary_key((run_id,)))
    if loaded is not None:
        session.expire(loaded, ["last_step", "heartbeat_at"])


# Segments.


@dataclass(frozen=True)
class Stretch:
    """The steps [first, end) of a run that one segment shows; later segments hide what comes after."""

    segment_id: int
    number: int
    first: int
    end: int


def open_segment(session: Session, run_id: UUID, from_step: int) -> Segment:
    """A new segment, which hides every older row of the run from `from_step` on."""
    from_step = checked_step(from_step)
    run = get_run(session, run_id, lock=True)
    number = session.scalar(select(func.max(Segment.number)).where(Segment.run_id == run_id))
    segment = Segment(run_id=run.id, number=0 if number is None else number + 1, from_step=from_step)
    if run.last_step is not None and run.last_step >= from_step:
        run.last_step = from_step - 1 if from_step else None
    session.add(segment)
    session.flush()
    return segment


def list_segments(session: Session, run_id: UUID) -> Sequence[Segment]:
    """The run's segments, oldest first."""
    known: dict[UUID, Sequence[Segment]] | None = session.info.get(ONE_STATE)
    if known is not None and run_id in known:
        return known[run_id]
    segments = session.scalars(select(Segment).where(Segment.run_id == run_id).order_by(Segment.number)).all()
    if not segments:  # every run has one
        get_run(session, run_id)
    if known is not None:
        known[run_id] = segments
    return segments


def get_segment(session: Session, run_id: UUID, number: int | None = None) -> Segment:
    """Segment `number` of a run, by default the newest; raises NotFound."""
    query = select(Segment).where(Segment.run_id == run_id).order_by(Segment.number.desc()).limit(1)
    if number is not None:
        query = query.where(Segment.number == min(number, MAX_INTEGER))
    segment = session.scalars(query).first()
    if segment is None:
        get_run(session, run_id)
        raise NotFound(f"run {run_id} has no segment {number}; GET /api/v1/runs/{run_id}/segments lists them")
    return segment


def visible_stretches(session: Session, run_id: UUID) -> list[Stretch]:
    """Which segment shows which steps, in step order. Reads of a run's history use nothing else."""
    stretches: list[Stretch] = []
    end = MAX_STEP + 1
    for segment in reversed(list_segments(session, run_id)):
        if segment.from_step < end:
            stretches.append(Stretch(segment.id, segment.number, segment.from_step, end))
            end = segment.from_step
    return stretches[::-1]


def is_visible(
    stretches: Sequence[Stretch], segment_column: InstrumentedAttribute[int], step_column: InstrumentedAttribute[int]
) -> ColumnElement[bool]:
    """The condition that a row lies in the visible history."""
    parts = [
        and_(segment_column == stretch.segment_id, step_column >= stretch.first, step_column < stretch.end)
        for stretch in stretches
    ]
    return or_(*parts) if parts else false()


# Probe sets of runs.


def set_probe_set(session: Session, run_id: UUID, probe_set_id: str) -> Run:
    """Gives a run its probe set; raises Conflict once losses exist under another one."""
    run = get_run(session, run_id, lock=True)
    if run.probe_set_id == probe_set_id:
        return run
    if session.get(ProbeSetRow, probe_set_id) is None:
        raise NotFound(f"probe set {probe_set_id} does not exist; POST it to /api/v1/probe-sets first")
    recorded = (
        select(LossSlice.step)
        .join(Segment, Segment.id == LossSlice.segment_id)
        .where(Segment.run_id == run_id)
        .limit(1)
    )
    if run.probe_set_id is not None and session.scalar(recorded) is not None:
        raise Conflict(
            f"run {run_id} has losses under probe set {run.probe_set_id[:12]}…; a probe set is fixed for a run"
        )
    run.probe_set_id = probe_set_id
    session.flush()
    return run
