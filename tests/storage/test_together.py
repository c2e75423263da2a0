from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from uuid import UUID

import numpy as np
import pytest
from sqlalchemy import event, text
from sqlalchemy.exc import IntegrityError, OperationalError
from sqlalchemy.orm import Session

from phasewatch.errors import Conflict, InvalidInput, NotFound, PhasewatchError, UnknownSlice
from phasewatch.probes import Layout, ProbeSet, Slice
from phasewatch.storage.database import Database
from phasewatch.storage.loss_writes import LossWrite, prepare_losses, store_losses
from phasewatch.storage.losses import get_losses, loss_history
from phasewatch.storage.probe_sets import put_probe_set
from phasewatch.storage.runs import get_run, open_segment, set_probe_set
from phasewatch.storage.schema import LossSlice
from phasewatch.storage.together import Together
from tests.conftest import MakeRun

VALUES = np.arange(40, dtype=np.float32).reshape(4, 10)
PATIENCE_S = 60.0


@pytest.fixture
def run_id(database: Database, make_run: MakeRun) -> UUID:
    found = make_run()
    probes = ProbeSet(slices={"text": Slice(np.arange(44).reshape(4, 11), Layout("text"))})
    with database.transaction() as session:
        put_probe_set(session, probes)
        set_probe_set(session, found, probes.sha256)
    return found


def written(run_id: UUID, step: int, add: float = 0.0, **more: int) -> LossWrite:
    return prepare_losses(run_id, "text", step, VALUES + np.float32(add), **more)  # type: ignore[arg-type]


class TestStoreLosses:
    def test_each_gets_its_own_answer(self, database: Database, run_id: UUID, make_run: MakeRun) -> None:
        bare = make_run()
        absent = UUID(int=7)
        wrong_shape = prepare_losses(run_id, "text", 1, VALUES[:3])
        writes = [
            written(run_id, 1), written(run_id, 2), written(run_id, 1), written(run_id, 1, add=1.0),
            prepare_losses(run_id, "other", 1, VALUES), prepare_losses(bare, "text", 1, VALUES),
            prepare_losses(absent, "text", 1, VALUES), wrong_shape, written(run_id, 3, segment=9),
        ]  # fmt: skip
        with database.transaction() as session:
            answers = store_losses(session, writes)
        kinds = [answer[1] if isinstance(answer, tuple) else type(answer) for answer in answers]
        assert kinds == [
            True, True, False, Conflict, UnknownSlice, UnknownSlice, NotFound, InvalidInput, NotFound,
        ]  # fmt: skip
        with database.reading() as session:
            assert loss_history(session, run_id, "text").steps.tolist() == [1, 2]
            np.testing.assert_array_equal(get_losses(session, run_id, "text", 1), VALUES)
            assert get_run(session, run_id).last_step == 2

    def test_the_newest_segment_is_meant_unless_another_is_named(self, database: Database, run_id: UUID) -> None:
        with database.transaction() as session:
            open_segment(session, run_id, 10)
        with database.transaction() as session:
            answers = store_losses(session, [written(run_id, 12), written(run_id, 3, segment=0), written(run_id, 3)])
        numbers = [answer[0].segment_id if isinstance(answer, tuple) else str(answer) for answer in answers]
        assert isinstance(answers[2], InvalidInput)
        assert numbers[0] != numbers[1]
        with database.reading() as session:
            assert loss_history(session, run_id, "text").steps.tolist() == [3, 12]

    @pytest.mark.parametrize(
        ("values", "n_non_finite", "mean"),
        [([1.0, 2.0, 6.0], 0, 3.0), ([1.0, np.nan, np.inf, 2.0], 2, 1.5), ([np.inf, -np.inf], 2, None), ([], 0, None)],
        ids=str,
    )
    def test_what_is_not_finite_is_counted_and_left_out_of_the_mean(
        self, values: list[float], n_non_finite: int, mean: float | None
    ) -> None:
        write = prepare_losses(UUID(int=1), "text", 0, np.array(values, np.float32))
        assert (write.n_non_finite, write.mean_nats) == (n_non_finite, mean)


class TestTogether:
    def test_what_waits_while_one_commits_is_the_next_transaction(self, database: Database, run_id: UUID) -> None:
        sizes: list[int] = []
        first, go_on = threading.Event(), threading.Event()

        def store(session: Session, writes: Sequence[LossWrite]) -> Sequence[tuple[LossSlice, bool] | PhasewatchError]:
            sizes.append(len(writes))
            first.set()
            assert go_on.wait(PATIENCE_S)
            return store_losses(session, writes)

        together = Together(database, store)
        with ThreadPoolExecutor(6) as threads:
            futures = [threads.submit(together.put, written(run_id, 0))]
            assert first.wait(PATIENCE_S)
            futures += [threads.submit(together.put, written(run_id, step)) for step in range(1, 6)]
            deadline = time.monotonic() + PATIENCE_S
            while len(together) < 5 and time.monotonic() < deadline:
                time.sleep(0.001)
            go_on.set()
            assert all(future.result(PATIENCE_S)[1] for future in futures)
        assert sizes == [1, 5]
        with database.reading() as session:
            assert loss_history(session, run_id, "text").steps.tolist() == list(range(6))

    def test_nobody_is_told_before_the_commit(self, database: Database, run_id: UUID) -> None:
        together = Together(database, store_losses)

        def refuse(connection: object) -> None:
            raise OperationalError("COMMIT", {}, Exception("disk full"))

        event.listen(database.engine, "commit", refuse)
        with pytest.raises(OperationalError, match="disk full"):
            together.put(written(run_id, 1))
        event.remove(database.engine, "commit", refuse)
        assert together.put(written(run_id, 1))[1]  # it was not there

    def test_one_that_cannot_be_written_does_not_keep_the_others_from_it(
        self, database: Database, run_id: UUID
    ) -> None:
        def store(session: Session, writes: Sequence[int]) -> Sequence[int | PhasewatchError]:
            if 3 in writes:
                raise IntegrityError("INSERT", {}, Exception("no such thing"))
            session.execute(text("SELECT 1"))
            return [2 * write if write % 2 else Conflict(f"{write} is even") for write in writes]

        together = Together(database, store)
        with ThreadPoolExecutor(8) as threads:
            futures = [threads.submit(together.put, number) for number in range(8)]
        errors = [type(future.exception()) for future in futures]
        assert errors == [Conflict, type(None), Conflict, IntegrityError, Conflict, type(None), Conflict, type(None)]
        assert [futures[number].result() for number in (1, 5, 7)] == [2, 10, 14]

    def test_many_threads_write_each_key_once(self, database: Database, run_id: UUID) -> None:
        both = [Together(database, store_losses), Together(database, store_losses)]  # as of two processes
        with ThreadPoolExecutor(8) as threads:
            futures = [threads.submit(both[number % 2].put, written(run_id, number // 2)) for number in range(60)]
        assert sum(future.result()[1] for future in futures) == 30
