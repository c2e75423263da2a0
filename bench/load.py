"""How long list and series routes take over a database of a thousand runs: closed loop, then open loop.

    python -m bench.load [--runs 1000] [--checkpoints 1000] [--seconds 60] [--database postgresql]

Every run has so many checkpoints, loss slices and values of two metrics, and head scores at every twentieth. Closed
loop: 8 clients, each asking again as soon as it was answered. Open loop: 100 requests a second, whatever the answers
take, and the time counts from when a request was due. Client and server are processes of their own on one machine.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from sqlalchemy import insert, text

from bench.service import Connection, database_urls, part
from phasewatch.ids import new_id
from phasewatch.probes import Layout, ProbeSet, Slice
from phasewatch.storage.codecs import pack
from phasewatch.storage.database import Database, tables_of
from phasewatch.storage.probe_sets import list_slices, put_probe_set
from phasewatch.storage.schema import Checkpoint, LossSlice, MeasurementRow, Run, Segment, SeriesValue, utc_now

CLIENTS = 8
RATE = 100.0
SCORED_EVERY = 20
CHECKPOINTS, LOSS_SLICES, SERIES, MEASUREMENTS = tables_of(Checkpoint, LossSlice, SeriesValue, MeasurementRow)
Times = dict[str, list[float]]


def fill(database: Database, n_runs: int, n_checkpoints: int) -> list[str]:
    """Metadata of so many runs; their ids."""
    probes = ProbeSet(slices={"text": Slice(np.zeros((100, 201), np.int32), Layout("text"))})
    with database.transaction() as session:
        put_probe_set(session, probes)
        slice_id = list_slices(session, probes.sha256)[0].id
    ids = []
    for number in range(n_runs):
        run_id, steps, now = new_id(), range(0, 10 * n_checkpoints, 10), utc_now()
        ids.append(str(run_id))
        with database.transaction() as session:
            session.add(
                Run(
                    id=run_id, name=f"run {number:04d}", status="completed", config={"seed": number}, tags=["load"],
                    probe_set_id=probes.sha256, last_step=steps[-1], created_at=now, started_at=now, finished_at=now,
                )
            )  # fmt: skip
            session.flush()
            segment = Segment(run_id=run_id, number=0, from_step=0)
            session.add(segment)
            session.flush()
            key = {"segment_id": segment.id}
            connection, rng = session.connection(), np.random.default_rng(number)
            at_steps = [key | {"step": step} for step in steps]
            connection.execute(insert(CHECKPOINTS), [row | {"tokens_seen": 64 * row["step"]} for row in at_steps])
            loss = {"slice_id": slice_id, "codec": "float32r12-shuffle-zstd", "n_values": 20_000, "mean_nats": 3.0}
            loss |= {"n_non_finite": 0, "sha256": "0" * 64, "created_at": now}
            connection.execute(insert(LOSS_SLICES), [row | loss for row in at_steps])
            for name in ("loss", "learning_rate"):
                values = rng.normal(3.0, 0.1, len(steps))
                rows = [row | {"name": name, "value": value} for row, value in zip(at_steps, values, strict=True)]
                connection.execute(insert(SERIES), rows)
            scores = {"measure": "prefix_matching", "version": 1, "shape": [4, 8], "interval": None, "chance": 0.01}
            scores |= {"payload": pack(rng.random((4, 8)), "<f8"), "source": "job", "created_at": now}
            connection.execute(insert(MEASUREMENTS), [row | scores for row in at_steps[::SCORED_EVERY]])
    if not database.is_sqlite:
        with database.engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
            connection.execute(text("ANALYZE"))
    return ids


def requests(ids: list[str], seed: int) -> Iterator[tuple[str, str]]:
    """(name, path) of routes that a page asks for, of runs drawn at random, without end."""
    rng = random.Random(seed)
    while True:
        run = rng.choice(ids)
        yield "runs", "/runs?limit=50"
        yield "run", f"/runs/{run}"
        yield "series", f"/runs/{run}/series?name=loss"
        yield "checkpoints", f"/runs/{run}/checkpoints?limit=50"
        yield "loss slices", f"/runs/{run}/losses/text?limit=50"
        yield "measure", f"/runs/{run}/measures/prefix_matching"
        yield "phase changes", f"/runs/{run}/phase-changes"
        yield "jobs", "/jobs?limit=50"


async def ask(connection: Connection, name: str, path: str, times: Times, due: float | None = None) -> None:
    """Asks once; the time counts from `due`."""
    begun = time.perf_counter() if due is None else due
    answer = await connection.request("GET", path)
    if answer.status != 200:
        raise SystemExit(f"GET {path}: {answer.status} {answer.body[:500]!r}")
    times[name].append(time.perf_counter() - begun)


async def closed_loop(url: str, ids: list[str], seconds: float) -> Times:
    """Times of requests by `CLIENTS` that wait for nothing but their answers."""
    times: Times = defaultdict(list)
    until = time.perf_counter() + seconds

    async def client(seed: int) -> None:
        connection = await Connection.open(url)
        for name, path in requests(ids, seed):
            if time.perf_counter() >= until:
                break
            await ask(connection, name, path, times)
        connection.close()

    await asyncio.gather(*(client(seed) for seed in range(CLIENTS)))
    return times


async def open_loop(url: str, ids: list[str], seconds: float, rate: float) -> Times:
    """Times of requests that are due at a fixed rate, over as many connections as that takes."""
    times: Times = defaultdict(list)
    free: list[Connection] = []
    under_way = set()
    begun = time.perf_counter()

    async def one(name: str, path: str, due: float) -> None:
        connection = free.pop() if free else await Connection.open(url)
        await ask(connection, name, path, times, due)
        free.append(connection)

    for number, (name, path) in zip(range(int(seconds * rate)), requests(ids, 1), strict=False):
        due = begun + number / rate
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        task = asyncio.create_task(one(name, path, due))
        under_way.add(task)
        task.add_done_callback(under_way.discard)
    await asyncio.gather(*under_way)
    for connection in free:
        connection.close()
    return times


def report(title: str, times: Times, seconds: float) -> None:
    """A line for each route and one for all: how many, median, 99th percentile."""
    everything = [value for values in times.values() for value in values]
    print(f"{title}: {len(everything) / seconds:,.0f} requests/s, no error")
    for name, values in [*times.items(), ("all", everything)]:
        median, p99 = 1e3 * np.quantile(values, [0.5, 0.99])
        print(f"  {name:14}{len(values):8,}  median {median:7.1f} ms  p99 {p99:7.1f} ms")


def main() -> None:
    """Fills the database, asks, prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=1_000)
    parser.add_argument("--checkpoints", type=int, default=1_000)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--database", default="postgresql", choices=["sqlite", "postgresql"])
    parser.add_argument("--folder", type=Path, default=None, help="where to write; default: a temporary folder")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.folder) as name, database_urls(Path(name), [given.database]) as urls:
        url, begun = urls[given.database], time.perf_counter()
        database = Database(url)
        ids = fill(database, given.runs, given.checkpoints)
        database.close()
        print(f"{given.runs:,} runs × {given.checkpoints:,} checkpoints in {time.perf_counter() - begun:.0f} s")
        print(f"{given.database}, {os.cpu_count()} cores, Python {sys.version.split()[0]}", flush=True)
        with part("api", url, Path(name)) as server:
            asyncio.run(closed_loop(server.address, ids, 2.0))  # warm
            times = asyncio.run(closed_loop(server.address, ids, given.seconds))
            report(f"closed loop, {CLIENTS} clients", times, given.seconds)
            times = asyncio.run(open_loop(server.address, ids, given.seconds, RATE))
            report(f"open loop, {RATE:g} requests/s", times, given.seconds)


if __name__ == "__main__":
    main()
