"""Measurements in the database: scalars and arrays of one checkpoint, with chance level and interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import numpy as np
import numpy.typing as npt
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from phasewatch.errors import Conflict, InvalidInput, NotFound
from phasewatch.storage.codecs import pack, unpack
from phasewatch.storage.database import insert_if_absent
from phasewatch.storage.events import emit
from phasewatch.storage.limits import MAX_STEP, checked_name, checked_step
from phasewatch.storage.runs import get_run, get_segment, is_visible, note_step, visible_stretches
from phasewatch.storage.schema import MeasurementRow, utc_now

FloatArray = npt.NDArray[np.float64]
_VALUES = (MeasurementRow.payload, MeasurementRow.interval, MeasurementRow.chance)


@dataclass(frozen=True)
class StoredMeasurement:
    """values of any shape; interval (2, *shape) holds low and high; chance is one number for all of them."""

    version: int
    values: FloatArray
    chance: float | None = None
    interval: FloatArray | None = None


@dataclass(frozen=True)
class MeasureHistory:
    """One measure along the visible history: values (n_steps, *shape), interval (n_steps, 2, *shape) or None.

    chance (n_steps,) holds NaN where a step has none.
    """

    measure: str
    version: int
    steps: npt.NDArray[np.int64]
    values: FloatArray
    chance: FloatArray
    interval: FloatArray | None

    def at(self, indices: npt.NDArray[np.int64]) -> MeasureHistory:
        """The history of these of its steps."""
        interval = None if self.interval is None else self.interval[indices]
        kept = self.steps[indices], self.values[indices], self.chance[indices], interval
        return MeasureHistory(self.measure, self.version, *kept)


def put_measurements(
    session: Session,
    run_id: UUID,
    step: int,
    measurements: Mapping[str, StoredMeasurement],
    *,
    segment: int | None = None,
    source: str = "job",
) -> int:
    """Stores measures of one checkpoint; how many were new. Raises Conflict where other values stand."""
    get_run(session, run_id, lock=True)
    row = get_segment(session, run_id, segment)
    step = checked_step(step, row.from_step, row.number)
    new = 0
    for name, found in measurements.items():
        measure = checked_name("measure name", name)
        key = {"segment_id": row.id, "step": step, "measure": measure, "version": found.version}
        values = _columns(found)
        if insert_if_absent(session, MeasurementRow, key | values | {"source": source, "created_at": utc_now()}):
            new += 1
        elif source == "recorder":
            _check_same(session.get_one(MeasurementRow, tuple(key.values())), values, run_id)
    if new and source == "recorder":  # a job is no sign of life of the run
        note_step(session, run_id, step)
        emit(session, "measurement", run_id, {"step": step, "segment": row.number, "measures": sorted(measurements)})
    return new


def _columns(found: StoredMeasurement) -> dict[str, Any]:
    values = np.asarray(found.values, np.float64)
    if found.interval is not None and np.shape(found.interval) != (2, *values.shape):
        raise InvalidInput(f"interval has shape {np.shape(found.interval)}; values {values.shape} need (2, …) of it")
    return {
        "shape": list(values.shape),
        "payload": pack(values, "<f8"),
        "interval": None if found.interval is None else pack(found.interval, "<f8"),
        "chance": None if found.chance is None or np.isnan(found.chance) else float(found.chance),
    }


def _check_same(stored: MeasurementRow, sent: dict[str, Any], run_id: UUID) -> None:
    """Raises Conflict unless the stored row holds what was sent; NaN equals NaN."""
    same = stored.shape == sent["shape"] and stored.chance == sent["chance"]
    for old, new in ((stored.payload, sent["payload"]), (stored.interval, sent["interval"])):
        same = same and (old is None) == (new is None)
        if same and old is not None:
            same = np.array_equal(unpack(old, "<f8"), unpack(new, "<f8"), equal_nan=True)
    if not same:
        raise Conflict(
            f"run {run_id} has other values of {stored.measure} at step {stored.step}; "
            "open a segment to record a resumed run"
        )


def measured(session: Session, run_id: UUID, step: int) -> set[tuple[str, int]]:
    """(measure, version) pairs that the visible history holds at a step."""
    visible = is_visible(visible_stretches(session, run_id), MeasurementRow.segment_id, MeasurementRow.step)
    query = select(MeasurementRow.measure, MeasurementRow.version).where(visible, MeasurementRow.step == step)
    return {(measure, version) for measure, version in session.execute(query)}


def measured_values(session: Session, run_id: UUID, step: int, measure: str) -> FloatArray | None:
    """The visible values of a measure at a step, in its newest version; None where it was not measured."""
    visible = is_visible(visible_stretches(session, run_id), MeasurementRow.segment_id, MeasurementRow.step)
    query = select(MeasurementRow).where(visible, MeasurementRow.step == step, MeasurementRow.measure == measure)
    row = session.scalars(query.order_by(MeasurementRow.version.desc())).first()
    return None if row is None else unpack(row.payload, "<f8", tuple(row.shape)).copy()  # which may be written to


def list_measures(session: Session, run_id: UUID) -> Sequence[tuple[str, int, int, int]]:
    """(measure, version, number of steps, last step) of what the visible history holds."""
    visible = is_visible(visible_stretches(session, run_id), MeasurementRow.segment_id, MeasurementRow.step)
    keys = (MeasurementRow.measure, MeasurementRow.version)
    query = select(*keys, func.count(), func.max(MeasurementRow.step)).where(visible).group_by(*keys).order_by(*keys)
    return [(measure, version, count, last) for measure, version, count, last in session.execute(query)]


def load_measure(
    session: Session,
    run_id: UUID,
    measure: str,
    version: int | None = None,
    *,
    first: int = 0,
    last: int = MAX_STEP,
) -> MeasureHistory:
    """One measure's visible history from step `first` to `last`, in its newest version by default.

    A checkpoint whose values have another shape than the run's last one's (a model that grew) is left out. Raises
    NotFound naming what there is where the measure has no values at all.
    """
    visible = is_visible(visible_stretches(session, run_id), MeasurementRow.segment_id, MeasurementRow.step)
    of_measure = select(MeasurementRow.version, MeasurementRow.shape).where(visible, MeasurementRow.measure == measure)
    if version is not None:
        of_measure = of_measure.where(MeasurementRow.version == version)
    newest = session.execute(
        of_measure.order_by(MeasurementRow.version.desc(), MeasurementRow.step.desc()).limit(1)
    ).first()
    if newest is None and version is not None:
        raise NotFound(f"run {run_id} has no version {version} of measure {measure!r}")
    if newest is None:
        names = ", ".join(sorted({name for name, _, _, _ in list_measures(session, run_id)})) or "nothing yet"
        raise NotFound(f"run {run_id} has no measure {measure!r}; measured are: {names}")
    version, shape = newest.version, tuple(newest.shape)
    query = select(MeasurementRow.step, MeasurementRow.shape, *_VALUES).where(
        visible,
        MeasurementRow.measure == measure,
        MeasurementRow.version == version,
        MeasurementRow.step.between(first, last),
    )
    rows = [row for row in session.execute(query.order_by(MeasurementRow.step)) if tuple(row.shape) == shape]
    intervals = [unpack(row.interval, "<f8", (2, *shape)) for row in rows if row.interval is not None]
    return MeasureHistory(
        measure,
        version,
        np.array([row.step for row in rows], np.int64),
        np.stack([unpack(row.payload, "<f8", shape) for row in rows]) if rows else np.empty((0, *shape)),
        np.array([np.nan if row.chance is None else row.chance for row in rows]),
        np.stack(intervals) if rows and len(intervals) == len(rows) else None,
    )
