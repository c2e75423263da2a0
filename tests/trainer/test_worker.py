"""The worker: what it writes, how it gives a run back, and that it outlasts a database that is away."""

from __future__ import annotations

import threading
from pathlib import Path
from uuid import UUID

import numpy as np
import pytest
from sqlalchemy.exc import OperationalError

from phasewatch.measures import token_losses
from phasewatch.storage.artifacts import Artifacts
from phasewatch.storage.checkpoints import get_checkpoint, list_checkpoints, resumable_checkpoints
from phasewatch.storage.codecs import round_mantissa
from phasewatch.storage.database import Database
from phasewatch.storage.losses import get_losses
from phasewatch.storage.probe_sets import load_probe_set
from phasewatch.storage.runs import claim_run, get_run, list_segments, open_segment, request_status
from phasewatch.storage.schema import Run
from server.migrations import upgrade
from tests.conftest import MakeRun
from tests.trainer import small
from tests.trainer.worker_runs import kept_of, settings, training
from trainer import worker as worker_module
from trainer.__main__ import wait_for_schema
from trainer.checkpointing import load_model
from trainer.worker import Worker


@pytest.fixture
def text(tmp_path: Path) -> Path:
    return small.write_folder(tmp_path / "text")


@pytest.fixture
def worker(database: Database, artifacts: Artifacts, tmp_path: Path) -> Worker:
    return Worker(database, artifacts, settings(str(database.url), artifacts.url, tmp_path / "data"))


def status_of(database: Database, run_id: UUID) -> Run:
    with database.reading() as session:
        return get_run(session, run_id)


class StopAt(threading.Event):
    """Set once it has been asked `calls` times, as if a signal came in the middle of training."""

    def __init__(self, calls: int) -> None:
        super().__init__()
        self.left = calls

    def is_set(self) -> bool:
        self.left -= 1
        return self.left < 0 or super().is_set()


def test_a_queued_run_is_trained_and_all_of_it_kept(
    database: Database, artifacts: Artifacts, make_run: MakeRun, worker: Worker, text: Path
) -> None:
    run_id = make_run(training=training(text))
    worker.work(threading.Event(), once=True)
    run = status_of(database, run_id)
    assert (run.status, run.owner, run.failure, run.last_step) == ("completed", None, None, 12)
    kept = kept_of(database, artifacts, run_id)
    assert sorted(step for what, name, step in kept if (what, name) == ("losses", "text")) == [0, 5, 10, 12]
    assert sorted(step for what, _, step in kept if what == "weights") == [0, 5, 10, 12]
    assert sorted(step for what, name, step in kept if (what, name) == ("series", "loss")) == list(range(1, 13))


def test_the_losses_kept_are_those_of_the_weights_kept(
    database: Database, artifacts: Artifacts, make_run: MakeRun, worker: Worker, text: Path
) -> None:
    run_id = make_run(training=training(text))
    worker.work(threading.Event(), once=True)
    with database.reading() as session:
        probes = load_probe_set(session, str(get_run(session, run_id).probe_set_id))
        checkpoint = get_checkpoint(session, run_id, 10)
        stored = get_losses(session, run_id, "text", 10)
    model = load_model(artifacts.get(str(checkpoint.artifact_url), checkpoint.sha256))
    again = token_losses(model, probes.slices["text"].tokens)
    np.testing.assert_array_equal(stored, round_mantissa(again))
    assert checkpoint.tokens_seen == 10 * 4 * 16


def test_only_the_newest_two_states_are_kept(
    database: Database, artifacts: Artifacts, make_run: MakeRun, worker: Worker, text: Path
) -> None:
    run_id = make_run(training=training(text))
    worker.work(threading.Event(), once=True)
    with database.reading() as session:
        assert [row.step for row in resumable_checkpoints(session, run_id)] == [12, 10]
    assert len(list(Path(artifacts.url).rglob("*.state.safetensors"))) == 2


def test_stopped_in_the_middle_it_gives_the_run_back_and_another_goes_on_as_if_nothing_had_been(
    database: Database, artifacts: Artifacts, make_run: MakeRun, worker: Worker, text: Path, tmp_path: Path
) -> None:
    unbroken, broken = make_run(training=training(text)), None
    worker.work(threading.Event(), once=True)
    broken = make_run(training=training(text))
    worker.work(StopAt(9), once=True)
    run = status_of(database, broken)
    assert (run.status, run.owner) == ("queued", None)
    with database.reading() as session:
        stopped_at = list_checkpoints(session, broken)[-1].step
    assert stopped_at not in (0, 5, 10, 12)  # a step the schedule does not ask for
    other = Worker(database, artifacts, settings(str(database.url), artifacts.url, tmp_path / "other"))
    other.work(threading.Event(), once=True)
    assert kept_of(database, artifacts, broken) == kept_of(database, artifacts, unbroken)
    with database.reading() as session:
        assert [segment.from_step for segment in list_segments(session, broken)] == [0, stopped_at]


