"""A trainer killed at random moments loses nothing it acknowledged, and the run ends as if nothing had been."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from phasewatch.storage.artifacts import Artifacts
from phasewatch.storage.database import Database
from phasewatch.storage.runs import get_run
from tests.conftest import MakeRun
from tests.trainer import small
from tests.trainer.crashes import EVERY, STEPS, train_with_kills, wait_for_step
from tests.trainer.worker_runs import training

ROOT = Path(__file__).parents[2]
KILLS = 3


def test_killed_at_random_moments_a_run_ends_as_an_unbroken_one(
    database: Database, artifacts: Artifacts, tmp_path: Path
) -> None:
    crashes = train_with_kills(database, artifacts, tmp_path, kills=KILLS, seed=0)
    assert crashes.n_segments == KILLS + 1
    assert {step for what, _, step in crashes.unbroken if what == "weights"} == set(range(0, STEPS + 1, EVERY))
    assert crashes.acknowledged.items() <= crashes.broken.items()
    assert crashes.broken == crashes.unbroken


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
