"""Server-sent events: each exactly once and in order, resumed where a client left off, and ended at shutdown."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import AsyncGenerator
from typing import Any
from uuid import UUID

import httpx
import pytest
from sqlalchemy.exc import OperationalError

from phasewatch.ids import new_id
from phasewatch.storage.artifacts import Artifacts
from phasewatch.storage.database import Database
from phasewatch.storage.events import emit, events_after, last_event_id
from server import events
from server.events import EventHub
from tests.server.conftest import make_app, serving

ONE, OTHER = new_id(), new_id()
PATIENCE_S = 10.0


def tell(database: Database, *names: str, run: UUID | None = ONE) -> None:
    """Writes one event a name, each in its own transaction."""
    for name in names:
        with database.transaction() as session:
            emit(session, "run", run, {"name": name})


def parse(block: bytes) -> dict[str, Any] | None:
    """The data of an event's block, checked against its other lines; None for a comment."""
    lines = dict(line.split(": ", 1) for line in block.decode().strip().split("\n") if not line.startswith(":"))
    if "data" not in lines:
        return None
    data: dict[str, Any] = json.loads(lines["data"])
    assert (str(data["id"]), data["kind"]) == (lines["id"], lines["event"])
    return data


async def names(stream: AsyncGenerator[bytes, None], n: int) -> list[str]:
    """The names of the next n events of a stream."""
    found: list[str] = []
    async with asyncio.timeout(PATIENCE_S):
        while len(found) < n:
            event = parse(await anext(stream))
            if event is not None:
                found.append(event["name"])
    return found


def test_a_client_is_told_what_happens_after_it_came(database: Database) -> None:
    async def watch() -> list[str]:
        hub = EventHub(database, poll_s=0.01)
        tell(database, "before")
        stream = hub.stream()
        assert b"connected" in await anext(stream)
        await asyncio.to_thread(tell, database, "a", "b")
        found = await names(stream, 2)
        await stream.aclose()
        return found

    assert asyncio.run(watch()) == ["a", "b"]


def test_an_event_carries_its_id_time_kind_and_run(sqlite_database: Database) -> None:
    tell(sqlite_database, "a")

    async def watch() -> dict[str, Any]:
        stream = EventHub(sqlite_database, poll_s=0.01).stream(last_id=0)
        await anext(stream)
        event = parse(await anext(stream))
        await stream.aclose()
        assert event is not None
        return event

    event = asyncio.run(watch())
    assert event | {"id": 1, "kind": "run", "run": str(ONE), "name": "a"} == event
    assert event["time"].endswith("Z")


