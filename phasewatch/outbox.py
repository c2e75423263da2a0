"""What a recorder still has to send: messages and metrics, and a queue of them that keeps them in memory.

Apart from the transport, which takes from a queue and may wait as long as a server is away: here is the only lock the
two share, and it is held for microseconds. phasewatch/spool.py is the queue on disk.
"""

from __future__ import annotations

import enum
import json
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice, takewhile
from typing import Any, Final, Protocol, TypeGuard

from phasewatch.errors import RecorderClosed

JSON: Final = "application/json"
NPY: Final = "application/x-npy"
SAFETENSORS: Final = "application/octet-stream"

POINTS_AT_ONCE: Final = 500
LINGER_S: Final = 0.5  # how long metrics wait for company
_POINT_BYTES: Final = 200  # about what a logged step holds in memory, and each of its values
_VALUE_BYTES: Final = 150


class Gate(enum.Enum):
    """Something that later messages rest on: where it was refused, they are not sent."""

    RUN = "the run"
    PROBES = "the probe set"


@dataclass(frozen=True, eq=False)
class Message:
    """One request to be sent. `body` is called in the sender's thread, so that it may wait for a device."""

    kind: str  # what it carries, for reports: "losses", "probe set"
    method: str
    path: str  # below /api/v1
    body: Callable[[], bytes]
    size_bytes: int
    content_type: str = JSON
    needs: tuple[Gate, ...] = (Gate.RUN,)
    opens: Gate | None = None
    begins_segment: bool = False  # its answer's `number` is the segment that everything after it is written to
    in_segment: bool = False
    may_fail: bool = False  # a refusal is as good as an answer
    waits: bool = False  # `body` waits for a device

    def ready(self) -> Message:
        """The same with its body made."""
        body = self.body()
        return replace(self, body=lambda: body, waits=False)


@dataclass(frozen=True, eq=False)
class Point:
    """Metrics of one step. A value that is still on a device is called for in the sender's thread."""

    step: int
    values: Mapping[str, float | Callable[[], float]]

    @property
    def size_bytes(self) -> int:
        """About what the point holds in memory."""
        return _POINT_BYTES + _VALUE_BYTES * len(self.values)

    @property
    def waits(self) -> bool:
        """Whether a value is still on a device."""
        return any(callable(value) for value in self.values.values())

    def ready(self) -> Point:
        """The same with every value at hand."""
        return Point(self.step, {name: value() if callable(value) else value for name, value in self.values.items()})


Item = Message | Point


def json_body(content: object) -> Callable[[], bytes]:
    """A message's body that is made when it is sent."""
    return lambda: json.dumps(content, allow_nan=False).encode()


class Queue(Protocol):
    """First in, first out, within a bound of bytes. The loop puts, the sender takes."""

    on_failure: Callable[[Item, Exception], None]  # told of an item that could not be made ready

    @property
    def outlives_process(self) -> bool:
        """Whether what was put is there for the next process."""

    def put(self, item: Item, *, beyond_bound: bool = False) -> bool:
        """Appends `item`; False, and nothing done, where that would pass the bound. Raises RecorderClosed."""

    def head(self) -> Sequence[Item]:
        """The first message, or the metrics before the next message; waits for one. Empty once the queue is closed."""

    def drop(self, n_items: int, note: Mapping[str, Any] | None = None) -> None:
        """Removes the first `n_items`, which were sent or refused; what the sender knows now is `note`."""

    def wait_empty(self, timeout_s: float) -> bool:
        """Whether everything has left within `timeout_s`; meanwhile metrics wait for no company."""

    def close(self) -> int:
        """Takes nothing more; how many items are lost by that."""

    def __len__(self) -> int:
        """How many items were not dropped yet."""


class Outbox:
    """The queue in memory."""

    outlives_process: Final = False

    def __init__(self, max_bytes: int) -> None:
        self.on_failure: Callable[[Item, Exception], None] = lambda item, error: None
        self._max_bytes = max_bytes
        self._items: deque[Item] = deque()
        self._size_bytes = 0
        self._hurry = False
        self._closed = False
        self._changed = threading.Condition()

    def put(self, item: Item, *, beyond_bound: bool = False) -> bool:
        """Appends `item`; False, and nothing done, where that would pass the bound. Raises RecorderClosed."""
        with self._changed:
            if self._closed:
                raise RecorderClosed("the recorder is closed; open a new one to go on recording")
            if self._size_bytes + item.size_bytes > self._max_bytes and not beyond_bound:
                return False
            self._items.append(item)
            self._size_bytes += item.size_bytes
            # A metric that joins others wakes nobody: it goes out with them
            if not is_point(item) or len(self._items) in (1, POINTS_AT_ONCE):
                self._changed.notify_all()
            return True

    def head(self) -> Sequence[Item]:
        """The first message, or the metrics before the next message; waits for one. Empty once the box is closed.

        What is given back stays in the box until `drop`.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._items or self._closed)
            if self._items and is_point(self._items[0]):
                self._changed.wait_for(self._need_not_linger, timeout=LINGER_S)
            if self._items and not is_point(self._items[0]):
                return [self._items[0]]
            return list(takewhile(is_point, islice(self._items, POINTS_AT_ONCE)))

    def drop(self, n_items: int, note: Mapping[str, Any] | None = None) -> None:
        """Removes the first `n_items`, which were sent or refused."""
        with self._changed:
            for _ in range(min(n_items, len(self._items))):
                self._size_bytes -= self._items.popleft().size_bytes
            self._changed.notify_all()

    def wait_empty(self, timeout_s: float) -> bool:
        """Whether everything has left within `timeout_s`; meanwhile metrics wait for no company."""
        with self._changed:
            self._hurry = True
            self._changed.notify_all()
            try:
                return self._changed.wait_for(lambda: not self._items, timeout=timeout_s)
            finally:
                self._hurry = False

    def close(self) -> int:
        """Takes nothing more and forgets what is left; how many items those were."""
        with self._changed:
            left = len(self._items)
            self._items.clear()
            self._size_bytes, self._closed = 0, True
            self._changed.notify_all()
            return left

    def __len__(self) -> int:
        return len(self._items)

    def _need_not_linger(self) -> bool:
        if not self._items or self._hurry or self._closed:
            return True
        return len(self._items) >= POINTS_AT_ONCE or not is_point(self._items[-1])


def is_point(item: Item) -> TypeGuard[Point]:
    """Whether the item is metrics, which are sent together."""
    return isinstance(item, Point)
