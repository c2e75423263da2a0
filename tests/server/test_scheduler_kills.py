"""Two real schedulers while one of them is killed: every due time has its firing, every checkpoint its one job."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from phasewatch.storage.database import Database
from phasewatch.storage.monitors import get_monitor, insert_firing
from phasewatch.storage.schema import utc_now
from tests.server.scheduler_kills import count, due_times, make_monitors, watch_schedulers


def test_a_killed_scheduler_leaves_nothing_undone_and_nothing_twice(postgresql_url: str, tmp_path: Path) -> None:
    database = Database(postgresql_url)
    found = watch_schedulers(database, tmp_path, seconds=10.0, kill_every_s=4.0, seed=0, tell=lambda text: None)
    database.close()
    assert found.is_well, found
    assert found.n_kills == 2
    assert found.n_jobs >= 4
    assert found.n_due >= 7


def test_what_is_lost_late_or_coalesced_is_counted(sqlite_database: Database) -> None:
    """A count that could not fail would prove nothing."""
    monitors = make_monitors(sqlite_database)[:1]
    until = utc_now() + timedelta(seconds=11)
    with sqlite_database.transaction() as session:
        monitor = get_monitor(session, monitors[0])
        due = due_times(monitor, until)
        assert [at - monitor.created_at for at in due] == [timedelta(seconds=n) for n in (2, 4, 6, 8, 10)]
        for at, coalesced in ((due[0], False), (due[2], True), (due[3] + timedelta(microseconds=1), False)):
            insert_firing(session, monitor.id, at, coalesced=coalesced)
    found = count(sqlite_database, monitors, until, n_kills=0, n_steps=3)
    assert (found.n_due, found.n_firings, found.coalesced, found.lost, found.unmade) == (5, 3, 1, 2, 3)
    assert not found.is_well
