"""Segments: what a resume hides, and that reads show the visible history whatever the order of resumes."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from uuid import UUID

import numpy as np
import pytest

from phasewatch.errors import InvalidInput, NotFound
from phasewatch.storage.database import Database
from phasewatch.storage.losses import list_loss_slices, put_losses
from phasewatch.storage.runs import get_run, get_segment, list_segments, open_segment, visible_stretches
from phasewatch.storage.series import load_series, put_series
from tests.conftest import MakeRun, make_probes
from tests.storage.test_losses import losses

STEPS = (0, 10, 20, 30, 40)


def visible(database: Database, run_id: UUID) -> dict[int, int]:
    """step -> the segment whose value is shown; every segment logged its own number at every step it may write."""
    with database.reading() as session:
        steps, values = load_series(session, run_id)["segment"]
    return dict(zip(steps, map(int, values), strict=True))


def resume(database: Database, run_id: UUID, from_step: int) -> int:
    """Opens a segment and logs its number at all steps from there on."""
    with database.transaction() as session:
        number = open_segment(session, run_id, from_step).number
        put_series(session, run_id, {step: {"segment": number} for step in STEPS if step >= from_step})
    return number


def expected(from_steps: tuple[int, ...]) -> dict[int, int]:
    """The rule in words: the newest segment that begins at or before a step is the one that shows it."""
    starts = (0, *from_steps)
    return {step: max(number for number, start in enumerate(starts) if start <= step) for step in STEPS}


ORDERS: tuple[tuple[int, ...], ...] = (
    (),
    (20,),
    (20, 30),  # a later one after it
    (30, 20),  # an earlier one after it
    (20, 20),
    (0,),  # from the beginning
    (30, 0, 20),
    (15, 35, 25, 5),  # between steps
    (10, 40, 20, 30),
)


class TestVisible:
    def test_every_order_of_resumes(self, database: Database, make_run: MakeRun) -> None:
        for from_steps in ORDERS:
            run_id = make_run()
            with database.transaction() as session:
                put_series(session, run_id, {step: {"segment": 0} for step in STEPS})
            numbers = [resume(database, run_id, from_step) for from_step in from_steps]
            assert numbers == list(range(1, len(from_steps) + 1))
            assert visible(database, run_id) == expected(from_steps)

    def test_random_orders(self, sqlite_database: Database, make_run: MakeRun) -> None:
        rng = np.random.default_rng(0)
        for _ in range(20):
            run_id = make_run()
            from_steps = tuple(map(int, rng.integers(0, 45, rng.integers(1, 6))))
            with sqlite_database.transaction() as session:
                put_series(session, run_id, {step: {"segment": 0} for step in STEPS})
            for from_step in from_steps:
                resume(sqlite_database, run_id, from_step)
            assert visible(sqlite_database, run_id) == expected(from_steps)

    def test_stretches_do_not_overlap_and_leave_no_gap(self, database: Database, make_run: MakeRun) -> None:
        run_id = make_run()
        for from_step in (20, 30, 10, 25):
            resume(database, run_id, from_step)
        with database.reading() as session:
            stretches = visible_stretches(session, run_id)
        assert stretches[0].first == 0
        assert all(left.end == right.first for left, right in pairwise(stretches))
        assert stretches[-1].end > 2**62

    def test_what_an_older_segment_writes_later_is_kept_and_hidden(self, database: Database, make_run: MakeRun) -> None:
        """A recorder's late batch belongs to the segment it was recorded in."""
        run_id = make_run(probes=make_probes())
        with database.transaction() as session:
            open_segment(session, run_id, 20)
            put_losses(session, run_id, "text", 20, losses(1))
            assert put_losses(session, run_id, "text", 20, losses(2), segment=0) is True
            assert put_losses(session, run_id, "text", 10, losses(3), segment=0) is True
            found = [(header.step, header.sha256) for header in list_loss_slices(session, run_id, "text")]
        assert [step for step, _ in found] == [10, 20]
        with database.transaction() as session:
            assert put_losses(session, run_id, "text", 20, losses(1)) is False


class TestOpen:
    def test_a_run_begins_with_segment_0(self, database: Database, make_run: MakeRun) -> None:
        run_id = make_run()
        with database.reading() as session:
            assert [(row.number, row.from_step) for row in list_segments(session, run_id)] == [(0, 0)]
            assert get_segment(session, run_id).number == 0

    def test_newest_is_the_default(self, database: Database, make_run: MakeRun) -> None:
        run_id = make_run()
        resume(database, run_id, 30)
        resume(database, run_id, 10)
        with database.reading() as session:
            assert get_segment(session, run_id).from_step == 10
            assert get_segment(session, run_id, 1).from_step == 30

    def test_an_unknown_one_is_named(self, database: Database, make_run: MakeRun) -> None:
        run_id = make_run()
        for number in [-1, 2, 2**31, 2**70]:
            with database.reading() as session, pytest.raises(NotFound, match=f"run {run_id} has no segment {number}"):
                get_segment(session, run_id, number)

    def test_what_is_not_a_step_is_refused(self, database: Database, make_run: MakeRun) -> None:
        run_id = make_run()
        for from_step in [-1, 2**63]:
            with (
                database.transaction() as session,
                pytest.raises(InvalidInput, match=f"step {from_step} is out of range"),
            ):
                open_segment(session, run_id, from_step)

    def test_writes_before_its_first_step_are_refused(self, database: Database, make_run: MakeRun) -> None:
        run_id = make_run(probes=make_probes())
        with database.transaction() as session:
            open_segment(session, run_id, 20)
            with pytest.raises(InvalidInput, match="step 19 is out of range; segment 1 takes steps from 20"):
                put_losses(session, run_id, "text", 19, losses())
            with pytest.raises(InvalidInput, match="step 19 is out of range; segment 1 takes steps from 20"):
                put_series(session, run_id, {19: {"loss": 1.0}})

    def test_opened_by_many_at_once_each_gets_its_number(self, database: Database, make_run: MakeRun) -> None:
        run_id, barrier = make_run(), threading.Barrier(8)

        def open_one(from_step: int) -> int:
            barrier.wait()
            with database.transaction() as session:
                return open_segment(session, run_id, from_step).number

        with ThreadPoolExecutor(8) as pool:
            assert sorted(pool.map(open_one, range(8))) == list(range(1, 9))

    def test_the_runs_newest_step_is_one_that_is_still_shown(self, database: Database, make_run: MakeRun) -> None:
        for recorded, from_step, last in [(30, 20, 19), (10, 20, 10), (30, 0, None), (None, 20, None)]:
            run_id = make_run()
            with database.transaction() as session:
                if recorded is not None:
                    put_series(session, run_id, {recorded: {"loss": 1.0}})
                open_segment(session, run_id, from_step)
            with database.reading() as session:
                assert get_run(session, run_id).last_step == last
