"""Trains one run undisturbed and the same run again under a trainer that is killed, and holds the two together."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import time
from dataclasses import dataclass
from multiprocessing.context import ForkServerContext
from pathlib import Path
from uuid import UUID

from phasewatch.storage.artifacts import Artifacts
from phasewatch.storage.database import Database
from phasewatch.storage.runs import NewRun, create_run, get_run, list_segments
from phasewatch.storage.schema import utc_now
from tests.trainer import small
from tests.trainer.worker_runs import Kept, kept_of, training, work

STEPS = 120
EVERY = 6
PATIENCE_S = 120.0


@dataclass(frozen=True)
class Crashes:
    """What became of the run that was killed, and of the one that was not.

    acknowledged: all that the killed run had shown at any kill. n_segments: one more than the trainers that took over.
    """

    unbroken: Kept
    broken: Kept
    acknowledged: Kept
    n_segments: int


def preloaded_processes() -> ForkServerContext:
    """Processes that have torch loaded when they begin, so that a kill costs no second of imports."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.trainer.worker_runs"])
    return context


def train_with_kills(database: Database, artifacts: Artifacts, folder: Path, *, kills: int, seed: int) -> Crashes:
    """Kills the trainer with SIGKILL `kills` times, at moments drawn from `seed`, spread over the run's steps."""
    text = small.write_folder(folder / "text")
    arguments = (database.url.render_as_string(hide_password=False), artifacts.url, str(folder / "data"))
    processes = preloaded_processes()
    unbroken = _queue_run(database, text)
    _train_to_the_end(processes, arguments)
    broken = _queue_run(database, text)
    moments = random.Random(seed)
    acknowledged: Kept = {}
    for kill in range(kills):
        process = processes.Process(target=work, args=arguments)
        process.start()
        # Anywhere in its share of the run, and at any moment of a step: the thousandths are for that
        wait_for_step(database, broken, round(STEPS * (kill + moments.random()) / (kills + 1)))
        time.sleep(moments.random() * 0.02)
        os.kill(process.pid or 0, signal.SIGKILL)
        process.join()
        acknowledged |= kept_of(database, artifacts, broken)
        _wait_for_lease(database, broken)
    _train_to_the_end(processes, arguments)
    with database.reading() as session:
        if get_run(session, broken).status != "completed":
            raise AssertionError(f"the run is {get_run(session, broken).status}, not completed")
        n_segments = len(list_segments(session, broken))
    kept = [kept_of(database, artifacts, run_id) for run_id in (unbroken, broken)]
    return Crashes(kept[0], kept[1], acknowledged, n_segments)


def wait_for_step(database: Database, run_id: UUID, step: int) -> None:
    """Returns once the run has shown `step`; raises AssertionError after two minutes."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        with database.reading() as session:
            if (get_run(session, run_id).last_step or 0) >= step:
                return
        time.sleep(0.002)
    raise AssertionError(f"step {step} was not reached within {PATIENCE_S} s")


def _queue_run(database: Database, text: Path) -> UUID:
    recording = {"schedule": {"log": 0, "every": EVERY, "windows": []}, "probe_sequences": 4}
    with database.transaction() as session:
        run, _ = create_run(session, NewRun("crash", training=training(text, steps=STEPS, recording=recording)))
        return run.id


def _train_to_the_end(processes: ForkServerContext, arguments: tuple[str, str, str]) -> None:
    process = processes.Process(target=work, args=arguments)
    process.start()
    process.join(PATIENCE_S)
    if process.exitcode != 0:
        raise AssertionError(f"the trainer ended with {process.exitcode}")


def _wait_for_lease(database: Database, run_id: UUID) -> None:
    """A worker that leaves when nothing waits would leave before the lost one's lease ends."""
    with database.reading() as session:
        expires = get_run(session, run_id).lease_expires_at
    if expires is not None:
        time.sleep(max(0.0, (expires - utc_now()).total_seconds()) + 0.01)
