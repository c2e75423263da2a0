"""What earlier processes left on a spool: found, and sent by whoever uses that spool next.

Apart from the recorder, which only says where, because the command `phasewatch send` does the same without one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import httpx

from phasewatch.journal import Journal
from phasewatch.messages import series_path
from phasewatch.outbox import Gate
from phasewatch.spool import Spool, left_behind
from phasewatch.transport import Route, Sender


class Earlier:
    """Sends what was left on a spool for one server: of the recorder's own run before anything new, the rest beside."""

    def __init__(self, folder: Path, url: str, connect: Callable[[], httpx.Client]) -> None:
        self._folder = folder
        self._url = url
        self._connect = connect
        self._beside: Sender | None = None

    def routes_of(self, run: str, own: Route) -> Iterator[Route]:
        """What was left of `run`, oldest first, then `own`. What was left of other runs gets a thread of its own."""
        left = list(left_behind(self._folder, self._url))
        others = [journal for journal in left if journal.about["run"] != run]
        if others:
            self._beside = Sender(routes(others), self._connect())
            self._beside.start()
        yield from routes([journal for journal in left if journal.about["run"] == run])
        yield own

    def stop(self) -> None:
        """Ends what is sent beside; the rest stays on the spool."""
        if self._beside is not None:
            self._beside.stop()


def routes(journals: Sequence[Journal]) -> Iterator[Route]:
    """Each journal's queue, as far as it was sent; all are given up at the end."""
    try:
        for journal in journals:
            yield route_of(journal)
    finally:
        for journal in journals:
            journal.close(remove=False)


def route_of(journal: Journal) -> Route:
    """A journal's queue with what its sender had learnt."""
    segment, shut = journal.note.get("segment", journal.about.get("segment")), journal.note.get("shut", ())
    gates = {gate for gate in Gate if gate.name in shut}
    path = series_path(journal.about["run"])
    return Route(Spool(journal, 0, sealed=True), path, segment, gates, ends=True)
