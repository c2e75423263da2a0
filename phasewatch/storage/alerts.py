"""Alerts in the database: raised in the transaction of what they tell of, once for each channel that wants to know.

Nothing is sent here. An alert's row is its place in the queue; whoever sends holds it under a lease (claim_messages).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from phasewatch.ids import new_id
from phasewatch.storage.alert_rules import Occurrence as Occurrence
from phasewatch.storage.alert_rules import QuietHours, Rules
from phasewatch.storage.database import insert_if_absent
from phasewatch.storage.events import emit
from phasewatch.storage.limits import checked_json
from phasewatch.storage.schema import Alert, Channel, Job, PhaseChangeRow, Run, utc_now

ERROR_LENGTH = 300


def raise_alert(session: Session, occurrence: Occurrence) -> int:
    """Makes an alert for each enabled channel whose rules match, unless it was told already; how many.

    Everything is in the caller's transaction: no alert tells of something that was rolled back.
    """
    channels = session.scalars(select(Channel).where(Channel.enabled).order_by(Channel.id)).all()
    if not channels:
        return 0
    run = None if occurrence.run_id is None else session.get(Run, occurrence.run_id)
    tags = [] if run is None else run.tags
    matching = [one for one in channels if Rules.model_validate(one.rules).match(occurrence, tags)]
    if occurrence.state == "withdrawn":
        matching = [one for one in matching if _was_told(session, one, occurrence)]
    return sum(_insert(session, channel, occurrence, run) for channel in matching)


def _insert(session: Session, channel: Channel, occurrence: Occurrence, run: Run | None) -> bool:
    now = utc_now()
    quiet = None if channel.quiet_hours is None else QuietHours.model_validate(channel.quiet_hours)
    held_until = None if quiet is None else quiet.end_of(now)
    about = {} if run is None else {"run": str(run.id), "run_name": run.name}
    values: dict[str, Any] = {
        "channel_id": channel.id,
        "key": occurrence.key,
        "kind": occurrence.kind,
        "run_id": occurrence.run_id,
        "phase_change_id": occurrence.phase_change_id,
        "title": occurrence.title,
        "payload": checked_json("payload", about | occurrence.payload),
        "state": "waiting",
        "delivery_id": new_id(),
        "held_until": held_until,
        "not_before": held_until or now,
        "attempts": 0,
        "created_at": now,
    }
    if not insert_if_absent(session, Alert, values):
        return False
    told = {"channel": channel.id, "kind": occurrence.kind, "state": "waiting", "title": occurrence.title}
    emit(session, "alert", occurrence.run_id, told)
    return True


def _was_told(session: Session, channel: Channel, withdrawn: Occurrence) -> bool:
    known = select(Alert.id).where(
        Alert.channel_id == channel.id, Alert.phase_change_id == withdrawn.phase_change_id, Alert.key != withdrawn.key
    )
    return session.scalar(known.limit(1)) is not None


# What raises them here.


def raise_for_changes(session: Session, rows: Sequence[tuple[PhaseChangeRow, str]]) -> int:
    """Alerts for phase changes that are new or otherwise now, each with its explanation; how many were made.

    A change is told once a channel, at the first state that the channel's rules name, and once more when it is
    withdrawn. One that a person dismissed is not told.
    """
    session.flush()  # an alert refers to the change's row
    wanted = [(row, text) for row, text in rows if row.review != "dismissed"]
    return sum(raise_alert(session, _of_change(session, row, text)) for row, text in wanted)


def _of_change(session: Session, row: PhaseChangeRow, explanation: str) -> Occurrence:
    run = session.get_one(Run, row.run_id)
    what = "Induction change" if row.induction else f"Phase change ({row.kind})"
    withdrawn = row.state == "withdrawn"
    moved = "" if row.induction else f": {row.measure} {row.direction}"
    title = f"{'Withdrawn: ' if withdrawn else ''}{what} in {run.name}{moved} at step {row.step}"
    names = ("measure", "kind", "direction", "induction", "start_step", "step", "end_step", "unit")
    payload = {"phase_change": str(row.id), "state": row.state, **{name: getattr(row, name) for name in names}}
    payload |= {"effect": _finite(row.effect), "q_value": _finite(row.q_value)}
    return Occurrence(
        kind="phase_change",
        run_id=row.run_id,
        key=f"phase_change:{row.id.hex}" + (":withdrawn" if withdrawn else ""),
        title=title,
        payload=payload | {"explanation": explanation},
        phase_change_id=row.id,
        change_kind=row.kind,
        induction=row.induction,
        effect=row.effect,
        q_value=row.q_value,
        state=row.state,
    )


def _finite(number: float | None) -> float | None:
    return number if number is not None and math.isfinite(number) else None


def raise_for_failed_job(session: Session, job: Job) -> int:
    """Alerts for a job that has failed; how many were made.

    Of the jobs of one kind and run one an hour is told: weights that cannot be read fail every checkpoint's job.
    """
    hour = utc_now().strftime("%Y-%m-%dT%H")
    about = "the service" if job.run_id is None else job.run_id.hex
    error = (job.error or "").partition("\n")[0][:ERROR_LENGTH]
    run = None if job.run_id is None else session.get(Run, job.run_id)
    of = "" if run is None else f" of {run.name}"
    payload = {"job": job.id, "job_kind": job.kind, "step": job.step, "attempts": job.attempts, "error": error}
    return raise_alert(
        session,
        Occurrence(
            kind="job_failed",
            run_id=job.run_id,
            key=f"job_failed:{job.kind}:{about}:{hour}",
            title=f"Job {job.id} ({job.kind}){of} failed",
            payload=payload,
        ),
    )
