"""What tests do in other processes. Separate and small, because every such process imports this module anew."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from phasewatch.storage.database import Database, insert_if_absent
from phasewatch.storage.jobs import claim_jobs, finish_job
from phasewatch.storage.schema import Scheduler, utc_now

N_PROCESSES = 2
MEETING_S = 60.0


def meet(folder: str, name: str, n_guests: int = N_PROCESSES) -> None:
    """Returns when `n_guests` have come to the folder, so that they begin at once."""
    (Path(folder) / name).touch()
    deadline = time.monotonic() + MEETING_S
    while len(list(Path(folder).iterdir())) < n_guests:
        if time.monotonic() > deadline:
            raise TimeoutError(f"{n_guests} processes did not meet within {MEETING_S} s")
        time.sleep(0.005)


def write_rows(url: str, folder: str, process: str, n_threads: int, n_commits: int) -> int:
    """`n_threads` threads, each with an engine of its own, write a row in each of `n_commits` transactions."""

    def write(thread: int) -> int:
        database = Database(url)
        for number in range(n_commits):
            with database.transaction() as session:
                row = {"name": f"{process} {thread} {number}", "ticked_at": utc_now()}
                insert_if_absent(session, Scheduler, row)
        database.close()
        return n_commits

    meet(folder, process)
    with ThreadPoolExecutor(n_threads) as pool:
        return sum(pool.map(write, range(n_threads)))


def claim_all(url: str, folder: str, process: str, n_threads: int) -> list[int]:
    """Ids of the jobs that `n_threads` workers claimed and finished until the queue was empty."""
    meet(folder, process)
    with ThreadPoolExecutor(n_threads) as pool:
        owners = [f"{process} {thread}" for thread in range(n_threads)]
        return [job_id for own in pool.map(lambda owner: _claim(url, owner), owners) for job_id in own]


def _claim(url: str, owner: str) -> list[int]:
    database = Database(url)
    done: list[int] = []
    while True:
        with database.transaction() as session:
            claimed = [job.id for job in claim_jobs(session, owner, 3, lease_s=30.0)]
        if not claimed:
            database.close()
            return done
        for job_id in claimed:
            with database.transaction() as session:
                finish_job(session, job_id, owner)
        done += claimed


def migrate(url: str, folder: str, process: str) -> str | None:
    """The revision after bringing the database up to date together with another process."""
    from server.migrations import upgrade  # alembic is nothing to the other processes

    meet(folder, process)
    database = Database(url)
    upgrade(database)
    revision = database.schema_revision()
    database.close()
    return revision