@pytest.mark.parametrize(("action", "status"), [("pause", "paused"), ("cancel", "cancelled")])
def test_a_run_stopped_over_the_api_keeps_that_status_and_can_be_resumed(
    database: Database, artifacts: Artifacts, make_run: MakeRun, worker: Worker, text: Path, action: str, status: str
) -> None:
    run_id = make_run(training=training(text, steps=100_000))
    ended = threading.Thread(target=worker.work, args=(threading.Event(),), kwargs={"once": True})
    ended.start()
    while (status_of(database, run_id).last_step or 0) < 5:
        pass
    with database.transaction() as session:
        request_status(session, run_id, action)
    ended.join(timeout=30)
    assert not ended.is_alive()
    run = status_of(database, run_id)
    assert (run.status, run.owner) == (status, None)
    with database.reading() as session:
        stopped_at = resumable_checkpoints(session, run_id)[0].step
    with database.transaction() as session:
        request_status(session, run_id, "resume")
    worker.work(StopAt(30), once=True)
    with database.reading() as session:
        assert list_checkpoints(session, run_id)[-1].step > stopped_at


def test_a_run_that_cannot_be_trained_is_failed_with_the_reason(
    database: Database, make_run: MakeRun, worker: Worker, tmp_path: Path
) -> None:
    missing = make_run(training=training(tmp_path / "missing"))
    unknown = make_run(training={"steps": -3})
    worker.work(threading.Event(), once=True)
    assert "missing' is neither" in str(status_of(database, missing).failure)
    assert "steps" in str(status_of(database, unknown).failure)
    assert {status_of(database, run_id).status for run_id in (missing, unknown)} == {"failed"}


def test_a_worker_that_lost_its_lease_writes_nothing_more(
    database: Database, artifacts: Artifacts, make_run: MakeRun, worker: Worker, text: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    run_id = make_run(training=training(text))
    save = worker_module.save_weights

    def lose_lease(model: object) -> bytes:
        if status_of(database, run_id).last_step == 5:
            with database.transaction() as session:
                get_run(session, run_id).lease_expires_at = None
                assert claim_run(session, "another", 60.0) is not None
                open_segment(session, run_id, 6)
        return save(model)  # type: ignore[arg-type]

    monkeypatch.setattr(worker_module, "save_weights", lose_lease)
    worker.work(threading.Event(), once=True)
    run = status_of(database, run_id)
    assert (run.status, run.owner, run.last_step) == ("running", "another", 5)


def test_while_the_database_is_away_it_waits_and_loses_nothing(
    database: Database, artifacts: Artifacts, make_run: MakeRun, worker: Worker, text: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    unbroken = make_run(training=training(text))
    worker.work(threading.Event(), once=True)
    run_id = make_run(training=training(text))
    put, failures = worker_module.put_losses, iter(range(1_000))

    def away_now_and_then(*arguments: object, **named: object) -> bool:
        if next(failures) % 4 == 0:  # a recording puts three slices, so its next try comes through
            raise OperationalError("INSERT", {}, Exception("the server closed the connection"))
        return put(*arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(worker_module, "put_losses", away_now_and_then)
    monkeypatch.setattr(worker_module, "RETRY_S", (0.0,))
    worker.work(threading.Event(), once=True)
    assert next(failures) > 12
    assert kept_of(database, artifacts, run_id) == kept_of(database, artifacts, unbroken)


def test_a_damaged_state_is_passed_over_for_the_one_before_it(
    database: Database, artifacts: Artifacts, make_run: MakeRun, worker: Worker, text: Path
) -> None:
    unbroken = make_run(training=training(text))
    worker.work(threading.Event(), once=True)
    run_id = make_run(training=training(text))
    worker.work(StopAt(9), once=True)
    with database.reading() as session:
        newest, before = resumable_checkpoints(session, run_id)
    damaged = Path(artifacts.url) / str(newest.state_url)
    damaged.write_bytes(damaged.read_bytes()[:-1] + bytes([damaged.read_bytes()[-1] ^ 1]))
    worker.work(threading.Event(), once=True)
    with database.reading() as session:
        assert list_segments(session, run_id)[-1].from_step == before.step + 1
    assert kept_of(database, artifacts, run_id) == kept_of(database, artifacts, unbroken)


def test_it_waits_for_a_service_that_is_just_migrating_the_database(bare_database_url: str) -> None:
    database = Database(bare_database_url)
    stop = threading.Event()
    waiting = threading.Thread(target=wait_for_schema, args=(database, stop))
    waiting.start()
    waiting.join(timeout=0.5)
    assert waiting.is_alive()
    upgrade(database)
    waiting.join(timeout=30)
    assert not waiting.is_alive()
    assert not stop.is_set()
    database.close()
