"""What monitors find to do: checkpoints without their score, runs whose measurements no scan has seen, silent runs.

Apart from jobs.py, which keeps the queue, because these queries read everything else. Each is one statement over all
runs it is given, never one a run; selection.py keeps them to the runs that something happened to.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, String, Subquery, and_, case, cast, exists, func, literal, or_, select, union_all
from sqlalchemy.orm import Session, aliased

from phasewatch.storage.limits import MAX_STEP
from phasewatch.storage.schema import ENDED, Checkpoint, Job, LossSlice, MeasurementRow, Run, Segment

MAX_NAMED = 1_000  # runs named one by one in a statement; beyond, it is asked of all


@dataclass(frozen=True)
class Unscored:
    """A checkpoint to score. `key` names the run, segment and step, the fingerprint, and what there was to score."""

    run_id: UUID
    segment: int
    step: int
    key: str


def unscored_checkpoints(
    session: Session, fingerprint: str, *, runs: Collection[UUID] | None, model_kind: str, limit: int
) -> Sequence[Unscored]:
    """Visible checkpoints with losses, or weights of a model of `model_kind`, whose score job is missing; by step.

    What arrives later at a step (another slice's losses, the weights) changes the key, so that it is scored as well.
    runs: None for all.
    """
    inputs, ends = _inputs(runs, model_kind), segment_ends()
    weights = case((inputs.c.weights == 1, "w"), else_="")
    key = (
        literal("score:")
        + func.replace(cast(Segment.run_id, String), "-", "")
        + literal(":")
        + cast(Segment.number, String)
        + literal(":")
        + cast(inputs.c.step, String)
        + literal(f":{fingerprint}-")
        + cast(inputs.c.slices, String)
        + weights
    )
    query = (
        select(Segment.run_id, Segment.number, inputs.c.step, key)
        .join(inputs, inputs.c.segment_id == Segment.id)
        .join(Run, Run.id == Segment.run_id)
        .join(ends, ends.c.id == Segment.id)
        .where(Run.probe_set_id.is_not(None), inputs.c.step < ends.c.end, ~exists().where(Job.key == key))
        .order_by(inputs.c.step, Segment.id)
        .limit(limit)
    )
    return [Unscored(*row) for row in session.execute(query)]


def _inputs(runs: Collection[UUID] | None, model_kind: str) -> Subquery:
    """(segment_id, step) with the number of loss slices, and 1 where there are weights of a model of `model_kind`."""
    losses = select(
        LossSlice.segment_id, LossSlice.step, literal(1).label("slices"), literal(0).label("weights")
    ).where(_in_runs(LossSlice.segment_id, runs))
    weights = select(Checkpoint.segment_id, Checkpoint.step, literal(0), literal(1)).where(
        Checkpoint.artifact_url.is_not(None),
        Checkpoint.model["kind"].as_string() == model_kind,
        _in_runs(Checkpoint.segment_id, runs),
    )
    each = union_all(losses, weights).subquery()
    return (
        select(
            each.c.segment_id,
            each.c.step,
            func.sum(each.c.slices).label("slices"),
            func.max(each.c.weights).label("weights"),
        )
        .group_by(each.c.segment_id, each.c.step)
        .subquery()
    )


def _named(runs: Collection[UUID] | None) -> ColumnElement[bool]:
    return literal(True) if runs is None or len(runs) > MAX_NAMED else Run.id.in_(runs)


def _in_runs(segment_column: Any, runs: Collection[UUID] | None) -> ColumnElement[bool]:
    if runs is None or len(runs) > MAX_NAMED:
        return literal(True)
    named: ColumnElement[bool] = segment_column.in_(select(Segment.id).where(Segment.run_id.in_(runs)))
    return named


def segment_ends() -> Subquery:
    """(id, end) of every segment: the first step that a later segment of the same run hides."""
    later = aliased(Segment)
    end = func.coalesce(func.min(later.from_step), MAX_STEP + 1)
    return (
        select(Segment.id, end.label("end"))
        .outerjoin(later, and_(later.run_id == Segment.run_id, later.number > Segment.number))
        .group_by(Segment.id)
        .subquery()
    )


@dataclass(frozen=True)
class ScannedState:
    """What the newest scan of a run was asked for."""

    segment: int
    parameters: dict[str, Any]


@dataclass(frozen=True)
class RunState:
    """What a scan of a run would see: its newest segment, the last step measured, and how many measurements.

    `scoring`, `scanning`: a job of that kind waits or runs.
    """

    run_id: UUID
    ended: bool
    segment: int
    last_step: int
    n_measurements: int
    scoring: bool
    scanning: bool
    last_scan: ScannedState | None


def measured_runs(session: Session, runs: Collection[UUID] | None, *, ignored: Collection[str] = ()) -> list[RunState]:
    """The state of every run that has measurements, of those given (None: all).

    ignored: measures that no scan reads, with whatever parameters; they do not count.
    """
    query = (
        select(Run.id, Run.status, Segment.number, Segment.from_step, func.count(MeasurementRow.step))
        .add_columns(func.max(MeasurementRow.step))
        .join(Segment, Segment.run_id == Run.id)
        .outerjoin(MeasurementRow, and_(MeasurementRow.segment_id == Segment.id, *map(_is_not_of, ignored)))
        .where(Run.probe_set_id.is_not(None), _named(runs))
        .group_by(Run.id, Run.status, Segment.number, Segment.from_step)
        .order_by(Run.id, Segment.number.desc())
    )
    open_jobs = {
        (run_id, kind)
        for run_id, kind in session.execute(
            select(Job.run_id, Job.kind).where(Job.state.in_(("waiting", "running"))).distinct()
        )
    }
    scans = _last_scans(session, runs)
    found: dict[UUID, RunState] = {}
    for run_id, stretches in _by_run(session.execute(query).all()).items():
        last = _last_visible(stretches)
        if last is not None:
            found[run_id] = RunState(
                run_id=run_id,
                ended=stretches[0].status in ENDED,
                segment=stretches[0].number,
                last_step=last,
                n_measurements=sum(stretch.count for stretch in stretches),
                scoring=(run_id, "score") in open_jobs,
                scanning=(run_id, "scan") in open_jobs,
                last_scan=scans.get(run_id),
            )
    return list(found.values())


def _is_not_of(measure: str) -> ColumnElement[bool]:
    named = MeasurementRow.measure
    return and_(named != measure, ~named.startswith(f"{measure}:", autoescape=True))


@dataclass(frozen=True)
class _Stretch:
    status: str
    number: int
    from_step: int
    count: int
    last: int | None


def _by_run(rows: Sequence[Any]) -> dict[UUID, list[_Stretch]]:
    """Segments newest first, by run."""
    found: dict[UUID, list[_Stretch]] = {}
    for run_id, *stretch in rows:
        found.setdefault(run_id, []).append(_Stretch(*stretch))
    return found


def _last_visible(stretches: Sequence[_Stretch]) -> int | None:
    """The last step that measurements of these segments (newest first) can show; None without any."""
    end: int | None = None
    for stretch in stretches:
        if stretch.last is not None and (end is None or stretch.from_step < end):
            return stretch.last if end is None else min(stretch.last, end - 1)
        end = stretch.from_step if end is None else min(end, stretch.from_step)
    return None


def _last_scans(session: Session, runs: Collection[UUID] | None) -> dict[UUID, ScannedState]:
    named = literal(True) if runs is None or len(runs) > MAX_NAMED else Job.run_id.in_(runs)
    newest = select(func.max(Job.id)).where(Job.kind == "scan", Job.run_id.is_not(None), named).group_by(Job.run_id)
    query = select(Job.run_id, Job.segment, Job.parameters).where(Job.id.in_(newest))
    return {
        run_id: ScannedState(segment or 0, parameters)
        for run_id, segment, parameters in session.execute(query)
        if run_id is not None
    }


# Runs to be told of.


def silent_runs(session: Session, runs: Collection[UUID] | None, before: datetime) -> list[tuple[UUID, datetime]]:
    """(run, when it was last heard from) of every running run that was not heard from since `before`."""
    heard = func.coalesce(Run.heartbeat_at, Run.started_at, Run.created_at, type_=Run.created_at.type)
    query = select(Run.id, heard).where(Run.status == "running", heard < before, _named(runs)).order_by(Run.id)
    return [(run_id, at) for run_id, at in session.execute(query) if runs is None or run_id in runs]


def reached_steps(
    session: Session, runs: Collection[UUID] | None, ended_after: datetime
) -> list[tuple[UUID, int, int]]:
    """(run, newest segment, last step) of every run that anything is recorded of, unless it ended before that time."""
    query = (
        select(Run.id, func.max(Segment.number), Run.last_step)
        .join(Segment, Segment.run_id == Run.id)
        .where(Run.last_step.is_not(None), _named(runs), or_(Run.finished_at.is_(None), Run.finished_at >= ended_after))
        .group_by(Run.id, Run.last_step)
        .order_by(Run.id)
    )
    found = [(run_id, segment, step) for run_id, segment, step in session.execute(query) if step is not None]
    return [one for one in found if runs is None or one[0] in runs]
