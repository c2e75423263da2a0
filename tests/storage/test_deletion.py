"""Deleting a run: nothing of it stays, nothing of others goes, the disk is freed, and a second try ends a first."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import pytest
from sqlalchemy import func, select, text

from phasewatch.detection.phase_change import PhaseChange
from phasewatch.errors import Conflict, NotFound, Unavailable
from phasewatch.storage import deletion
from phasewatch.storage.artifacts import Artifacts
from phasewatch.storage.checkpoints import NewCheckpoint, put_checkpoint, weights_name
from phasewatch.storage.database import Database
from phasewatch.storage.deletion import Freed, delete_run
from phasewatch.storage.events import events_after
from phasewatch.storage.jobs import NewJob, enqueue
from phasewatch.storage.losses import list_loss_slices, loss_history, put_losses
from phasewatch.storage.measurements import StoredMeasurement, list_measures, put_measurements
from phasewatch.storage.phase_changes import list_phase_changes, store_scan
from phasewatch.storage.runs import NewRun, claim_run, create_run, get_run, open_segment
from phasewatch.storage.schema import (
    Checkpoint,
    Job,
    LossBlock,
    LossSlice,
    MeasurementRow,
    PhaseChangeRow,
    ProbeSetRow,
    Run,
    Segment,
    SeriesValue,
    SliceRow,
)
from phasewatch.storage.series import load_series, put_series
from tests.conftest import MakeRun, make_probes
from tests.storage.test_losses import losses

TABLES: tuple[Any, ...] = (
    Checkpoint,
    Job,
    LossBlock,
    LossSlice,
    MeasurementRow,
    PhaseChangeRow,
    ProbeSetRow,
    Run,
    Segment,
    SeriesValue,
    SliceRow,
)
SHAPE = (100, 200)
N_STEPS = 4
WEIGHTS = b"w" * 10_000


def fill(database: Database, artifacts: Artifacts, run_id: UUID) -> None:
    """Something of everything, in two segments: 2 × 4 × 20,000 losses, and files of 2 × 10,000 bytes."""
    for segment in range(2):
        with database.transaction() as session:
            if segment:
                open_segment(session, run_id, N_STEPS // 2)
            for step in range(segment * N_STEPS // 2, segment * N_STEPS // 2 + N_STEPS):
                put_losses(session, run_id, "text", step, losses(step, SHAPE))
                put_series(session, run_id, {step: {"loss": 1.0, "lr": 0.1}})
                put_measurements(session, run_id, step, {"x": StoredMeasurement(1, np.zeros((2, 2)))})
                put_checkpoint(session, run_id, NewCheckpoint(step))
            enqueue(session, NewJob(key=f"{run_id} {segment}", kind="score", run_id=run_id, segment=segment))
        artifacts.put(weights_name(run_id, segment, 0), WEIGHTS)
    change = PhaseChange(1, 2, 3, "level", "drop", 1.0, "nats", "mean_loss:text")
    with database.transaction() as session:
        store_scan(session, run_id, [change], range(N_STEPS), detector_version=1, ended=True)


def count(database: Database) -> dict[str, int]:
    with database.reading() as session:
        return {table.__tablename__: session.scalar(select(func.count()).select_from(table)) or 0 for table in TABLES}


def disk(database: Database) -> int:
    """Bytes of the database's file, or of its tables."""
    if database.is_sqlite:
        return Path(str(database.url.database)).stat().st_size
    with database.reading() as session:
        sizes = " + ".join(f"pg_total_relation_size('{table.__tablename__}')" for table in TABLES)
        return session.scalar(text(f"SELECT {sizes}")) or 0


@pytest.fixture
def run_id(make_run: MakeRun) -> UUID:
    return make_run(probes=make_probes(SHAPE[0], SHAPE[1] + 1))


class TestOneRun:
    def test_nothing_stays(self, database: Database, artifacts: Artifacts, run_id: UUID) -> None:
        fill(database, artifacts, run_id)
        assert all(count(database).values())
        freed = delete_run(database, artifacts, run_id)
        assert not any(count(database).values())
        assert freed.artifacts_bytes == 2 * len(WEIGHTS)
        assert freed.n_rows == 1 + 2 * N_STEPS * (1 + 3 + 2 + 1 + 1)
        with pytest.raises(NotFound):
            artifacts.get(weights_name(run_id, 0, 0))
        with pytest.raises(NotFound, match=f"run {run_id} does not exist"):
            delete_run(database, artifacts, run_id)

    def test_the_disk_is_freed_and_it_says_how_much(
        self, database: Database, artifacts: Artifacts, run_id: UUID
    ) -> None:
        fill(database, artifacts, run_id)
        database.give_back_space()
        before = disk(database)
        freed = delete_run(database, artifacts, run_id)
        shrunk = before - disk(database)
        assert freed.database_bytes > 2 * 2 * N_STEPS * 20_000  # two bytes a loss at least
        assert shrunk >= 0.95 * freed.database_bytes
        assert freed.n_bytes == freed.database_bytes + freed.artifacts_bytes

    def test_it_is_told(self, database: Database, artifacts: Artifacts, run_id: UUID) -> None:
        delete_run(database, artifacts, run_id)
        with database.reading() as session:
            last = events_after(session, 0)[-1]
        assert (last.run_id, last.payload) == (run_id, {"status": "deleted", "name": "run"})

    def test_an_empty_one(self, database: Database, artifacts: Artifacts, make_run: MakeRun) -> None:
        assert delete_run(database, artifacts, make_run()) == Freed(1, 0, 0)


