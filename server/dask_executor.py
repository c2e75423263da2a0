"""Jobs on the workers of a dask cluster. Separate, because only who sets PHASEWATCH_EXECUTOR=dask has it installed.

The database still says what is done: dask is handed one attempt at a time, and repeats none by itself.
"""

from __future__ import annotations

import logging
import time
from concurrent.futures import Future
from functools import lru_cache
from urllib.parse import urlsplit

import torch
from distributed import Client

from phasewatch.errors import InvalidInput, Unavailable
from phasewatch.storage.artifacts import Artifacts
from phasewatch.storage.database import Database
from server.auth import is_loopback
from server.jobs import Failure, Work, attempt

CONNECT_S = 10.0
COUNT_S = 2.0  # how long the number of a cluster's threads is believed

log = logging.getLogger(__name__)


def check_dask_address(address: str) -> None:
    """Raises InvalidInput unless the address is of this machine or speaks TLS: dask's wire format is pickle."""
    parts = urlsplit(address)
    if parts.scheme not in ("tcp", "tls") or not parts.hostname or not parts.port:
        raise InvalidInput(f"PHASEWATCH_DASK_ADDRESS is {address!r}; give tls://HOST:PORT, or tcp://127.0.0.1:PORT")
    if parts.scheme != "tls" and not is_loopback(parts.hostname):
        raise InvalidInput(
            f"PHASEWATCH_DASK_ADDRESS {address} leaves this machine without TLS, and whoever can speak to dask can run "
            "code: use tls://, with DASK_DISTRIBUTED__COMM__TLS__… naming the certificates"
        )


class DaskExecutor:
    """Jobs on a dask cluster, one for each thread of its workers; a worker that dies costs its job an attempt.

    Connects when it is first asked, and again after the scheduler was away.
    """

    def __init__(self, database: Database, artifacts: Artifacts, address: str) -> None:
        check_dask_address(address)
        self._address = address
        self._urls = database.url.render_as_string(hide_password=False), artifacts.url
        self._connected: Client | None = None
        self._counted: tuple[float, int] = (0.0, 0)

    @property
    def slots(self) -> int:
        """Threads of the cluster's workers.

        Raises Unavailable where its scheduler does not answer, InvalidInput where it
        would run jobs twice.
        """
        until, found = self._counted
        if time.monotonic() >= until:
            try:
                found = sum(self._client().nthreads().values())
            except InvalidInput:  # a cluster that answers, and may not be used
                raise
            except (OSError, RuntimeError, ValueError) as error:  # what dask raises of a connection that is gone
                self._forget()
                raise Unavailable(f"dask at {self._address} does not answer: {error}") from error
            self._counted = time.monotonic() + COUNT_S, found
        return found

    def submit(self, work: Work) -> Future[Failure | None]:
        try:
            pool = self._client().get_executor(pure=False, retries=0)
            future: Future[Failure | None] = pool.submit(attempt_there, work, *self._urls)
        except Exception as error:  # of whatever kind: this attempt failed, and the job has others
            self._forget()
            future = Future()
            future.set_result(Failure.of(error))
        return future

    def close(self) -> None:
        self._forget()

    def _client(self) -> Client:
        if self._connected is None or self._connected.status != "running":
            self._forget()
            client = Client(self._address, timeout=CONNECT_S, set_as_default=False, name="phasewatch")
            self._connected = client
            _refuse_repeats(client, self._address)
        return self._connected

    def _forget(self) -> None:
        client, self._connected, self._counted = self._connected, None, (0.0, 0)
        if client is not None:
            client.close(timeout=2)


def _refuse_repeats(client: Client, address: str) -> None:
    """Raises InvalidInput where the scheduler would run the jobs of a lost worker again by itself."""

    def allowed(dask_scheduler: object) -> int:
        return int(dask_scheduler.allowed_failures)  # type: ignore[attr-defined]

    found = client.run_on_scheduler(allowed)
    if found:
        client.close(timeout=2)
        raise InvalidInput(
            f"the dask scheduler at {address} runs a task of a lost worker {found} times again, and jobs count their "
            "attempts themselves: start it with DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES=0"
        )


# On the cluster's workers.


def attempt_there(work: Work, database_url: str, artifacts_url: str) -> Failure | None:
    """Does a job on the worker this runs on."""
    return attempt(work, *_parts(database_url, artifacts_url))


@lru_cache(maxsize=4)
def _parts(database_url: str, artifacts_url: str) -> tuple[Database, Artifacts]:
    torch.set_num_threads(1)
    return Database(database_url, pool_size=2), Artifacts(artifacts_url)