def test_a_client_that_comes_back_misses_nothing_and_sees_nothing_twice(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three writers at once; a client that reads a few events, leaves, and resumes after the last it saw."""
    monkeypatch.setattr(events, "PAGE", 7)
    wanted = {f"{writer}:{number}" for writer in "abc" for number in range(20)}
    writers = [
        threading.Thread(target=tell, args=(database, *sorted(name for name in wanted if name[0] == writer)))
        for writer in "abc"
    ]

    async def watch() -> list[dict[str, Any]]:
        hub = EventHub(database, poll_s=0.005)
        seen: list[dict[str, Any]] = []
        for writer in writers:
            writer.start()
        async with asyncio.timeout(PATIENCE_S):
            while len(seen) < len(wanted):
                stream = hub.stream(last_id=seen[-1]["id"] if seen else 0)
                read = 0
                async for block in stream:
                    event = parse(block)
                    if event is not None:
                        seen.append(event)
                        read += 1
                    if read == 9 or len(seen) == len(wanted):
                        break
                await stream.aclose()
        return seen

    seen = asyncio.run(watch())
    for writer in writers:
        writer.join()
    assert [event["name"] for event in seen] == list(dict.fromkeys(event["name"] for event in seen))
    assert {event["name"] for event in seen} == wanted
    assert [event["id"] for event in seen] == sorted(event["id"] for event in seen)


def test_a_stream_of_one_run_leaves_the_others_out(sqlite_database: Database) -> None:
    async def watch() -> list[str]:
        tell(sqlite_database, "missed")
        tell(sqlite_database, "other's missed", run=OTHER)
        stream = EventHub(sqlite_database, poll_s=0.01).stream(last_id=0, run=ONE)
        await anext(stream)
        first = await names(stream, 1)
        tell(sqlite_database, "other's", run=OTHER)
        tell(sqlite_database, "nobody's", run=None)
        tell(sqlite_database, "live")
        found = first + await names(stream, 1)
        await stream.aclose()
        return found

    assert asyncio.run(watch()) == ["missed", "live"]


def test_a_silence_is_filled_with_comments(sqlite_database: Database) -> None:
    async def watch() -> bytes:
        stream = EventHub(sqlite_database, poll_s=0.01, keep_alive_s=0.03).stream()
        await anext(stream)
        async with asyncio.timeout(PATIENCE_S):
            comment = await anext(stream)
        await stream.aclose()
        return comment

    assert asyncio.run(watch()) == b": keep-alive\n\n"


def test_the_database_is_read_by_one_poller_and_only_while_someone_watches(
    sqlite_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[int] = []

    def counted(*given: Any) -> Any:
        reads.append(1)
        return events_after(*given)

    monkeypatch.setattr(events, "events_after", counted)

    async def watch() -> tuple[int, int, int]:
        hub = EventHub(sqlite_database, poll_s=0.02)
        streams = [hub.stream() for _ in range(5)]
        for stream in streams:
            await anext(stream)
        waiting = [asyncio.create_task(names(stream, 1)) for stream in streams]
        await asyncio.sleep(0.05)
        reads.clear()
        await asyncio.sleep(0.5)
        during = len(reads)
        tell(sqlite_database, "a")
        assert await asyncio.gather(*waiting) == [["a"]] * 5
        for stream in streams:
            await stream.aclose()
        await asyncio.sleep(0.05)
        reads.clear()
        await asyncio.sleep(0.1)
        return during, len(reads), hub.n_clients

    during, after, clients = asyncio.run(watch())
    assert 0 < during <= 26  # one read every 20 ms, not five
    assert (after, clients) == (0, 0)


def test_a_client_that_does_not_read_is_let_go(sqlite_database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "WAITING", 3)

    async def watch() -> list[bytes]:
        hub = EventHub(sqlite_database, poll_s=0.01)
        stream = hub.stream()
        await anext(stream)
        tell(sqlite_database, "first")
        assert await names(stream, 1) == ["first"]
        tell(sqlite_database, *"abcdefg")
        await asyncio.sleep(0.1)
        async with asyncio.timeout(PATIENCE_S):
            return [block async for block in stream]

    assert asyncio.run(watch()) == []


def test_the_stream_outlives_a_database_that_is_away(
    sqlite_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    away = threading.Event()

    def sometimes(*given: Any) -> Any:
        if away.is_set():
            raise OperationalError("SELECT", None, Exception("away"))
        return events_after(*given)

    monkeypatch.setattr(events, "events_after", sometimes)

    async def watch() -> list[str]:
        stream = EventHub(sqlite_database, poll_s=0.01).stream()
        await anext(stream)
        tell(sqlite_database, "a")
        found = await names(stream, 1)
        away.set()
        tell(sqlite_database, "b")
        await asyncio.sleep(0.05)
        away.clear()
        found += await names(stream, 1)
        await stream.aclose()
        return found

    assert asyncio.run(watch()) == ["a", "b"]


def test_over_http_a_hundred_streams_leave_the_other_routes_quick_and_end_with_the_server(
    sqlite_database: Database, artifacts: Artifacts
) -> None:
    app = make_app(sqlite_database, artifacts)

    async def watch(url: str, ready: threading.Event) -> list[list[str]]:
        async with httpx.AsyncClient(base_url=f"{url}/api/v1", timeout=PATIENCE_S) as client:
            n_open = 0

            async def one() -> list[str]:
                nonlocal n_open
                async with client.stream("GET", "/events", headers={"Last-Event-ID": "0"}) as answer:
                    assert answer.headers["content-type"].startswith("text/event-stream")
                    found = []
                    async for line in answer.aiter_lines():
                        if line == ": connected":
                            n_open += 1
                            ready.set() if n_open == 100 else None
                        elif line.startswith("data: "):
                            found.append(json.loads(line[6:])["name"])
                    return found

            return await asyncio.gather(*(one() for _ in range(100)))

    found: list[list[str]] = []
    ready = threading.Event()
    with serving(app) as url:
        thread = threading.Thread(target=lambda: found.extend(asyncio.run(watch(url, ready))))
        thread.start()
        assert ready.wait(PATIENCE_S)
        started = time.monotonic()
        for name in "abc":
            assert httpx.post(f"{url}/api/v1/runs", json={"name": name}).status_code == 201
        assert time.monotonic() - started < 5
        with sqlite_database.reading() as session:
            assert last_event_id(session) == 3
        time.sleep(2 * events.POLL_S)
        before = time.monotonic()
    thread.join()
    assert time.monotonic() - before < 5
    assert found == [["a", "b", "c"]] * 100


@pytest.mark.parametrize("query", ["?run=nothing", "?run="])
def test_what_is_no_run_is_422(sqlite_database: Database, artifacts: Artifacts, query: str) -> None:
    with serving(make_app(sqlite_database, artifacts)) as url:
        assert httpx.get(f"{url}/api/v1/events{query}").status_code == 422
        assert httpx.get(f"{url}/api/v1/events", headers={"Last-Event-ID": "x"}).status_code == 422
