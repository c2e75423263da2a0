"""Server-sent events: one poller a process reads what is new in the database, one async generator a client sends it.

A synchronous generator a client would hold a worker thread each, and sixty clients would stop the service.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncGenerator, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from anyio import CapacityLimiter, to_thread
from sqlalchemy.exc import SQLAlchemyError

from phasewatch.storage.database import Database
from phasewatch.storage.events import events_after, last_event_id
from phasewatch.storage.schema import Event

logger = logging.getLogger(__name__)

POLL_S = 0.25
KEEP_ALIVE_S = 15.0
RETRY_MS = 1_000
PAGE = 1_000
WAITING = 10_000
"""Events a slow client may lag behind before its stream ends; it comes back with Last-Event-ID."""

_END = None
_Queue = asyncio.Queue[Event | None]


class EventHub:
    """The clients of one process and the poller that feeds them; it runs only while there are clients."""

    def __init__(self, database: Database, poll_s: float = POLL_S, keep_alive_s: float = KEEP_ALIVE_S) -> None:
        self._database = database
        self._poll_s = poll_s
        self._keep_alive_s = keep_alive_s
        self._clients: set[_Queue] = set()
        self._poller: asyncio.Task[None] | None = None
        self._position: asyncio.Future[int] | None = None
        self._closed = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._threads = CapacityLimiter(4)

    async def stream(self, last_id: int | None = None, run: UUID | None = None) -> AsyncGenerator[bytes, None]:
        """Events after `last_id` (default: from now on), of one run or all, as text/event-stream until the end."""
        queue: _Queue = asyncio.Queue(WAITING)
        try:
            position = await self._join(queue)
            yield f"retry: {RETRY_MS}\n: connected\n\n".encode()
            sent = position if last_id is None else last_id
            async for event in self._missed(sent):
                sent = event.id
                if run is None or event.run_id == run:
                    yield to_sse(event)
            while (event_or_end := await self._next(queue)) is not _END:
                if isinstance(event_or_end, bytes):
                    yield event_or_end
                elif event_or_end.id > sent and (run is None or event_or_end.run_id == run):
                    yield to_sse(event_or_end)
        finally:
            self._leave(queue)

    def close(self) -> None:
        """Ends every stream, now and for ever; may be called from any thread or signal handler."""
        self._closed = True
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._end_streams)

    @property
    def n_clients(self) -> int:
        """How many streams are open."""
        return len(self._clients)

    async def _join(self, queue: _Queue) -> int:
        """Adds a client; the id of the newest event that the poller will not bring."""
        self._loop = asyncio.get_running_loop()
        self._clients.add(queue)
        if self._closed:
            queue.put_nowait(_END)
        if self._poller is None or self._poller.done():
            self._position = self._loop.create_future()
            self._poller = asyncio.create_task(self._poll(self._position))
        assert self._position is not None
        return await asyncio.shield(self._position)

    def _leave(self, queue: _Queue) -> None:
        self._clients.discard(queue)
        if not self._clients and self._poller is not None:
            self._poller.cancel()
            self._poller = None

    async def _missed(self, last_id: int) -> AsyncGenerator[Event, None]:
        while True:
            page = await self._read(last_id)
            for event in page:
                yield event
            if len(page) < PAGE:
                return
            last_id = page[-1].id

    async def _next(self, queue: _Queue) -> Event | bytes | None:
        """What comes next for a client: an event, a keep-alive comment after a silence, or the end."""
        try:
            return await asyncio.wait_for(queue.get(), self._keep_alive_s)
        except TimeoutError:
            return b": keep-alive\n\n"

    async def _poll(self, started: asyncio.Future[int]) -> None:
        """Brings the events after the newest one of the start to every client."""
        position = await self._newest()
        started.set_result(position)
        while not self._closed:
            await asyncio.sleep(self._poll_s)
            with contextlib.suppress(SQLAlchemyError):
                for event in await self._read(position):
                    position = event.id
                    self._give(event)

    def _give(self, event: Event) -> None:
        for queue in self._clients:
            if not queue.full():
                queue.put_nowait(event)
            if queue.full():
                _end(queue)

    def _end_streams(self) -> None:
        for queue in self._clients:
            _end(queue)

    async def _newest(self) -> int:
        while True:
            try:
                return await to_thread.run_sync(self._read_newest, limiter=self._threads)
            except SQLAlchemyError as error:
                logger.warning("events wait for the database: %s", error)
                await asyncio.sleep(self._poll_s)

    def _read_newest(self) -> int:
        with self._database.reading() as session:
            return last_event_id(session)

    async def _read(self, last_id: int) -> Sequence[Event]:
        return await to_thread.run_sync(self._read_after, last_id, limiter=self._threads)

    def _read_after(self, last_id: int) -> Sequence[Event]:
        with self._database.reading() as session:
            return events_after(session, last_id, PAGE)


def _end(queue: _Queue) -> None:
    """Makes the end the next thing a client is given."""
    while not queue.empty():
        queue.get_nowait()
    queue.put_nowait(_END)


def to_sse(event: Event) -> bytes:
    """An event as a block of text/event-stream; its data is one line of JSON."""
    data: dict[str, Any] = {
        **event.payload,
        "id": event.id,
        "time": rfc3339(event.time),
        "kind": event.kind,
        "run": None if event.run_id is None else str(event.run_id),
    }
    return f"id: {event.id}\nevent: {event.kind}\ndata: {json.dumps(data)}\n\n".encode()


def rfc3339(time: datetime) -> str:
    """An aware time as RFC 3339 in UTC, as every field of the API has it."""
    return time.isoformat().replace("+00:00", "Z")
