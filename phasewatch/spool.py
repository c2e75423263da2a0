"""The queue of a recorder on disk: what was put is in a file before the call returns, and outlives the process.

Apart from the outbox, whose place it takes, which keeps everything in memory, and from the journal, which knows nothing
of messages. What a killed process had not sent is taken over by the next recorder with the same spool.
"""

from __future__ import annotations

import json
import logging
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any, Final

from phasewatch.errors import RecorderClosed
from phasewatch.journal import Journal, Record, journals
from phasewatch.outbox import LINGER_S, POINTS_AT_ONCE, Gate, Item, Message, Point, is_point

logger = logging.getLogger("phasewatch")

THREAD_NAME: Final = "phasewatch-spool"
SYNC_S: Final = 1.0  # at most so much is lost with the machine
MEMORY_BYTES: Final = 256 * 2**20  # most that waits in memory for a device, or for room on the disk


class Spool:
    """An outbox on disk: first in, first out, within a bound of bytes. The loop puts, the sender takes.

    What is still on a device, or finds no room on the disk, waits in memory, and everything behind it: order is kept.
    """

    outlives_process: Final = True

    def __init__(self, journal: Journal, max_bytes: int, *, sealed: bool = False) -> None:
        """sealed: it takes nothing more, and `head` waits for nothing, as of what another process left behind."""
        self.on_failure: Callable[[Item, Exception], None] = lambda item, error: None
        self._journal = journal
        self._max_bytes = max_bytes
        self._sealed = sealed
        self._process = os.getpid()
        self._n_written = journal.count()
        self._unwritten: deque[Item] = deque()
        self._unwritten_bytes = 0
        self._written_bytes = 0
        self._loaded: deque[tuple[Item, Record]] = deque()  # read, and not dropped yet
        self._lent = False  # the first of `_unwritten` is with the sender
        self._disk_error: str | None = None
        self._last_is_point = False
        self._dirty = self._hurry = self._closed = False
        lock = threading.RLock()
        self._changed = threading.Condition(lock)
        self._to_write = threading.Condition(lock)
        self._thread = threading.Thread(target=self._keep_up, name=THREAD_NAME, daemon=True)

    def start(self) -> None:
        """Begins to write what waits for a device, and to bring the files to the disk itself."""
        self._thread.start()

    @property
    def folder(self) -> Path:
        """Where the files lie."""
        return self._journal.folder

    @property
    def note(self) -> Mapping[str, Any]:
        """What the sender noted at the last `drop`, in this process or before it."""
        return self._journal.note

    def put(self, item: Item, *, beyond_bound: bool = False) -> bool:
        """Appends `item`; False, and nothing done, where that would pass the bound. Raises RecorderClosed."""
        if os.getpid() != self._process:  # a fork of the one that records: two must not write one file
            return False
        with self._changed:
            if self._closed:
                raise RecorderClosed("the recorder is closed; open a new one to go on recording")
            if not beyond_bound and self._is_full(item.size_bytes):
                return False
            if self._unwritten or item.waits or not self._write(item):
                self._unwritten.append(item)
                self._unwritten_bytes += item.size_bytes
                self._to_write.notify()
            self._last_is_point = is_point(item)
            # A metric that joins others wakes nobody: it goes out with them
            if not self._last_is_point or self._n_written in (1, POINTS_AT_ONCE):
                self._changed.notify_all()
            return True

    def head(self) -> Sequence[Item]:
        """The first message, or the metrics before the next message; waits for one. Empty once the spool is closed.

        What is given stays until `drop`. With a full disk it comes out of memory.
        """
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._n_written or self._closed or self._sealed or self._must_lend())
                if self._closed or (self._sealed and not self._n_written):
                    return []
                if not self._n_written:
                    self._lent = True
                    return [self._unwritten[0]]
                if self._last_is_point and not self._loaded:
                    self._changed.wait_for(self._need_not_linger, timeout=LINGER_S)
            try:
                self._load()
            except (OSError, ValueError):
                if self._closed:  # and its files with it
                    return []
                raise
            if self._loaded and not is_point(self._loaded[0][0]):
                return [self._loaded[0][0]]
            if self._loaded:
                return list(takewhile(is_point, (item for item, _ in self._loaded)))

    def drop(self, n_items: int, note: Mapping[str, Any] | None = None) -> None:
        """Removes the first `n_items`, which were sent or refused, and keeps the note for whoever takes over."""
        with self._changed:
            if self._closed:
                return
            if self._lent:
                self._unwritten_bytes -= self._unwritten.popleft().size_bytes
                self._lent = False
            else:
                dropped = [self._loaded.popleft()[1] for _ in range(min(n_items, len(self._loaded)))]
                self._n_written -= len(dropped)
                self._written_bytes -= sum(record.size_bytes for record in dropped)
                self._acknowledge(dropped, note or {})
            self._to_write.notify()
            self._changed.notify_all()

    def wait_empty(self, timeout_s: float) -> bool:
        """Whether everything has left within `timeout_s`; meanwhile metrics wait for no company."""
        with self._changed:
            self._hurry = True
            self._changed.notify_all()
            try:
                return self._changed.wait_for(lambda: not len(self), timeout=timeout_s)
            finally:
                self._hurry = False

    def close(self) -> int:
        """Takes nothing more. What is in the files stays there, and without any they are removed; what is in memory is
        forgotten: how many items those were."""
        if os.getpid() != self._process:
            return 0
        with self._changed:
            if self._closed:
                return 0
            lost, self._closed = len(self._unwritten), True
            self._unwritten.clear()
            self._changed.notify_all()
            self._to_write.notify()
            self._journal.close(remove=not self._n_written)
            return lost

    def __len__(self) -> int:
        return self._n_written + len(self._unwritten)

    # Within the lock.

    def _is_full(self, size_bytes: int) -> bool:
        held = self._written_bytes + self._unwritten_bytes + size_bytes
        return held > self._max_bytes or self._unwritten_bytes + size_bytes > MEMORY_BYTES

    def _write(self, item: Item) -> bool:
        """Whether the item, which waits for nothing, is in the file now."""
        head, body = to_record(item)
        try:
            self._written_bytes += self._journal.append(head, body)
        except OSError as error:
            self._note_disk(f"{error.strerror or error}")
            return False
        self._note_disk(None)
        self._n_written += 1
        self._dirty = True
        return True

    def _note_disk(self, error: str | None) -> None:
        """Says when the disk takes nothing more, and when it does again."""
        if error is not None and self._disk_error is None:
            message = "phasewatch: the spool %s cannot be written (%s); what is recorded waits in memory meanwhile"
            logger.error(message, self.folder, error)
        elif error is None and self._disk_error is not None:
            logger.info("phasewatch: the spool %s can be written again", self.folder)
        self._disk_error = error

    def _must_lend(self) -> bool:
        return bool(self._unwritten) and self._disk_error is not None

    def _need_not_linger(self) -> bool:
        return self._n_written >= POINTS_AT_ONCE or self._hurry or self._closed or not self._last_is_point

    def _acknowledge(self, dropped: Sequence[Record], note: Mapping[str, Any]) -> None:
        try:
            self._journal.acknowledge(dropped[-1].end if dropped else self._journal.begin, note)
        except OSError as error:  # it will be sent again, which does no harm
            self._note_disk(f"{error.strerror or error}")

    # In the sender's thread.

    def _load(self) -> None:
        """Reads on, up to the first message or as many metrics as go together."""
        while len(self._loaded) < POINTS_AT_ONCE and all(is_point(item) for item, _ in self._loaded):
            record = self._journal.read(self._loaded[-1][1].end if self._loaded else self._journal.begin)
            if record is None:
                self._correct_count()
                return
            self._loaded.append((_readable(record), record))

    def _correct_count(self) -> None:
        """Where the files held less than they promised, which the journal has said: there is no more."""
        with self._changed:
            if not self._loaded and self._journal.read(self._journal.begin) is None:
                self._n_written = 0
                self._changed.notify_all()

    # In the spool's own thread.

    def _keep_up(self) -> None:
        while True:
            with self._to_write:
                self._to_write.wait_for(self._can_write, timeout=SYNC_S)
                if self._closed:
                    return
                item = self._unwritten[0] if self._unwritten and not self._lent else None
                dirty, self._dirty = self._dirty, False
            if item is not None:
                self._write_first(item)
            if dirty and item is None:
                self._sync()

    def _can_write(self) -> bool:
        return self._closed or (bool(self._unwritten) and not self._lent and self._disk_error is None)

    def _write_first(self, item: Item) -> None:
        """Waits for the first item's device and writes it, unless the sender took it meanwhile."""
        ready: Item | None = None
        try:
            ready = item.ready()
        except Exception as error:  # a value that cannot be read must not end the writing of all the others
            self.on_failure(item, error)
        with self._changed:
            if self._closed or self._lent or not self._unwritten or self._unwritten[0] is not item:
                return
            if ready is not None and not self._write(ready):
                return
            self._unwritten.popleft()
            self._unwritten_bytes -= item.size_bytes
            self._changed.notify_all()

    def _sync(self) -> None:
        try:
            self._journal.sync()
        except (OSError, ValueError):  # said where writing fails too; closed meanwhile
            logger.debug("phasewatch: %s was not synchronised", self.folder, exc_info=True)


