"""What GET /metrics says: this process's requests and ingest, and the state of queue, schedulers, runs and disks.

The state is read from the database, so it covers every worker and scheduler, at most once in `CACHE_S` seconds whoever
asks. Names and labels are relied on by monitoring/ and by users' own rules.
"""

from __future__ import annotations

import logging
import platform
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import get_args

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    Metric,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
from sqlalchemy import func, select, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

import phasewatch
from phasewatch.storage.artifacts import Artifacts
from phasewatch.storage.database import Database
from phasewatch.storage.deliveries import due_since
from phasewatch.storage.events import events_after, last_event_id
from phasewatch.storage.schema import (
    REVISION,
    AlertKind,
    AlertState,
    Firing,
    Job,
    Run,
    Scheduler,
    utc_now,
)
from server.disks import find_disks

CACHE_S = 5.0
LATE_WITHIN = timedelta(minutes=5)
LATE_FIRINGS = 100
EVENTS_AT_ONCE = 5_000
MAX_EVENTS = 100_000  # of one scrape; what is left comes with the next
REQUEST_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
ALERT_ENDS: tuple[AlertState, ...] = ("sent", "failed")
JOB_SECONDS = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1_800.0)

log = logging.getLogger(__name__)
disable_created_metrics()  # type: ignore[no-untyped-call]  # each counter's birth time, a series of its own


class Metrics:
    """The metrics of one application."""

    def __init__(self, database: Database, artifacts: Artifacts) -> None:
        self._registry = CollectorRegistry()
        self._requests = Histogram(
            "phasewatch_http_request_seconds",
            "Requests by how long it took until the answer began.",
            ("method", "route", "status"),
            registry=self._registry,
            buckets=REQUEST_SECONDS,
        )
        self._ingested = Counter(
            "phasewatch_ingested_values",
            "What clients sent and the database keeps, in this process: losses and series in values, and measurements.",
            ("what",),
            registry=self._registry,
        )
        for what in ("losses", "series", "measurements"):
            self._ingested.labels(what)
        self._registry.register(_State(database, artifacts, self._registry))
        ProcessCollector(registry=self._registry)

    def note_request(self, method: str, route: str, status: int, took_s: float) -> None:
        """Counts one request; `route` is its template, never its path."""
        self._requests.labels(method, route, str(status)).observe(took_s)

    def note_ingested(self, values: Mapping[str, int]) -> None:
        """Counts what an acknowledged request brought in."""
        for what, n_values in values.items():
            self._ingested.labels(what).inc(n_values)

    def text(self, accept: str) -> tuple[bytes, str]:
        """Everything, in the newest format that the Accept header takes, and the name of that format."""
        encode, content_type = choose_encoder(accept)
        return encode(self._registry), content_type


