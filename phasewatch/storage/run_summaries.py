"""What a list of runs shows of each: a sparkline of its loss, its newest ICL score, the changes found.

Apart from runs.py because it reads the recordings: a page of runs costs a handful of queries, however many runs it has.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from uuid import UUID

import numpy as np
from sqlalchemy import select
from sqlalchemy.orm import Session

from phasewatch.probes import TEXT
from phasewatch.storage.codecs import unpack
from phasewatch.storage.runs import is_visible, visible_stretches
from phasewatch.storage.schema import LossSlice, MeasurementRow, PhaseChangeRow, Run, SeriesValue, SliceRow

ICL_SCORE = "icl_score"
LOSS = "loss"


@dataclass
class RunSummary:
    """loss_steps and loss_values (n,): held-out mean losses where there are any, else the training loss, in nats."""

    loss_steps: list[int] = field(default_factory=list)
    loss_values: list[float] = field(default_factory=list)
    icl_score: float | None = None
    n_changes: int = 0
    induction_step: int | None = None


def load_summaries(session: Session, runs: Sequence[Run]) -> dict[UUID, RunSummary]:
    """The summary of each run."""
    summaries = {run.id: RunSummary() for run in runs}
    _add_changes(session, summaries)
    texts = _text_slices(session, {run.probe_set_id for run in runs if run.probe_set_id is not None})
    for run in runs:
        summary = summaries[run.id]
        _add_losses(session, run.id, texts.get(run.probe_set_id or ""), summary)
        summary.icl_score = _newest_icl_score(session, run.id)
    return summaries


def _add_changes(session: Session, summaries: dict[UUID, RunSummary]) -> None:
    """Counts those that stand: neither withdrawn by a later scan nor dismissed by a person."""
    query = select(PhaseChangeRow.run_id, PhaseChangeRow.induction, PhaseChangeRow.step).where(
        PhaseChangeRow.run_id.in_(list(summaries)),
        PhaseChangeRow.state != "withdrawn",
        PhaseChangeRow.review.is_distinct_from("dismissed"),
    )
    for run_id, induction, step in session.execute(query.order_by(PhaseChangeRow.step.desc())):
        summaries[run_id].n_changes += 1
        if induction:
            summaries[run_id].induction_step = step


def _text_slices(session: Session, probe_sets: set[str]) -> dict[str, int]:
    """probe set -> id of its slice `text`, or of its first one where it has none of that name."""
    query = select(SliceRow.probe_set_id, SliceRow.id, SliceRow.name).where(SliceRow.probe_set_id.in_(list(probe_sets)))
    found: dict[str, int] = {}
    for probe_set, slice_id, name in session.execute(query.order_by(SliceRow.id)):
        if name == TEXT:
            found[probe_set] = slice_id
        found.setdefault(probe_set, slice_id)
    return found


def _add_losses(session: Session, run_id: UUID, slice_id: int | None, summary: RunSummary) -> None:
    stretches = visible_stretches(session, run_id)
    rows: Sequence[tuple[int, float | None]] = []
    if slice_id is not None:
        visible = is_visible(stretches, LossSlice.segment_id, LossSlice.step)
        means = select(LossSlice.step, LossSlice.mean_nats).where(LossSlice.slice_id == slice_id, visible)
        rows = [(step, mean) for step, mean in session.execute(means.order_by(LossSlice.step))]
    if not rows:
        visible = is_visible(stretches, SeriesValue.segment_id, SeriesValue.step)
        logged = select(SeriesValue.step, SeriesValue.value).where(SeriesValue.name == LOSS, visible)
        rows = [(step, value) for step, value in session.execute(logged.order_by(SeriesValue.step))]
    summary.loss_steps = [step for step, _ in rows]
    summary.loss_values = [np.nan if value is None else value for _, value in rows]


def _newest_icl_score(session: Session, run_id: UUID) -> float | None:
    visible = is_visible(visible_stretches(session, run_id), MeasurementRow.segment_id, MeasurementRow.step)
    query = select(MeasurementRow.payload).where(visible, MeasurementRow.measure == ICL_SCORE)
    newest = query.order_by(MeasurementRow.step.desc(), MeasurementRow.version.desc()).limit(1)
    payload = session.scalar(newest)
    value = np.nan if payload is None else float(unpack(payload, "<f8").mean())
    return value if np.isfinite(value) else None