def left_behind(parent: Path, url: str) -> Iterator[Journal]:
    """What earlier processes did not send to the server at `url`, oldest first, each now this process's."""
    for folder in journals(parent):
        journal = Journal.take_over(folder)
        if journal is None:
            continue
        if journal.about.get("url") == url and isinstance(journal.about.get("run"), str):
            yield journal
        else:
            journal.close(remove=False)


def _readable(record: Record) -> Item:
    """The record's item; nothing at all in place of one that another version of phasewatch wrote."""
    try:
        return to_item(record.head, record.body)
    except (ValueError, KeyError, TypeError) as error:
        logger.error("phasewatch: a record of the spool is left out, it means nothing here: %s", error)
        return Point(0, {})


def to_record(item: Item) -> tuple[bytes, bytes]:
    """An item as it lies in a file: JSON, and the body of a message."""
    if isinstance(item, Point):
        return json.dumps({"step": item.step, "values": dict(item.values)}).encode(), b""
    head = {
        "kind": item.kind, "method": item.method, "path": item.path, "content_type": item.content_type,
        "needs": [gate.name for gate in item.needs], "opens": item.opens and item.opens.name,
        "begins_segment": item.begins_segment, "in_segment": item.in_segment, "may_fail": item.may_fail,
    }  # fmt: skip
    return json.dumps(head).encode(), item.body()


def to_item(head: bytes, body: bytes) -> Item:
    """What `to_record` made a record of. Raises ValueError, KeyError or TypeError on anything else."""
    fields = json.loads(head)
    if "step" in fields:
        return Point(int(fields["step"]), dict(fields["values"]))
    return Message(
        fields["kind"], fields["method"], fields["path"], lambda: body, len(body), fields["content_type"],
        needs=tuple(Gate[name] for name in fields["needs"]), opens=fields["opens"] and Gate[fields["opens"]],
        begins_segment=fields["begins_segment"], in_segment=fields["in_segment"], may_fail=fields["may_fail"],
    )  # fmt: skip
