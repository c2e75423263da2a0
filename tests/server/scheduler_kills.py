"""Two scheduler processes on one database while a random one is killed again and again; and what they made of it.

Shared by a short test and by the long run of bench/schedulers.py.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from sqlalchemy import select, update

from phasewatch.storage.artifacts import Artifacts
from phasewatch.storage.database import Database
from phasewatch.storage.monitors import create_monitor
from phasewatch.storage.schema import Firing, Job, Monitor, utc_now
from server.triggers import next_firing
from tests.server.small_run import SmallRun

ROOT = Path(__file__).parent.parent.parent
TRIGGERS: tuple[dict[str, object], ...] = ({"every_s": 2}, {"every_s": 5}, {"every_s": 7.5}, {"cron": "* * * * *"})
RECORD_EVERY_S = 2.0
START_S = 120.0


@dataclass(frozen=True)
class Outcome:
    """What two schedulers did. `lost`: due times that no firing stands for; `coalesced`: that a later one stands for.

    latest_s: the longest from a due time to the firing that stands for it. doubled: firings beyond one a due time, and
    jobs beyond one a checkpoint; unmade: checkpoints without their job.
    """

    n_kills: int
    n_due: int
    n_firings: int
    lost: int
    coalesced: int
    doubled: int
    unmade: int
    n_jobs: int
    latest_s: float

    @property
    def is_well(self) -> bool:
        return not (self.lost or self.doubled or self.unmade) and self.latest_s <= 10.0


class Schedulers:
    """Two processes of `python -m server scheduler`; one that is killed is started again at once."""

    def __init__(self, url: str, folder: Path) -> None:
        settings = {"PHASEWATCH_DATABASE_URL": url, "PHASEWATCH_ARTIFACTS_URL": str(folder / "artifacts")}
        self._environment = os.environ | settings | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        self._log = (folder / "schedulers.log").open("ab")
        self._running = [self._start(), self._start()]

    def _start(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "server", "scheduler"]
        return subprocess.Popen(command, env=self._environment, stdout=subprocess.PIPE, stderr=self._log)

    def wait(self) -> None:
        """Returns when both have said that they run."""
        for process in self._running:
            assert process.stdout is not None
            assert process.stdout.readline(), "a scheduler ended before it ran"

    def kill(self, which: int) -> None:
        """SIGKILL, and another in its place."""
        end(self._running[which])
        self._running[which] = self._start()

    def close(self) -> None:
        """Kills both."""
        for process in self._running:
            end(process)
        self._log.close()


def end(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert process.stdout is not None
    process.stdout.close()


def watch_schedulers(
    database: Database, folder: Path, *, seconds: float, kill_every_s: float, seed: int, tell: Callable[[str], None]
) -> Outcome:
    """Runs two schedulers for `seconds` on a migrated, empty database, records checkpoints meanwhile, and counts."""
    run = SmallRun.create(database, Artifacts(str(folder / "artifacts")))
    with database.transaction() as session:
        session.execute(update(Monitor).where(Monitor.kind != "score").values(enabled=False))
    schedulers = Schedulers(database.url.render_as_string(hide_password=False), folder)
    try:
        schedulers.wait()
        monitors = make_monitors(database)
        n_kills, n_steps = disturb(schedulers, run, seconds, kill_every_s, seed, tell)
        until = utc_now()
        time.sleep(10.0)  # the longest that a firing may take
    finally:
        schedulers.close()
    return count(database, monitors, until, n_kills, n_steps)


def make_monitors(database: Database) -> list[int]:
    """A monitor of each trigger, whose firings ask for nothing."""
    with database.transaction() as session:
        made = [
            create_monitor(
                session, name=str(trigger), kind="stale_run", selector={"all": True}, trigger=trigger,
                parameters={"after_s": 86_400},
            )
            for trigger in TRIGGERS
        ]  # fmt: skip
        return [monitor.id for monitor in made]


def disturb(
    schedulers: Schedulers, run: SmallRun, seconds: float, kill_every_s: float, seed: int, tell: Callable[[str], None]
) -> tuple[int, int]:
    """(kills, checkpoints recorded) in that time."""
    chosen = random.Random(seed)
    begin = time.monotonic()
    n_kills = n_steps = 0
    while (elapsed := time.monotonic() - begin) < seconds:
        if elapsed >= (n_kills + 1) * kill_every_s:
            which = chosen.randrange(2)
            schedulers.kill(which)
            n_kills += 1
            tell(f"{elapsed:.0f} s: killed scheduler {which}")
        if elapsed >= n_steps * RECORD_EVERY_S:
            run.record_losses(n_steps, None, "text")
            n_steps += 1
        time.sleep(0.05)
    return n_kills, n_steps


def due_times(monitor: Monitor, until: datetime) -> list[datetime]:
    """Every time at which a monitor was due, by asking each tenth of a second what was due last."""
    found: list[datetime] = []
    now = monitor.created_at
    while (now := now + timedelta(seconds=0.1)) <= until:
        due = next_firing(monitor.trigger, monitor.created_at, found[-1] if found else None, now)
        if due is not None:
            found.append(due.at)
    return found


def count(database: Database, monitors: list[int], until: datetime, n_kills: int, n_steps: int) -> Outcome:
    lost = coalesced = n_due = n_firings = doubled = 0
    latest = timedelta(0)
    with database.reading() as session:
        for monitor in session.scalars(select(Monitor).where(Monitor.id.in_(monitors))):
            fired = session.scalars(select(Firing).where(Firing.monitor_id == monitor.id).order_by(Firing.scheduled_at))
            by_time = Counter[datetime]()
            noticed = {}
            for firing in fired:
                by_time[firing.scheduled_at] += 1
                noticed[firing.scheduled_at] = firing
            n_firings, doubled = n_firings + by_time.total(), doubled + by_time.total() - len(by_time)
            for due in due_times(monitor, until):
                stands = next((noticed[at] for at in sorted(noticed) if at >= due), None)
                n_due += 1
                if stands is None or (stands.scheduled_at != due and not stands.coalesced):
                    lost += 1
                    continue
                coalesced += stands.scheduled_at != due
                latest = max(latest, stands.created_at - due)
        steps = Counter(session.scalars(select(Job.step).where(Job.kind == "score")))
    doubled += steps.total() - len(steps)
    unmade = n_steps - len(steps)
    return Outcome(n_kills, n_due, n_firings, lost, coalesced, doubled, unmade, steps.total(), latest.total_seconds())
