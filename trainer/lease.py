"""The hold a worker has on a run: renewed by a thread of its own, so that a long step does not lose it."""

from __future__ import annotations

import logging
import threading
from types import TracebackType
from typing import Self
from uuid import UUID

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from phasewatch.errors import PhasewatchError
from phasewatch.storage.database import Database
from phasewatch.storage.runs import extend_run_lease, get_run

logger = logging.getLogger(__name__)


class LeaseLost(PhasewatchError):
    """Another worker holds the run by now; whatever this one still has is not written."""


class Lease:
    """Keeps `owner`'s lease on a run while it is entered.

    `ending` is set when training should stop: `reason` is then the run's new status, or "lost".
    """

    def __init__(self, database: Database, run_id: UUID, owner: str, lease_s: float) -> None:
        self.run_id, self.owner = run_id, owner
        self.ending = threading.Event()
        self.reason = ""
        self._database, self._lease_s = database, lease_s
        self._left = threading.Event()
        self._thread = threading.Thread(target=self._renew, name=f"lease-{run_id}", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._left.set()
        self._thread.join()

    def end(self, reason: str) -> None:
        """Asks training to stop for `reason`; the first one given stays."""
        self.reason = self.reason or reason
        self.ending.set()

    def check(self, session: Session) -> None:
        """Holds the run's row until the transaction ends; raises LeaseLost where another worker has the run."""
        if get_run(session, self.run_id, lock=True).owner != self.owner:
            self.end("lost")
            raise LeaseLost(f"run {self.run_id} is no longer held by {self.owner}; another worker goes on with it")

    def _renew(self) -> None:
        while not self._left.wait(self._lease_s / 4):
            try:
                with self._database.transaction() as session:
                    status = extend_run_lease(session, self.run_id, self.owner, self._lease_s)
            except (
                SQLAlchemyError
            ) as error:  # the next beat may reach the database; a lost lease is seen at the next write
                logger.warning("run %s: no heartbeat, the database does not answer: %s", self.run_id, error)
                continue
            if status != "running":
                self.end(status or "lost")
