"""Watches that tell instead of measuring: a run that fell silent, a run whose loss diverges.

Both look at the run again in the transaction that tells of it, so that nothing is told that is over by then.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any
from uuid import UUID

import numpy as np
import numpy.typing as npt
from sqlalchemy.orm import Session

from phasewatch.detection import PhaseChange, find_series_changes
from phasewatch.probes import DRAWN
from phasewatch.storage.alerts import Occurrence, raise_alert
from phasewatch.storage.artifacts import Artifacts
from phasewatch.storage.database import Database
from phasewatch.storage.losses import list_loss_slices
from phasewatch.storage.probe_sets import load_probe_set
from phasewatch.storage.runs import get_run
from phasewatch.storage.schema import utc_now
from phasewatch.storage.series import load_series
from server.jobs.work import Store, Work, job

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


@job("stale_run")
def stale_run(work: Work, database: Database, artifacts: Artifacts) -> Store:
    """Tells that a running run was not heard from for `after_s` seconds."""
    run_id, after = work.run(), timedelta(seconds=float(work.parameters["after_s"]))

    def store(session: Session) -> dict[str, Any]:
        run = get_run(session, run_id, lock=True)
        heard = run.heartbeat_at or run.started_at or run.created_at
        silent = utc_now() - heard
        stale = run.status == "running" and silent >= after
        if stale:
            told = {"last_heard": heard.isoformat(), "last_step": run.last_step, "silent_s": silent.total_seconds()}
            key = f"stale_run:{run_id.hex}:{heard.isoformat()}"
            title = f"{run.name} was not heard from for {silent.total_seconds():.0f} s"
            raise_alert(session, Occurrence("stale_run", run_id, key, title, told))
        return {"stale": stale, "last_heard": heard.isoformat(), "silent_s": silent.total_seconds()}

    return store


@job("divergence")
def divergence(work: Work, database: Database, artifacts: Artifacts) -> Store:
    """Tells of a loss that had fallen and rises again to stay.

    Looks at the logged series `series`, by default at the mean losses of each slice, and without these at `loss`.
    """
    run_id, segment, _ = work.checkpoint()
    wanted = work.parameters.get("series")
    with database.reading() as session:
        series = [] if wanted else list(_mean_losses(session, run_id))
        series = series or list(_logged(session, run_id, wanted or "loss"))
    found = {name: change for name, steps, values in series if (change := find_divergence(values, steps, name))}

    def store(session: Session) -> dict[str, Any]:
        run = get_run(session, run_id, lock=True)
        for name, change in found.items():
            told = {"series": name, "step": change.step, "effect": change.effect, "unit": change.unit}
            title = f"{run.name} diverges: {name} rose by {change.effect:.3g} {change.unit} at step {change.step}"
            raise_alert(
                session, Occurrence("divergence", run_id, f"divergence:{run_id.hex}:{segment}:{name}", title, told)
            )
        each = {name: {"step": change.step, "effect": change.effect} for name, change in found.items()}
        return {"series": [name for name, *_ in series], "diverged": each}

    return store


def find_divergence(values: FloatArray, steps: IntArray, name: str) -> PhaseChange | None:
    """The divergence of a loss in nats (n_steps,), NaN and infinities left out."""
    changes = find_series_changes(values, steps, unit="nats", name=name)
    return next((change for change in changes if change.kind == "divergence"), None)


def _mean_losses(session: Session, run_id: UUID) -> Iterator[tuple[str, IntArray, FloatArray]]:
    """(name, steps, mean loss) of every slice that was not drawn at random."""
    probe_set_id = get_run(session, run_id).probe_set_id
    slices = () if probe_set_id is None else load_probe_set(session, probe_set_id).slices
    for name in slices:
        rows = list_loss_slices(session, run_id, name) if name not in DRAWN else ()
        if rows:
            means = [np.nan if row.mean_nats is None else row.mean_nats for row in rows]
            yield f"mean_loss:{name}", np.array([row.step for row in rows]), np.array(means)


def _logged(session: Session, run_id: UUID, name: str) -> Iterator[tuple[str, IntArray, FloatArray]]:
    """(name, steps, values) of a metric, where it was logged."""
    for steps, values in load_series(session, run_id, [name]).values():
        yield name, np.array(steps), np.array(values)
