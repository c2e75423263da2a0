"""What each kind of monitor finds to do, and firing one by hand.

Apart from the scheduler, which only brings the time and the transaction, and from triggers.py, which says when.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy.orm import Session

from phasewatch.errors import InvalidInput
from phasewatch.storage.candidates import (
    RunState,
    measured_runs,
    reached_steps,
    silent_runs,
    unscored_checkpoints,
)
from phasewatch.storage.flagged import flagged_checkpoints
from phasewatch.storage.jobs import NewJob, enqueue, has_open_key, known_keys
from phasewatch.storage.monitors import get_monitor, insert_firing
from phasewatch.storage.schema import Monitor, utc_now
from phasewatch.storage.selection import select_runs
from server.jobs import checkpoint, measure, scan, score

MAX_JOBS = 500  # of one firing; the rest comes with the next
SCAN_GROWTH = 1.05  # how much more must be measured before a growing run is scanned again
AHEAD = 1  # priority: before scores, because somebody waits to be told


@dataclass(frozen=True)
class Asking:
    """A monitor that is due at `at`, and the runs it is to look at; None for all there are."""

    monitor: Monitor
    runs: Collection[UUID] | None
    at: datetime

    @property
    def parameters(self) -> dict[str, Any]:
        return self.monitor.parameters


def find_jobs(session: Session, monitor: Monitor, since: datetime | None, at: datetime | None = None) -> list[NewJob]:
    """The jobs a monitor asks for now, at most `MAX_JOBS`.

    since: look only at runs that something happened to from then on, where that is all that can make work; None for
    all. at: the time it fires for. Raises InvalidInput for an unknown kind or selector.
    """
    kind = _KINDS.get(monitor.kind)
    if kind is None:
        raise InvalidInput(f"monitor {monitor.id} has kind {monitor.kind!r}; known are {', '.join(sorted(_KINDS))}")
    runs = select_runs(session, monitor.selector, since if kind.of_active else None)
    if runs is not None and not runs:
        return []
    return kind.find(session, Asking(monitor, runs, at or utc_now()))[:MAX_JOBS]


def fire(session: Session, monitor_id: int) -> tuple[int, list[int]]:
    """Fires a monitor now, on or off: the firing's id, and those of the jobs it made. Raises NotFound."""
    monitor = get_monitor(session, monitor_id, lock=True)
    firing, at = None, utc_now()
    while firing is None:
        firing = insert_firing(session, monitor.id, at)
        at += timedelta(microseconds=1)  # somebody was as quick
    made = (enqueue(session, job, firing) for job in find_jobs(session, monitor, None, at))
    return firing, [job_id for job_id in made if job_id is not None]


def _score_jobs(session: Session, asking: Asking) -> list[NewJob]:
    """Every visible checkpoint that has no job for what there is of it."""
    found = unscored_checkpoints(
        session,
        score.fingerprint(asking.parameters),
        runs=asking.runs,
        model_kind=checkpoint.MODEL_KIND,
        limit=MAX_JOBS,
    )
    return [NewJob(one.key, "score", one.run_id, one.segment, one.step, dict(asking.parameters)) for one in found]


def _scan_jobs(session: Session, asking: Asking) -> list[NewJob]:
    """Every run with enough that its last scan has not seen."""
    parameters, detector = asking.parameters, scan.fingerprint(asking.parameters)
    states = measured_runs(session, asking.runs, ignored=scan.ignored_measures())
    return [scan_job(state, parameters, detector) for state in states if is_scan_due(state, detector)]


def is_scan_due(state: RunState, detector: str) -> bool:
    """True where a scan would see more than the last one, and none is under way.

    A growing run is scanned again once a twentieth more is measured, so that scans of a long run do not crowd out its
    scores; an ended one once its scores are done, whatever the difference. Another segment or detector is always news.
    """
    if state.scanning or (state.ended and state.scoring):
        return False
    last = state.last_scan
    if last is None:
        return True
    seen = int(last.parameters.get("measurements", 0))
    if last.segment != state.segment or last.parameters.get("detector") != detector:
        return True
    if state.ended:
        return not last.parameters.get("ended") or seen != state.n_measurements
    return state.n_measurements > SCAN_GROWTH * seen


