"""Hands out work: claims job rows up to the executor's free slots, keeps their leases, and records how they ended.

Apart from the executors, which know nothing of leases, and from the scheduler, which may run elsewhere. Any number of
dispatchers may serve one database; the rows decide who does what.
"""

from __future__ import annotations

import logging
import os
import secrets
import socket
import threading
import time
from concurrent.futures import Future

from sqlalchemy.exc import SQLAlchemyError

from phasewatch.storage.database import Database
from phasewatch.storage.jobs import (
    NO_LIMITS,
    Limits,
    claim_jobs,
    extend_leases,
    fail_attempt,
    give_back_jobs,
    has_claimable,
)
from server.executors import Executor
from server.jobs import Failure, Work

LEASE_S = 60.0
POLL_S = 0.3
AWAY_S = 2.0  # pause after the database did not answer
GRACE_S = 2.0  # how long a stop waits for jobs that are nearly done

log = logging.getLogger(__name__)


def owner_name(role: str) -> str:
    """A name that no other process ever has, and a person can find the process by."""
    return f"{role}@{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(3)}"


class Dispatcher:
    """Works in two threads between `start` and `stop`: one claims and records, one keeps the leases.

    limits: by kind how many jobs may run at once, of all workers of the database. watch_root: the folder below which
    checkpoints of foreign trainers are looked for.
    """

    def __init__(
        self,
        database: Database,
        executor: Executor,
        *,
        limits: Limits = NO_LIMITS,
        watch_root: str | None = None,
        lease_s: float = LEASE_S,
        poll_s: float = POLL_S,
    ) -> None:
        self.owner = owner_name("worker")
        self._database, self._executor = database, executor
        self._watch_root = watch_root
        self._limits, self._lease_s, self._poll_s = limits, lease_s, poll_s
        self._running: dict[Future[Failure | None], Work] = {}
        self._stopping = threading.Event()
        self._news = threading.Event()  # a job ended, or it is time to stop
        self._threads = [threading.Thread(target=each, daemon=True) for each in (self._dispatch, self._keep_leases)]

    def start(self) -> None:
        """Begins to work; returns at once."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Claims nothing more, waits a moment for what is nearly done, and gives the rest back to others."""
        self._stopping.set()
        self._news.set()
        for thread in self._threads:
            thread.join()
        deadline = time.monotonic() + GRACE_S
        while self._running and time.monotonic() < deadline:
            self._news.wait(0.05)
            self._record_ended()
        self._executor.close()
        try:
            with self._database.transaction() as session:
                give_back_jobs(session, self.owner)
        except SQLAlchemyError as error:
            log.warning("jobs could not be given back (%s); others take them over in %g s", error, self._lease_s)

    @property
    def is_busy(self) -> bool:
        """True while a job is being done, given back or not."""
        return any(not future.done() for future in self._running)

    def _dispatch(self) -> None:
        while not self._stopping.is_set():
            self._news.clear()
            pause = self._poll_s
            try:
                self._record_ended()
                self._claim()
            except Exception as error:  # the database may be away; whatever it is, the next round tries again
                log.warning("no work could be handed out, trying again: %s", str(error).splitlines()[0])
                pause = AWAY_S
            self._news.wait(pause)

    def _record_ended(self) -> None:
        """Records failed attempts (a job that succeeded has stored its own end) and forgets what ended."""
        for future, work in [(future, work) for future, work in self._running.items() if future.done()]:
            failure = _failure_of(future)
            if failure is not None and not self._stopping.is_set():
                with self._database.transaction() as session:
                    fail_attempt(session, work.job_id, self.owner, failure.error, failure.traceback)
            del self._running[future]

    def _claim(self) -> None:
        free = self._executor.slots - len(self._running)
        if free <= 0:
            return
        with self._database.reading() as session:
            if not has_claimable(session, self._limits):
                return
        with self._database.transaction() as session:
            rows = claim_jobs(session, self.owner, free, self._lease_s, self._limits)
            claimed = [Work.from_row(row, self.owner, self._watch_root) for row in rows]
        for work in claimed:
            future = self._executor.submit(work)
            self._running[future] = work
            future.add_done_callback(lambda _: self._news.set())

    def _keep_leases(self) -> None:
        while not self._stopping.wait(self._lease_s / 4):
            held = [work.job_id for work in list(self._running.values())]
            if not held:
                continue
            try:
                with self._database.transaction() as session:
                    extend_leases(session, self.owner, held, self._lease_s)
            except Exception as error:  # a thread that ended here would cost every long job its lease
                log.warning("leases of %d jobs could not be kept: %s", len(held), str(error).splitlines()[0])


def _failure_of(future: Future[Failure | None]) -> Failure | None:
    """How an ended job failed; an executor that could not even start it raises."""
    if future.cancelled():
        return Failure("the worker stopped before it began this job")
    raised = future.exception()
    return future.result() if raised is None else Failure.of(raised)
