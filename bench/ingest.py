"""How many losses a second one client brings in over HTTP, one slice a request, every request committed.

    python -m bench.ingest [--values 20000] [--seconds 10] [--connections 8] [--databases sqlite postgresql]

The losses are those of the recorded run in tests/data with the digits that its float16 lacks filled in, another array
for every request. The client is one process with a few connections. Afterwards the server is asked for every slice it
acknowledged: count and SHA-256 must be right. Says on which disk, and how long that takes for one fsync.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import io
import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench.loss_store import recorded_losses
from bench.service import Connection, api, database_urls, part

N_POSITIONS = 100
N_ARRAYS = 50
WARM_S = 1.0


@dataclass(frozen=True)
class Slice:
    """A body and what its values' SHA-256 is."""

    body: bytes
    sha256: str


def bodies(n_values: int) -> list[Slice]:
    """Different arrays of a slice as .npy bodies."""
    found = []
    for losses in recorded_losses(n_values):
        buffer = io.BytesIO()
        np.save(buffer, losses.reshape(-1, N_POSITIONS), allow_pickle=False)
        found.append(Slice(buffer.getvalue(), hashlib.sha256(losses.astype("<f4").tobytes()).hexdigest()))
    return found


def new_run(url: str, n_values: int) -> str:
    """A run whose slice "text" has so many predicted tokens; its id."""
    tokens = np.zeros((n_values // N_POSITIONS, N_POSITIONS + 1), int).tolist()
    probes = {"slices": {"text": {"tokens": tokens, "layout": {"kind": "text"}}}}
    with api(url) as client:
        run: str = client.post("/runs", json={"name": "ingest"}).raise_for_status().json()["id"]
        found = client.post("/probe-sets", json=probes).raise_for_status().json()["id"]
        client.put(f"/runs/{run}/probe-set", json={"probe_set": found}).raise_for_status()
    return run


async def send(url: str, run: str, slices: list[Slice], steps: Iterator[int], until: float) -> dict[int, float]:
    """Sends slices over one connection; when each step was acknowledged."""
    connection = await Connection.open(url)
    acknowledged = {}
    while time.perf_counter() < until:
        step = next(steps)
        answer = await connection.request(
            "PUT", f"/runs/{run}/losses/text/{step}?segment=0", slices[step % N_ARRAYS].body, "application/x-npy"
        )
        if answer.status != 201:
            raise SystemExit(f"step {step}: {answer.status} {answer.body[:500]!r}")
        acknowledged[step] = time.perf_counter()
    connection.close()
    return acknowledged


async def send_all(url: str, run: str, slices: list[Slice], seconds: float, connections: int) -> tuple[set[int], float]:
    """The steps that were acknowledged, and how many a second after the first."""
    steps, begun = iter(range(10**9)), time.perf_counter()
    until = begun + WARM_S + seconds
    found: dict[int, float] = {}
    for part_of_them in await asyncio.gather(*(send(url, run, slices, steps, until) for _ in range(connections))):
        found |= part_of_them
    counted = sum(begun + WARM_S < moment <= until for moment in found.values())
    return set(found), counted / seconds


def check(url: str, run: str, slices: list[Slice], acknowledged: set[int]) -> None:
    """Raises SystemExit unless exactly the acknowledged steps are there with their values."""
    stored: dict[int, str] = {}
    with api(url) as client:
        cursor = None
        while True:
            params = {"limit": 200} if cursor is None else {"limit": 200, "cursor": cursor}
            page = client.get(f"/runs/{run}/losses/text", params=params).raise_for_status().json()
            stored |= {item["step"]: item["sha256"] for item in page["items"]}
            cursor = page["next"]
            if cursor is None:
                break
    expected = {step: slices[step % N_ARRAYS].sha256 for step in acknowledged}
    if stored != expected:
        raise SystemExit(f"{len(acknowledged)} slices were acknowledged, {len(stored)} are there, or not the same")


def fsync_ms(folder: Path) -> float:
    """Median time of an fsync behind 80 kB."""
    times = []
    with (folder / "probe").open("wb") as file:
        for _ in range(50):
            file.write(os.urandom(80_000))
            begun = time.perf_counter()
            file.flush()
            os.fsync(file.fileno())
            times.append(time.perf_counter() - begun)
    return 1e3 * float(np.median(times))


def main() -> None:
    """Measures every database and prints a line for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--values", type=int, default=20_000, help="losses a slice, a multiple of 100")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--connections", type=int, default=8)
    parser.add_argument("--databases", nargs="+", default=["sqlite", "postgresql"], choices=["sqlite", "postgresql"])
    parser.add_argument("--folder", type=Path, default=None, help="where to write; default: a temporary folder")
    given = parser.parse_args()
    slices = bodies(given.values)
    with tempfile.TemporaryDirectory(dir=given.folder) as name, database_urls(Path(name), given.databases) as urls:
        folder = Path(name)
        print(f"{given.values:,} losses a slice, {given.connections} connections of one client, {given.seconds:g} s")
        print(f"{os.cpu_count()} cores; fsync of 80 kB: {fsync_ms(folder):.2f} ms")
        for database, url in urls.items():
            with part("api", url, folder / database) as server:
                run, before = new_run(server.address, given.values), server.cpu_s()
                sending = send_all(server.address, run, slices, given.seconds, given.connections)
                acknowledged, rate = asyncio.run(sending)
                cpu_ms = 1e3 * (server.cpu_s() - before) / len(acknowledged)
                check(server.address, run, slices, acknowledged)
            figures = f"{rate:,.0f} requests/s, {rate * given.values / 1e6:.2f} million losses/s, "
            figures += f"{cpu_ms:.2f} ms of the server's processor a request"
            print(f"{database}: {figures}; {len(acknowledged):,} acknowledged, all there, each once")


if __name__ == "__main__":
    main()
