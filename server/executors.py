"""Where jobs run: in threads of this process, in child processes, which a crash or a leak cannot leave, or on dask.

Children are spawned, never forked: a fork after torch has computed hangs. Each takes one job at a time, starts with its
first one, has its own engine and one torch thread, and ends when its parent does.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Protocol

import torch

from phasewatch.errors import InvalidInput
from phasewatch.storage.artifacts import Artifacts
from phasewatch.storage.database import Database
from server.jobs import Failure, Work, attempt
from server.logs import configure_logging
from server.settings import Settings

log = logging.getLogger(__name__)


class Executor(Protocol):
    """Runs at most `slots` jobs at once; a future's result is how the job failed, or None."""

    @property
    def slots(self) -> int:
        """How many jobs run at once; it may change."""

    def submit(self, work: Work) -> Future[Failure | None]:
        """Starts a job; the future never raises."""

    def close(self) -> None:
        """Stops taking jobs and drops what runs, if it can be dropped."""


def make_executor(settings: Settings, database: Database, artifacts: Artifacts, slots: int) -> Executor:
    """The executor that the setting PHASEWATCH_EXECUTOR names.

    Raises InvalidInput for dask without an address, or with one that it may not be spoken to at.
    """
    if settings.executor == "dask":
        try:
            from server.dask_executor import DaskExecutor  # of an extra that the others do without
        except ImportError as error:
            raise InvalidInput(
                f"PHASEWATCH_EXECUTOR=dask needs dask: pip install 'phasewatch[dask]' ({error})"
            ) from error
        return DaskExecutor(database, artifacts, settings.dask_address)
    chosen = ThreadExecutor if settings.executor == "thread" else ProcessExecutor
    return chosen(database, artifacts, slots)


class ThreadExecutor:
    """Jobs in threads of this process. What runs cannot be dropped: its results are refused when its lease is gone."""

    def __init__(self, database: Database, artifacts: Artifacts, slots: int = 1) -> None:
        self.slots = slots
        self._database, self._artifacts = database, artifacts
        self._threads = ThreadPoolExecutor(slots, "job")

    def submit(self, work: Work) -> Future[Failure | None]:
        return self._threads.submit(attempt, work, self._database, self._artifacts)

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)


class ProcessExecutor:
    """Jobs in child processes, one for each slot; one that dies costs its job an attempt and is replaced."""

    def __init__(self, database: Database, artifacts: Artifacts, slots: int = 1) -> None:
        self.slots = slots
        self._urls = database.url.render_as_string(hide_password=False), artifacts.url
        self._threads = ThreadPoolExecutor(slots, "job")
        self._idle: list[_Child] = []
        self._children: set[_Child] = set()
        self._lock = threading.Lock()
        self._closed = False

    def submit(self, work: Work) -> Future[Failure | None]:
        return self._threads.submit(self._run, work)

    def close(self) -> None:
        with self._lock:
            self._closed = True
            children = list(self._children)
        for child in children:
            child.stop()
        self._threads.shutdown(wait=True, cancel_futures=True)

    @property
    def process_ids(self) -> list[int]:
        """Of the children there are now."""
        with self._lock:
            return [child.process_id for child in self._children]

    def _run(self, work: Work) -> Failure | None:
        child = self._take()
        if child is None:
            return Failure("the worker is stopping")
        try:
            failure = child.run(work)
        except _ChildLost as lost:
            with self._lock:
                self._children.discard(child)
            log.warning("job %d (%s): %s", work.job_id, work.kind, lost)
            return Failure(str(lost))
        with self._lock:
            self._idle.append(child)
        return failure

    def _take(self) -> _Child | None:
        with self._lock:
            if self._closed:
                return None
            if self._idle:
                return self._idle.pop()
            child = _Child(*self._urls)
            self._children.add(child)
            return child


class _ChildLost(Exception):
    """A child process ended while it did a job."""


class _Child:
    """One child process and the pipe to it."""

    def __init__(self, database_url: str, artifacts_url: str) -> None:
        spawn = multiprocessing.get_context("spawn")
        self._pipe, other = spawn.Pipe()
        self._process: BaseProcess = spawn.Process(
            target=_work, args=(other, database_url, artifacts_url), name="phasewatch-job", daemon=True
        )
        self._process.start()
        other.close()

    @property
    def process_id(self) -> int:
        return self._process.pid or 0

    def run(self, work: Work) -> Failure | None:
        """Does one job there. Raises _ChildLost where the process ended."""
        try:
            self._pipe.send(work)
            wait([self._pipe, self._process.sentinel])
            if self._pipe.poll():
                answer: Failure | None = self._pipe.recv()
                return answer
        except (EOFError, OSError):
            pass
        self._process.join(timeout=5)
        raise _ChildLost(_how_it_ended(self._process.exitcode))

    def stop(self) -> None:
        """Ends the process at once; what it was doing is not stored."""
        self._process.terminate()
        self._process.join(timeout=2)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()


def _how_it_ended(exit_code: int | None) -> str:
    if exit_code is None or exit_code >= 0:
        return f"the worker process ended with status {exit_code} while it did this job; its log says why"
    name = signal.Signals(-exit_code).name
    hint = "; out of memory is the usual reason" if name == "SIGKILL" else ""
    return f"the worker process was ended by {name} while it did this job{hint}"


def _work(pipe: Connection, database_url: str, artifacts_url: str) -> None:
    """A child's whole life: jobs from the pipe, one after the other, until it closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent ends us in order
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    configure_logging()
    torch.set_num_threads(1)
    database, artifacts = Database(database_url, pool_size=2), Artifacts(artifacts_url)
    try:
        while True:
            work: Work = pipe.recv()
            pipe.send(attempt(work, database, artifacts))
    except (EOFError, OSError):
        pass
    finally:
        database.close()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
