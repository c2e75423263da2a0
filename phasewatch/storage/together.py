"""Small writes of many requests in one transaction: a disk that takes milliseconds to sync takes them once for all.

Apart from the database, whose transactions are one caller's. Nobody is told that something was written before the
commit that holds it; what waits while one transaction commits becomes the next.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, Generic, TypeVar

from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from phasewatch.errors import PhasewatchError
from phasewatch.storage.database import Database

MOST_TOGETHER: Final = 64

Write = TypeVar("Write")
Outcome = TypeVar("Outcome")


class _Waiting(Generic[Write, Outcome]):
    """One caller's write, and what came of it."""

    def __init__(self, write: Write) -> None:
        self.write = write
        self.done = False
        self.outcome: Outcome | None = None
        self.error: Exception | None = None


class Together(Generic[Write, Outcome]):
    """Stores what callers of several threads write, as many at once as wait.

    store: writes them within a session and gives the outcome or the error of each, in order.
    """

    def __init__(
        self, database: Database, store: Callable[[Session, Sequence[Write]], Sequence[Outcome | PhasewatchError]]
    ) -> None:
        self._database = database
        self._store = store
        self._waiting: deque[_Waiting[Write, Outcome]] = deque()
        self._turn = threading.Lock()

    def put(self, write: Write) -> Outcome:
        """Returns once the write is committed. Raises its error, or what kept its transaction from being committed."""
        mine = _Waiting[Write, Outcome](write)
        self._waiting.append(mine)
        with self._turn:  # whoever has it writes for all; the others find theirs done
            if not mine.done:
                self._write_next()
        if mine.error is not None:
            raise mine.error
        assert mine.outcome is not None
        return mine.outcome

    def __len__(self) -> int:
        """How many wait for their turn."""
        return len(self._waiting)

    def _write_next(self) -> None:
        together = [self._waiting.popleft() for _ in range(min(len(self._waiting), MOST_TOGETHER))]
        error = self._commit(together)
        if error is None or len(together) == 1 or isinstance(error, OperationalError):  # a database away is so for all
            return
        for waiting in together:  # one that cannot be written must not keep the others from it
            waiting.error = None
            self._commit([waiting])

    def _commit(self, together: Sequence[_Waiting[Write, Outcome]]) -> Exception | None:
        """What kept the transaction from being committed; each caller's outcome or error is set."""
        try:
            with self._database.transaction() as session:
                outcomes = self._store(session, [waiting.write for waiting in together])
        except Exception as error:  # the callers' affair, whose threads these are not
            for waiting in together:
                waiting.done, waiting.error = True, error
            return error
        for waiting, outcome in zip(together, outcomes, strict=True):
            waiting.error = outcome if isinstance(outcome, PhasewatchError) else None
            waiting.outcome = None if isinstance(outcome, PhasewatchError) else outcome
            waiting.done = True
        return None