class _State(Collector):
    """What the database and the disks say, read when somebody asks and not more often than every few seconds."""

    def __init__(self, database: Database, artifacts: Artifacts, registry: CollectorRegistry) -> None:
        self._database, self._artifacts = database, artifacts
        self._lock = threading.Lock()
        self._read_at = float("-inf")
        self._families: list[Metric] = []
        self._last_event: int | None = None
        self._job_seconds = Histogram(
            "phasewatch_job_seconds",
            "Jobs that ended since this process began, on any machine, by how long their last attempt took.",
            ("kind", "state"),
            registry=registry,
            buckets=JOB_SECONDS,
        )
        self._alerts = Counter(
            "phasewatch_alerts",
            "Alerts that were sent or given up since this process began, by any sender.",
            ("kind", "state"),
            registry=registry,
        )
        for kind in get_args(AlertKind):
            for state in ALERT_ENDS:
                self._alerts.labels(kind, state)

    def describe(self) -> Iterable[Metric]:
        return []  # nothing is read from the database when the registry is put together

    def collect(self) -> Iterator[Metric]:
        with self._lock:
            if time.monotonic() - self._read_at >= CACHE_S:
                self._families = list(self._read())
                self._read_at = time.monotonic()
            families = self._families
        yield from families

    def _read(self) -> Iterator[Metric]:
        labels = {"version": phasewatch.__version__, "schema": REVISION, "python": platform.python_version()}
        labels["database"] = self._database.url.get_backend_name()
        yield _gauge("phasewatch_info", "What runs here.", tuple(labels), [(tuple(labels.values()), 1)])
        yield from self._disks()
        try:
            with self._database.reading() as session:
                found = list(_families(session, self._database))
                self._note_ended(session)
        except SQLAlchemyError as error:
            log.warning("metrics without the database's: %s", getattr(error, "orig", error))
            found = []
        yield _gauge("phasewatch_database_up", "1 where the database answers.", (), [((), float(bool(found)))])
        yield from found

    def _disks(self) -> Iterator[Metric]:
        disks = {what: disk for what, disk in find_disks(self._database, self._artifacts).items() if disk is not None}
        for name, help_text, values in (
            ("free", "Room left where this machine keeps data.", {what: d.free_bytes for what, d in disks.items()}),
            ("size", "Size of that disk.", {what: d.size_bytes for what, d in disks.items()}),
        ):
            rows = [((what,), float(value)) for what, value in values.items()]
            yield _gauge(f"phasewatch_disk_{name}_bytes", help_text, ("holds",), rows)

    def _note_ended(self, session: Session) -> None:
        """Reads on in the events: the end of a job or an alert is one, in the transaction that ended it."""
        if self._last_event is None:
            self._last_event = last_event_id(session)
        for _ in range(MAX_EVENTS // EVENTS_AT_ONCE):
            events = events_after(session, self._last_event, EVENTS_AT_ONCE)
            for event in events:
                if event.kind == "alert" and event.payload["state"] in ALERT_ENDS:
                    self._alerts.labels(event.payload["kind"], event.payload["state"]).inc()
            ended = [e.payload["job"] for e in events if e.kind == "job" and e.payload["state"] in ("done", "failed")]
            columns = (Job.kind, Job.state, Job.started_at, Job.finished_at)
            for start in range(0, len(ended), 500):
                for kind, state, started, finished in session.execute(
                    select(*columns).where(Job.id.in_(ended[start : start + 500]))
                ):
                    if started is not None and finished is not None:
                        self._job_seconds.labels(kind, state).observe((finished - started).total_seconds())
            if events:
                self._last_event = events[-1].id
            if len(events) < EVENTS_AT_ONCE:
                return


def _families(session: Session, database: Database) -> Iterator[Metric]:
    """The gauges that are read from the database."""
    now = utc_now()
    open_states = ("waiting", "running", "failed")  # not the done ones, of which there may be millions
    queue = select(Job.kind, Job.state, func.count(), func.min(Job.created_at)).where(Job.state.in_(open_states))
    rows = session.execute(queue.group_by(Job.kind, Job.state)).all()
    depth = [((kind, state), float(n_jobs)) for kind, state, n_jobs, _ in rows]
    yield _gauge("phasewatch_jobs", "Jobs that wait, run or have failed.", ("kind", "state"), depth)
    waits = [((kind,), _seconds(now, since)) for kind, state, _, since in rows if state == "waiting"]
    yield _gauge("phasewatch_oldest_waiting_job_seconds", "How long the oldest waits.", ("kind",), waits)
    ticks = session.execute(select(Scheduler.name, Scheduler.ticked_at)).all()
    ages = [((name,), _seconds(now, ticked_at)) for name, ticked_at in ticks]
    help_text = "Since a scheduler last ticked; one that stopped is remembered for a day."
    yield _gauge("phasewatch_scheduler_tick_age_seconds", help_text, ("scheduler",), ages)
    help_text = "By how much the latest firing of the last five minutes came late; 0 without any."
    yield _gauge("phasewatch_scheduler_lag_seconds", help_text, (), [((), _lag(session, now))])
    due = due_since(session, now)
    help_text = "How long the alert that has been due the longest waits to be sent; 0 without any."
    late_s = 0.0 if due is None else _seconds(now, due)
    yield _gauge("phasewatch_oldest_due_alert_seconds", help_text, (), [((), late_s)])
    runs = session.execute(select(Run.status, func.count()).group_by(Run.status)).all()
    by_status = [((status,), float(n_runs)) for status, n_runs in runs]
    yield _gauge("phasewatch_runs", "Runs by status.", ("status",), by_status)
    size = [((), float(_size_bytes(session, database)))]
    yield _gauge("phasewatch_database_size_bytes", "Size of the database on its disk.", (), size)


def _lag(session: Session, now: datetime) -> float:
    newest = select(Firing.scheduled_at, Firing.created_at).order_by(Firing.id.desc()).limit(LATE_FIRINGS)
    late = [_seconds(made, due) for due, made in session.execute(newest) if made > now - LATE_WITHIN]
    return max(late, default=0.0)


def _seconds(now: datetime, then: datetime) -> float:
    return (now - then).total_seconds()


def _size_bytes(session: Session, database: Database) -> int:
    if not database.is_sqlite:
        return session.scalar(text("SELECT pg_database_size(current_database())")) or 0
    files = [Path(f"{database.url.database}{suffix}") for suffix in ("", "-wal")]
    return sum(file.stat().st_size for file in files if file.exists())


def _gauge(name: str, help_text: str, labels: Sequence[str], rows: Sequence[tuple[Sequence[str], float]]) -> Metric:
    family = GaugeMetricFamily(name, help_text, labels=labels)
    for values, value in rows:
        family.add_metric(values, value)
    return family