class TestOthers:
    def test_another_run_of_the_same_probe_set_keeps_everything(
        self, database: Database, artifacts: Artifacts, run_id: UUID, make_run: MakeRun
    ) -> None:
        fill(database, artifacts, run_id)
        alone = count(database)
        other = make_run(probes=make_probes(SHAPE[0], SHAPE[1] + 1))
        fill(database, artifacts, other)
        delete_run(database, artifacts, run_id)
        assert count(database) == alone
        with database.reading() as session:
            assert loss_history(session, other, "text", tokens=[0, 19_999]).values.shape == (N_STEPS * 3 // 2, 2)
            assert len(load_series(session, other)) == 2
            assert list_measures(session, other) == [("x", 1, N_STEPS * 3 // 2, N_STEPS * 3 // 2 - 1)]
            assert len(list_phase_changes(session, other)) == 1
        assert artifacts.get(weights_name(other, 1, 0)) == WEIGHTS

    def test_another_probe_set_stays(
        self, database: Database, artifacts: Artifacts, run_id: UUID, make_run: MakeRun
    ) -> None:
        make_run(probes=make_probes(seed=1))
        delete_run(database, artifacts, run_id)
        assert (count(database)["probe_sets"], count(database)["slices"]) == (1, 1)

    def test_a_child_stays_without_its_parent(
        self, database: Database, artifacts: Artifacts, run_id: UUID, make_run: MakeRun
    ) -> None:
        child = make_run(parent=run_id)
        delete_run(database, artifacts, run_id)
        with database.reading() as session:
            assert get_run(session, child).parent is None


class TestBatches:
    def test_no_transaction_holds_more_than_its_batch(
        self, database: Database, artifacts: Artifacts, run_id: UUID, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Between two batches others write, and the largest batch is as small as it was told to be."""
        fill(database, artifacts, run_id)
        monkeypatch.setattr(deletion, "_TABLES", ((LossSlice, 5), (LossBlock, 4)))
        taken: list[tuple[Any, int]] = []

        def take(session: Any, table: Any, condition: Any, limit: int) -> tuple[int, int]:
            n_rows, n_bytes = delete_batch(session, table, condition, limit)
            taken.append((table, n_rows))
            return n_rows, n_bytes

        delete_batch = deletion._delete_batch
        monkeypatch.setattr(deletion, "_delete_batch", take)
        delete_run(database, artifacts, run_id)
        assert max(n_rows for table, n_rows in taken if table is LossBlock) == 4
        assert sum(n_rows for table, n_rows in taken if table is LossBlock) == 2 * N_STEPS * 3
        assert not any(count(database).values())

    def test_cut_short_it_is_finished_by_the_next(
        self, database: Database, artifacts: Artifacts, run_id: UUID, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        fill(database, artifacts, run_id)

        def away(self: Artifacts, name: str) -> int:
            raise Unavailable("the disk is away")

        monkeypatch.setattr(Artifacts, "delete_folder", away)
        with pytest.raises(Unavailable):
            delete_run(database, artifacts, run_id)
        monkeypatch.undo()
        with database.reading() as session:
            assert get_run(session, run_id).status == "cancelled"
            assert list_loss_slices(session, run_id, "text") == []
        assert delete_run(database, artifacts, run_id).artifacts_bytes == 2 * len(WEIGHTS)
        assert not any(count(database).values())


class TestHeld:
    def test_by_a_trainer_it_is_not_deleted(self, database: Database, artifacts: Artifacts) -> None:
        with database.transaction() as session:
            run_id = create_run(session, NewRun("run", training={}))[0].id
        with database.transaction() as session:
            claim_run(session, "trainer-1", 30.0)
        with pytest.raises(Conflict, match=f"run {run_id} is held by trainer-1; cancel it"):
            delete_run(database, artifacts, run_id)
        with database.reading() as session:
            assert get_run(session, run_id).status == "running"

    def test_by_a_lost_trainer_it_is_deleted_and_never_claimed(self, database: Database, artifacts: Artifacts) -> None:
        with database.transaction() as session:
            run_id = create_run(session, NewRun("run", training={}))[0].id
        with database.transaction() as session:
            claim_run(session, "lost", -1.0)
        delete_run(database, artifacts, run_id)
        with database.transaction() as session:
            assert claim_run(session, "trainer-2", 30.0) is None
