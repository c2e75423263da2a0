"""A trainer killed at random moments loses nothing it acknowledged, and the run ends as if nothing had been."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from multiprocessing.context import ForkServerContext
from pathlib import Path
from uuid import UUID

import pytest

from phasewatch.storage.artifacts import Artifacts
from phasewatch.storage.database import Database
from phasewatch.storage.runs import get_run, list_segments
from tests.conftest import MakeRun
from tests.trainer import small
from tests.trainer.worker_runs import Kept, kept_of, training, work

ROOT = Path(__file__).parents[2]
KILLS = 3
STEPS = 120
EVERY = 6
PATIENCE_S = 120.0


@pytest.fixture(scope="module")
def processes() -> ForkServerContext:
    """Processes that have torch loaded when they begin, so that a kill costs no second of imports."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.trainer.worker_runs"])
    return context


def long_training(text: Path) -> dict[str, object]:
    recording = {"schedule": {"log": None, "every": EVERY, "windows": []}, "probe_sequences": 4}
    return training(text, steps=STEPS, recording=recording)


def wait_for_step(database: Database, run_id: UUID, step: int) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        with database.reading() as session:
            if (get_run(session, run_id).last_step or 0) >= step:
                return
        time.sleep(0.002)
    raise AssertionError(f"step {step} was not reached within {PATIENCE_S} s")


def test_killed_at_random_moments_a_run_ends_as_an_unbroken_one(
    database: Database, artifacts: Artifacts, make_run: MakeRun, tmp_path: Path, processes: ForkServerContext
) -> None:
    text = small.write_folder(tmp_path / "text")
    arguments = (database.url.render_as_string(hide_password=False), artifacts.url, str(tmp_path / "data"))
    unbroken = make_run(training=long_training(text))
    process = processes.Process(target=work, args=arguments)
    process.start()
    process.join(PATIENCE_S)
    assert process.exitcode == 0
    broken = make_run(training=long_training(text))
    moments = random.Random(0)
    acknowledged: Kept = {}
    for kill in range(KILLS):
        process = processes.Process(target=work, args=arguments)
        process.start()
        # Anywhere in its share of the run, and at any moment of a step: the thousandths are for that
        wait_for_step(database, broken, round(STEPS * (kill + moments.random()) / (KILLS + 1)))
        time.sleep(moments.random() * 0.02)
        os.kill(process.pid or 0, signal.SIGKILL)
        process.join()
        acknowledged |= kept_of(database, artifacts, broken)
        wait_until_free(database, broken)
    process = processes.Process(target=work, args=arguments)
    process.start()
    process.join(PATIENCE_S)
    with database.reading() as session:
        assert get_run(session, broken).status == "completed"
        assert len(list_segments(session, broken)) == KILLS + 1
    ended = kept_of(database, artifacts, broken)
    assert acknowledged.items() <= ended.items()
    assert ended == kept_of(database, artifacts, unbroken)


def wait_until_free(database: Database, run_id: UUID) -> None:
    """A worker that was asked to leave when nothing waits would leave before the lost one's lease ends."""
    from phasewatch.storage.schema import utc_now

    with database.reading() as session:
        expires = get_run(session, run_id).lease_expires_at
    if expires is not None:
        time.sleep(max(0.0, (expires - utc_now()).total_seconds()) + 0.01)


def test_sigterm_makes_the_command_write_a_checkpoint_and_give_the_run_back(
    sqlite_database: Database, artifacts: Artifacts, make_run: MakeRun, tmp_path: Path
) -> None:
    run_id = make_run(training=training(small.write_folder(tmp_path / "text"), steps=1_000_000))
    environment = os.environ | {
        "PHASEWATCH_DATABASE_URL": sqlite_database.url.render_as_string(hide_password=False),
        "PHASEWATCH_ARTIFACTS_URL": artifacts.url,
        "PHASEWATCH_DATA": str(tmp_path / "data"),
    }
    process = subprocess.Popen([sys.executable, "-m", "trainer"], cwd=ROOT, env=environment, stderr=subprocess.PIPE)
    wait_for_step(sqlite_database, run_id, 20)
    process.terminate()
    _, log = process.communicate(timeout=30)
    assert process.returncode == 0, log.decode()
    with sqlite_database.reading() as session:
        run = get_run(session, run_id)
    assert (run.status, run.owner) == ("queued", None)