def scan_job(state: RunState, parameters: Mapping[str, Any], detector: str) -> NewJob:
    """The scan of a run as it is now; its parameters say what it was asked to see."""
    kind = "final" if state.ended else "live"
    key = f"scan:{state.run_id.hex}:{state.segment}:{state.last_step}:{detector}-{kind}{state.n_measurements}"
    seen = {"measurements": state.n_measurements, "detector": detector, "ended": state.ended}
    return NewJob(key, "scan", state.run_id, state.segment, state.last_step, dict(parameters) | seen)


def _change_jobs(session: Session, asking: Asking) -> list[NewJob]:
    """Every checkpoint before, at and after a confirmed change, for what was not asked of it yet."""
    found = flagged_checkpoints(session, asking.runs, model_kind=checkpoint.MODEL_KIND)
    asked = (
        measure.measure_job(
            measure.ON_CHANGE, one.run_id, one.segment, one.step, measure.names_at_change(one.heads), measure.BEHIND
        )
        for one in found
    )
    return _unknown(session, asked)


def _silence_jobs(session: Session, asking: Asking) -> list[NewJob]:
    """Every running run that has been silent for too long; once for each time it fell silent."""
    silent = silent_runs(session, asking.runs, asking.at - timedelta(seconds=asking.parameters["after_s"]))
    told = _digest(asking.parameters)
    return _unknown(
        session,
        (
            NewJob(
                f"stale_run:{run_id.hex}:{heard.isoformat()}:{told}",
                "stale_run", run_id, parameters=dict(asking.parameters), priority=AHEAD,
            )
            for run_id, heard in silent
        ),
    )  # fmt: skip


def _divergence_jobs(session: Session, asking: Asking) -> list[NewJob]:
    """Every run that has come further since it was last looked at, but none that was over before the monitor was."""
    told = _digest(asking.parameters)
    return _unknown(
        session,
        (
            NewJob(
                f"divergence:{run_id.hex}:{segment}:{step}:{told}",
                "divergence", run_id, segment, step, dict(asking.parameters), AHEAD,
            )
            for run_id, segment, step in reached_steps(session, asking.runs, asking.monitor.created_at)
        ),
    )  # fmt: skip


def _one_job(session: Session, asking: Asking) -> list[NewJob]:
    """One job for all selected runs together, every time; with "each checkpoint" once for every state of them.

    None while the last one is not done: where jobs take longer than the interval, they would pile up.
    """
    monitor = asking.monitor
    of_monitor = f"{monitor.kind}:{monitor.id}:{monitor.created_at.isoformat()}"
    if has_open_key(session, f"{of_monitor}:"):
        return []
    state = asking.at.isoformat()
    if monitor.trigger.get("each_checkpoint"):
        reached = reached_steps(session, asking.runs, datetime.min.replace(tzinfo=asking.at.tzinfo))
        state = _digest([[run_id.hex, *where] for run_id, *where in reached])
    of_run = select_runs(session, monitor.selector) if "run" in monitor.selector else None
    job = NewJob(
        f"{of_monitor}:{state}",
        monitor.kind,
        next(iter(of_run)) if of_run else None,
        parameters=monitor.parameters | {"selector": monitor.selector},
        priority=measure.BEHIND,
    )
    return _unknown(session, [job])


def _unknown(session: Session, jobs: Iterable[NewJob]) -> list[NewJob]:
    """Those of the jobs whose work nobody asked for yet, each once."""
    asked = {job.key: job for job in jobs}
    known = known_keys(session, asked)
    return [job for key, job in asked.items() if key not in known]


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]


@dataclass(frozen=True)
class _Kind:
    """How a kind finds its jobs. `of_active`: only runs that something happened to can make work for it."""

    find: Callable[[Session, Asking], list[NewJob]]
    of_active: bool = True


_KINDS = {
    "score": _Kind(_score_jobs),
    "scan": _Kind(_scan_jobs),
    "ablate_on_change": _Kind(_change_jobs),
    "divergence": _Kind(_divergence_jobs),
    "stale_run": _Kind(_silence_jobs, of_active=False),
    "compare": _Kind(_one_job, of_active=False),
    "watch_folder": _Kind(_one_job, of_active=False),
    "retention": _Kind(_one_job, of_active=False),
}
KINDS = tuple(_KINDS)
"""In the order in which a tick looks at them: a run's scan waits for its score jobs, so these come first."""
