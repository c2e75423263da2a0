"""What a job is to whoever does it: a `Work` that travels to any process, and the registry of what each kind does.

A body loads and computes outside any transaction and returns a function that stores. That function and `finish_job` run
in one transaction, which fails where the lease has gone to another worker: work done twice takes effect once.
"""

from __future__ import annotations

import logging
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self
from uuid import UUID

from sqlalchemy.orm import Session

from phasewatch.errors import Conflict, InvalidInput, NotFound
from phasewatch.storage.artifacts import Artifacts
from phasewatch.storage.database import Database
from phasewatch.storage.jobs import finish_job, note_progress
from phasewatch.storage.schema import Job
from server.logs import doing_job

MAX_TRACEBACK_LINES = 100
MAX_ERROR = 10_000  # characters

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Work:
    """One claimed job: its row's content, the `owner` that holds its lease, and where it may watch folders."""

    job_id: int
    kind: str
    owner: str
    run_id: UUID | None = None
    segment: int | None = None
    step: int | None = None
    parameters: dict[str, Any] = field(default_factory=dict)
    watch_root: str | None = None

    @classmethod
    def from_row(cls, job: Job, owner: str, watch_root: str | None = None) -> Self:
        """The work that a claimed row asks for."""
        return cls(job.id, job.kind, owner, job.run_id, job.segment, job.step, dict(job.parameters), watch_root)

    def run(self) -> UUID:
        """The run. Raises InvalidInput for a job that names none."""
        if self.run_id is None:
            raise InvalidInput(f"job {self.job_id} ({self.kind}) names no run")
        return self.run_id

    def checkpoint(self) -> tuple[UUID, int, int]:
        """Run, segment and step. Raises InvalidInput for a job that names none."""
        if self.run_id is None or self.segment is None or self.step is None:
            raise InvalidInput(f"job {self.job_id} ({self.kind}) names no run, segment and step")
        return self.run_id, self.segment, self.step


@dataclass(frozen=True)
class Failure:
    """How an attempt failed: type and message for everybody, and the traceback for those who run the service.

    Text, because not every exception survives the way out of a process.
    """

    error: str
    traceback: str | None = None

    @classmethod
    def of(cls, error: BaseException) -> Self:
        """The failure that an exception stands for."""
        lines = "".join(traceback.format_exception(error)).rstrip().splitlines()
        left_out = len(lines) - MAX_TRACEBACK_LINES
        shown = [f"… {left_out} lines …", *lines[-MAX_TRACEBACK_LINES:]] if left_out > 0 else lines
        return cls(f"{type(error).__name__}: {error}"[:MAX_ERROR], "\n".join(shown))


Store = Callable[[Session], dict[str, Any] | None]
"""Stores what a body found, and gives what the job says of it itself: its `result`."""
Body = Callable[[Work, Database, Artifacts], Store]

_bodies: dict[str, Body] = {}


def job(kind: str) -> Callable[[Body], Body]:
    """Registers the decorated function as what jobs of `kind` do, and leaves it as it is."""

    def register(body: Body) -> Body:
        if kind in _bodies:
            raise InvalidInput(f"job kind {kind!r} is registered already, by {_bodies[kind].__module__}")
        _bodies[kind] = body
        return body

    return register


def checked_limits(limits: Mapping[str, int]) -> Mapping[str, int]:
    """The limits. Raises InvalidInput for a kind that no job is of."""
    unknown = sorted(set(limits) - set(_bodies))
    if unknown:
        raise InvalidInput(f"PHASEWATCH_JOB_LIMITS names {', '.join(unknown)}; jobs are {', '.join(sorted(_bodies))}")
    return limits


def run_work(work: Work, database: Database, artifacts: Artifacts) -> None:
    """Does a job: its results and its end are one transaction.

    Raises NotFound for an unknown kind, Conflict where `work.owner` no longer holds the job, and what the body raises.
    """
    if work.kind not in _bodies:
        raise NotFound(f"no job is of kind {work.kind!r}; this worker knows {', '.join(sorted(_bodies))}")
    store = _bodies[work.kind](work, database, artifacts)
    with database.transaction() as session:
        result = store(session)
        finish_job(session, work.job_id, work.owner, result)


def attempt(work: Work, database: Database, artifacts: Artifacts) -> Failure | None:
    """Does a job; how that failed, or None."""
    with doing_job(work.job_id):
        try:
            run_work(work, database, artifacts)
        except Exception as error:
            log.warning("a job (%s, run %s, step %s) failed: %s", work.kind, work.run_id, work.step, error)
            return Failure.of(error)
    return None


class Progress:
    """Says how far a job is, at most once in `EVERY_S` seconds, each time in a transaction of its own.

    Raises Conflict where the job was cancelled or taken over: a long job need not be done to its end in vain.
    """

    EVERY_S = 1.0

    def __init__(self, work: Work, database: Database) -> None:
        self._work, self._database = work, database
        self._next = 0.0

    def __call__(self, done: float, text: str | None = None) -> None:
        """`done`: from 0 to 1."""
        if time.monotonic() < self._next:
            return
        with self._database.transaction() as session:
            held = note_progress(session, self._work.job_id, self._work.owner, done, text)
        if not held:
            raise Conflict(f"job {self._work.job_id} is no longer held by {self._work.owner}; it is left")
        self._next = time.monotonic() + self.EVERY_S
