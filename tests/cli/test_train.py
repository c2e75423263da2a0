from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from uuid import UUID

import pytest

from phasewatch.cli import tables, train
from phasewatch.detection import PhaseChange
from phasewatch.storage.database import Database
from phasewatch.storage.phase_changes import store_scan
from phasewatch.storage.runs import claim_run, note_step, release_run
from phasewatch.storage.schema import RunStatus
from phasewatch.training import TrainingConfig
from tests.cli.conftest import Call
from tests.live_server import LiveServer

DROP = PhaseChange(10, 20, 30, "level", "drop", 1.5, "nats", "mean_loss:text")
CONFIG = 'name = "control"\nsteps = 40\n\n[model]\nsublayers = "a"\n'


@pytest.fixture
def config(tmp_path: Path) -> str:
    (tmp_path / "run.toml").write_text(CONFIG)
    return str(tmp_path / "run.toml")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Polls often, for a trainer that is quick as well."""
    monkeypatch.setattr(train, "POLL_S", 0.02)


class Trainer(threading.Thread):
    """Takes the next queued run, has a change found in it, and ends it in `status`."""

    def __init__(
        self,
        database: Database,
        status: RunStatus,
        before_it_ends: Callable[[], object] = lambda: None,
        last_found: Sequence[PhaseChange] = (DROP,),
    ) -> None:
        super().__init__(daemon=True)
        self._database, self._status = database, status
        self._before_it_ends, self._last_found = before_it_ends, last_found
        self.start()

    def run(self) -> None:
        run_id = self._claim()
        with self._database.transaction() as session:
            note_step(session, run_id, 40)
            store_scan(session, run_id, [DROP], list(range(0, 41, 10)), detector_version=1, ended=False)
        self._before_it_ends()
        with self._database.transaction() as session:
            store_scan(session, run_id, self._last_found, list(range(0, 41, 10)), detector_version=1, ended=True)
            failure = "loss is not finite" if self._status == "failed" else None
            release_run(session, run_id, "trainer", self._status, failure)

    def _claim(self) -> UUID:
        for _ in range(1000):
            with self._database.transaction() as session:
                run = claim_run(session, "trainer", 60)
                if run is not None:
                    return run.id
            time.sleep(0.01)
        raise AssertionError("no run was queued")


def when_told(monkeypatch: pytest.MonkeyPatch) -> Callable[[], bool]:
    """A function that waits until the command has told a change."""
    told = threading.Event()
    monkeypatch.setattr(train, "sentence", lambda change: (tables.sentence(change), told.set())[0])
    return lambda: told.wait(10)


def test_queues_what_the_file_says(phasewatch: Call, live: LiveServer, config: str) -> None:
    queued = phasewatch("train", config, "--tag", "a", "--tag", "b", "--json").json
    run = live.get(f"/runs/{queued['id']}")
    assert (run["status"], run["name"], run["tags"], run["n_steps"]) == ("queued", "control", ["a", "b"], 40)
    assert run["training"]["model"]["sublayers"] == "a"
    answer = phasewatch("train", config, "--name", "again")
    assert answer.status == 0
    assert f"`phasewatch show {live.get('/runs', name='again')['items'][0]['id']}`" in answer.out


@pytest.mark.usefixtures("quick", "live")
def test_follows_a_run_to_its_end_and_tells_each_change_as_it_comes(
    phasewatch: Call, sqlite_database: Database, config: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = Trainer(sqlite_database, "completed", when_told(monkeypatch))
    answer = phasewatch("train", config, "--follow")
    trainer.join()
    assert answer.status == 0
    following, _, shown = answer.out.partition("phase changes\n")
    assert f"• {DROP.explain()} (provisional)" in following
    assert f"• {DROP.explain()}\n" in following
    assert "40/40" in following
    assert shown == f"• {DROP.explain()}\n"


@pytest.mark.usefixtures("quick", "live")
def test_a_change_that_was_told_and_does_not_last_is_taken_back(
    phasewatch: Call, sqlite_database: Database, config: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = Trainer(sqlite_database, "completed", when_told(monkeypatch), last_found=())
    answer = phasewatch("train", config, "--follow")
    trainer.join()
    following, _, shown = answer.out.partition("phase changes\n")
    assert f"• {DROP.explain()} (withdrawn)" in following
    assert shown == "none found\n"


@pytest.mark.usefixtures("quick", "live")
def test_a_run_that_fails_is_status_1_and_says_why(phasewatch: Call, sqlite_database: Database, config: str) -> None:
    trainer = Trainer(sqlite_database, "failed")
    answer = phasewatch("train", config, "-f", "--json")
    trainer.join()
    assert answer.status == 1
    assert answer.json["run"]["failure"] == "loss is not finite"
    assert [change["state"] for change in answer.json["phase_changes"]] == ["confirmed"]
    assert DROP.explain() in answer.err


@pytest.mark.usefixtures("quick")
def test_a_server_that_is_away_for_a_while_is_waited_for(
    phasewatch: Call, live: LiveServer, sqlite_database: Database, config: str
) -> None:
    def restart() -> None:
        live.stop()
        time.sleep(0.3)
        live.start()

    trainer = Trainer(sqlite_database, "completed", restart)
    answer = phasewatch("train", config, "--follow")
    trainer.join()
    assert answer.status == 0


@pytest.mark.usefixtures("quick")
def test_a_server_that_stays_away_ends_the_watching(
    phasewatch: Call, live: LiveServer, sqlite_database: Database, config: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train, "AWAY_S", 0.2)
    trainer = Trainer(sqlite_database, "completed", live.stop)
    answer = phasewatch("train", config, "--follow")
    trainer.join()
    assert answer.status == 1
    assert "no phasewatch server answers" in answer.err


@pytest.mark.usefixtures("live", "quick")
def test_a_run_that_nobody_takes_is_explained_and_ctrl_c_leaves_it_alone(
    phasewatch: Call, live: LiveServer, config: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    polls = iter(range(5))

    def interrupted(seconds: float) -> None:
        if next(polls) == 4:
            raise KeyboardInterrupt

    monkeypatch.setattr(train, "QUEUED_HINT_S", 0.0)
    monkeypatch.setattr(train.time, "sleep", interrupted)
    answer = phasewatch("train", config, "--follow")
    [run] = live.get("/runs")["items"]
    assert answer.status == 130
    assert answer.out.count("no trainer has taken the run yet") == 1
    assert f"the run goes on; `phasewatch show {run['id']}`" in answer.err
    assert run["status"] == "queued"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"steps = ", "not TOML"),
        (b"stepps = 3", "stepps"),
        (b"[model]\nd_model = 0", "model.d_model"),
        (b'name = "\xff"', "not UTF-8"),
    ],
    ids=["not toml", "unknown field", "out of range", "not text"],
)
def test_a_file_that_cannot_be_used_is_named_before_anything_is_sent(
    phasewatch: Call, live: LiveServer, tmp_path: Path, text: bytes, message: str
) -> None:
    (tmp_path / "bad.toml").write_bytes(text)
    answer = phasewatch("train", str(tmp_path / "bad.toml"))
    assert answer.status == 1
    assert message in answer.err
    assert live.get("/runs")["items"] == []


def test_the_example_is_the_default_run_spelt_out() -> None:
    example = Path(__file__).parents[2] / "examples" / "two_layer.toml"
    assert TrainingConfig.from_toml(example.read_text()) == TrainingConfig(name="two-layer")


def test_a_file_that_is_not_there_is_a_wrong_call(phasewatch: Call, tmp_path: Path) -> None:
    assert phasewatch("train", str(tmp_path / "none.toml")).status == 2
