"""Training metrics: one number a name and step, such as loss, learning_rate or tokens_per_s."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import SupportsFloat
from uuid import UUID

from sqlalchemy import insert, select
from sqlalchemy.orm import Session

from phasewatch.errors import Conflict, InvalidInput
from phasewatch.storage.database import tables_of
from phasewatch.storage.limits import MAX_STEP, checked_name, checked_step
from phasewatch.storage.runs import get_run, get_segment, is_visible, note_step, visible_stretches
from phasewatch.storage.schema import SeriesValue


def put_series(
    session: Session, run_id: UUID, values: Mapping[int, Mapping[str, float]], *, segment: int | None = None
) -> int:
    """Stores metrics as step -> name -> value; how many were new. All or nothing.

    Raises Conflict where another value stands under the same name and step, InvalidInput for a step before the segment.
    """
    get_run(session, run_id, lock=True)
    row = get_segment(session, run_id, segment)
    wanted = {
        (checked_name("series name", name), checked_step(step, row.from_step, row.number)): _checked(name, value)
        for step, named in values.items()
        for name, value in named.items()
    }
    if not wanted:
        return 0
    stored = _stored(session, row.id, sorted(step for _, step in wanted))
    for key, value in wanted.items():
        if key in stored and stored[key] != value:
            raise Conflict(
                f"run {run_id} has {key[0]} = {stored[key]} at step {key[1]}; {value} was sent. "
                "Open a segment to record a resumed run"
            )
    new = [
        {"segment_id": row.id, "name": name, "step": step, "value": value}
        for (name, step), value in wanted.items()
        if (name, step) not in stored
    ]
    if new:
        session.execute(insert(SeriesValue), new)
        note_step(session, run_id, max(step for _, step in wanted))
    return len(new)


def _stored(session: Session, segment_id: int, steps: list[int]) -> dict[tuple[str, int], float | None]:
    query = select(SeriesValue.name, SeriesValue.step, SeriesValue.value).where(
        SeriesValue.segment_id == segment_id, SeriesValue.step.between(steps[0], steps[-1])
    )
    return {(name, step): value for name, step, value in session.execute(query)}


def _checked(name: str, value: SupportsFloat) -> float | None:
    """The value as a plain float (a NumPy float32 would reach SQLite as a blob), NaN as None."""
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise InvalidInput(f"series {name} has value {value!r}, which is not one number") from error
    return None if math.isnan(number) else number + 0.0  # SQLite has no negative zero


def list_series(session: Session, run_id: UUID) -> Sequence[str]:
    """Names of the run's visible metrics."""
    visible = is_visible(visible_stretches(session, run_id), SeriesValue.segment_id, SeriesValue.step)
    return session.scalars(select(SeriesValue.name).distinct().where(visible).order_by(SeriesValue.name)).all()


def load_series(
    session: Session,
    run_id: UUID,
    names: Iterable[str] | None = None,
    *,
    first: int = 0,
    last: int = MAX_STEP,
) -> dict[str, tuple[list[int], list[float]]]:
    """name -> (steps ascending, values) of the visible history from step `first` to `last`; NaN where it was logged."""
    visible = is_visible(visible_stretches(session, run_id), SeriesValue.segment_id, SeriesValue.step)
    (table,) = tables_of(SeriesValue)
    query = select(table.c.step, table.c.value).where(visible, table.c.step.between(first, last)).order_by(table.c.step)
    found: dict[str, tuple[list[int], list[float]]] = {}
    for name in list_series(session, run_id) if names is None else sorted(set(names)):
        # As the driver gives them, and without the name in each: a metric logged at every step has a hundred thousand
        rows = session.connection().execute(query.where(table.c.name == name)).cursor.fetchall()
        if rows:
            found[name] = [step for step, _ in rows], [math.nan if value is None else value for _, value in rows]
    return found
