"""Says "now": once a second every enabled monitor that is due gets its firing and its jobs, in one transaction.

Any number of schedulers may tick on one database. The firing's row is unique, and only whoever inserts it makes the
jobs; what a scheduler remembers (how far it has looked) only spares it work. APScheduler gives clock and thread.
"""

from __future__ import annotations

import json
import logging
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.schedulers.background import BackgroundScheduler
from sqlalchemy.exc import IntegrityError

from phasewatch.storage.audit import trim_audit
from phasewatch.storage.database import Database
from phasewatch.storage.events import trim_events
from phasewatch.storage.jobs import enqueue, note_tick
from phasewatch.storage.monitors import insert_firing, last_firing, list_monitors, trim_firings
from phasewatch.storage.schema import Monitor, utc_now
from phasewatch.storage.sessions import trim_sessions
from server.monitors import KINDS, MAX_JOBS, find_jobs
from server.triggers import Due, next_firing

TICK_S = 1
MARGIN = timedelta(minutes=1)  # longest that a transaction may take between its clock reading and its commit
FULL_LOOK = timedelta(minutes=10)  # how often every run is looked at, whatever its activity
LONG_S = 0.2  # a look that took longer is followed by a rest `REST` times as long
REST = 10

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Look:
    """When a monitor last looked for work, and when at every run, finding no more than it could take.

    `rest_until`: a look that took long is not repeated at once.
    """

    at: datetime
    at_all: datetime | None
    rest_until: datetime


class Scheduler:
    """Ticks in a thread of its own between `start` and `stop`. `name` is what it goes by in the database."""

    def __init__(self, database: Database, name: str) -> None:
        self.name = name
        self._database = database
        self._looks: dict[str, _Look] = {}
        self._clock = BackgroundScheduler(timezone=UTC, executors={"default": ThreadPoolExecutor(1)})
        logging.getLogger("apscheduler").setLevel(logging.ERROR)  # it logs every tick, and every one that ran late

    def start(self) -> None:
        """Begins to tick; returns at once."""
        options = {"trigger": "interval", "max_instances": 1, "coalesce": True, "misfire_grace_time": None}
        now = utc_now()
        self._clock.add_job(self._try_tick, seconds=TICK_S, next_run_time=now, **options)
        self._clock.add_job(self._try_trim, hours=1, next_run_time=now + timedelta(seconds=30), **options)
        self._clock.start()

    def stop(self) -> None:
        """Ends after the tick under way."""
        self._clock.shutdown(wait=True)

    def tick(self, now: datetime | None = None) -> int:
        """Fires every monitor that is due at `now`; how many jobs that made.

        A monitor that cannot fire (its trigger cannot be read, or it was deleted at this moment) is logged and does not
        stop the others. Raises the database's error where it is out of reach.
        """
        now = now or utc_now()
        with self._database.transaction() as session:
            note_tick(session, self.name)
        with self._database.reading() as session:
            monitors = [(monitor, last_firing(session, monitor.id)) for monitor in list_monitors(session, enabled=True)]
        made = 0
        for monitor, last in sorted(monitors, key=lambda one: _rank(one[0])):
            try:
                due = next_firing(monitor.trigger, monitor.created_at, last, now)
                made += self._fire(monitor, due, now) if due is not None else 0
            except (ValueError, IntegrityError) as error:
                log.error("monitor %d (%s) cannot fire: %s", monitor.id, monitor.name, _first_line(error))
        return made

    def trim(self) -> None:
        """Removes what nobody asks for any more: events older than a day, and as old firings without jobs."""
        with self._database.transaction() as session:
            events, firings = trim_events(session), trim_firings(session)
            trim_audit(session)
            trim_sessions(session)
        log.info("trimmed %d events and %d empty firings", events, firings)

    def _fire(self, monitor: Monitor, due: Due, now: datetime) -> int:
        watch = _watch(monitor)
        look = self._looks.get(watch)
        if look is not None and due.only_with_work and now < look.rest_until:
            return 0
        begin = time.perf_counter()
        with self._database.reading() as session:
            fully = look is None or look.at_all is None or now - look.at_all >= FULL_LOOK
            jobs = find_jobs(session, monitor, None if fully or look is None else look.at - MARGIN, due.at)
        took_s = time.perf_counter() - begin
        made = 0
        if jobs or not due.only_with_work:
            with self._database.transaction() as session:
                firing = insert_firing(session, monitor.id, due.at, coalesced=due.coalesced)
                if firing is None:  # another scheduler was first; what it leaves undone is found next time
                    return 0
                made = sum(enqueue(session, job, firing) is not None for job in jobs)
        complete = len(jobs) < MAX_JOBS
        at_all = now if fully else look.at_all if look is not None else None
        rest_s = REST * took_s if took_s > LONG_S else 0.0
        self._looks[watch] = _Look(now, at_all if complete else None, now + timedelta(seconds=rest_s))
        return made

    def _try_tick(self) -> None:
        try:
            self.tick()
        except Exception as error:  # the database may be away; the next tick tries again
            log.warning("tick failed: %s", _first_line(error))

    def _try_trim(self) -> None:
        try:
            self.trim()
        except Exception as error:  # as above
            log.warning("trimming failed: %s", _first_line(error))


def _rank(monitor: Monitor) -> tuple[int, int]:
    return (KINDS.index(monitor.kind) if monitor.kind in KINDS else len(KINDS), monitor.id)


def _watch(monitor: Monitor) -> str:
    """What a monitor looks for: one that is edited looks at everything again."""
    return json.dumps([monitor.id, monitor.created_at.isoformat(), monitor.kind, monitor.selector, monitor.parameters])


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]
