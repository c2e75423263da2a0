"""Phase changes over many scans: a change keeps its id, is confirmed or withdrawn, and what people said of it stays."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import UUID

import numpy as np
import pytest

from phasewatch.detection.phase_change import PhaseChange
from phasewatch.errors import NotFound
from phasewatch.storage.database import Database
from phasewatch.storage.events import events_after
from phasewatch.storage.phase_changes import (
    change_tokens,
    get_phase_change,
    is_settled,
    list_phase_changes,
    match_changes,
    review_phase_change,
    row_to_change,
    store_scan,
)
from phasewatch.storage.schema import PhaseChangeRow
from tests.conftest import MakeRun

STEPS = tuple(range(0, 1_001, 20))


def change(step: int = 200, width: int = 100, **content: Any) -> PhaseChange:
    """A drop of the mean loss around `step`."""
    values: dict[str, Any] = {
        "start_step": step - width // 2,
        "step": step,
        "end_step": step + width // 2,
        "kind": "level",
        "direction": "drop",
        "effect": 0.5,
        "unit": "nats",
        "measure": "mean_loss:text",
    }
    return PhaseChange(**values | content)


def scan(
    database: Database,
    run_id: UUID,
    found: Sequence[PhaseChange],
    steps: Sequence[int] = STEPS,
    *,
    ended: bool = False,
) -> list[PhaseChangeRow]:
    """Stores a scan; every change of the run, withdrawn ones too."""
    with database.transaction() as session:
        store_scan(session, run_id, found, steps, detector_version=3, ended=ended, slice_name="text")
    with database.reading() as session:
        return list(list_phase_changes(session, run_id, withdrawn=True))


class TestKept:
    FULL = change(
        start_interval=(140.0, 160.0),
        step_interval=(190.5, 220.25),
        end_interval=(240.0, float("inf")),
        tokens=np.array([7, 3, 100_000]),
        heads=((1, 0), (1, 3)),
        signs={"icl_score": "present", "repeat_gain": "not measured"},
        induction=True,
        q_value=1e-12,
        q_scope="49 times × 16,256 tokens",
        n_checkpoints_inside=5,
        coincides_with=("warm-up ends",),
        remarks=("few checkpoints inside",),
    )
    CENSORED = change(end_step=None, effect=0.0, kind="hidden", direction="rise")

    @pytest.mark.parametrize("given", [FULL, CENSORED, change()], ids=["full", "censored", "plain"])
    def test_it_comes_back_as_the_detector_gave_it(
        self, database: Database, make_run: MakeRun, given: PhaseChange
    ) -> None:
        (row,) = scan(database, make_run(), [given])
        found = row_to_change(row)
        for field in dataclasses.fields(PhaseChange):
            expected, stored = getattr(given, field.name), getattr(found, field.name)
            if field.name == "tokens" and expected is not None:
                np.testing.assert_array_equal(stored, expected)
            else:
                assert stored == expected, field.name

    def test_its_tokens_are_in_order_of_certainty_and_counted(self, database: Database, make_run: MakeRun) -> None:
        full, plain = scan(database, make_run(), [self.FULL, change(step=800)])
        assert change_tokens(full).tolist() == [7, 3, 100_000]
        assert (full.n_tokens, full.slice) == (3, "text")
        assert change_tokens(plain).tolist() == []
        assert (plain.n_tokens, plain.slice) == (None, None)


class TestScans:
    def test_a_change_seen_again_keeps_its_id_and_moves(self, database: Database, make_run: MakeRun) -> None:
        run_id = make_run()
        (first,) = scan(database, run_id, [change(200)], STEPS[:15])
        (again,) = scan(database, run_id, [change(220, effect=0.7)], STEPS[:20])
        assert (again.id, again.step, again.effect) == (first.id, 220, 0.7)
        assert (again.first_seen_step, again.last_seen_step) == (280, 380)

    def test_one_that_is_not_over_is_provisional_until_three_checkpoints_lie_beyond(
        self, database: Database, make_run: MakeRun
    ) -> None:
        run_id, states = make_run(), []
        for n_steps in range(13, 18):  # the change ends at step 250; checkpoints 260, 280, 300 lie beyond
            (row,) = scan(database, run_id, [change(200)], STEPS[:n_steps])
            states.append(row.state)
        assert states == ["provisional", "provisional", "provisional", "confirmed", "confirmed"]

    def test_an_open_end_is_provisional_while_the_run_goes_on(self, database: Database, make_run: MakeRun) -> None:
        run_id = make_run()
        assert scan(database, run_id, [change(end_step=None)])[0].state == "provisional"
        assert scan(database, run_id, [change(end_step=None)], ended=True)[0].state == "confirmed"

    def test_one_no_longer_seen_is_withdrawn_and_comes_back_under_its_id(
        self, database: Database, make_run: MakeRun
    ) -> None:
        run_id = make_run()
        (first,) = scan(database, run_id, [change()], STEPS[:15])
        (gone,) = scan(database, run_id, [], STEPS[:16])
        assert (gone.id, gone.state, gone.last_seen_step) == (first.id, "withdrawn", 300)
        with database.reading() as session:
            assert list_phase_changes(session, run_id) == []
        (back,) = scan(database, run_id, [change()])
        assert (back.id, back.state, back.first_seen_step) == (first.id, "confirmed", 280)

    def test_a_scan_without_checkpoints_says_nothing(self, database: Database, make_run: MakeRun) -> None:
        run_id = make_run()
        scan(database, run_id, [change()])
        assert [row.state for row in scan(database, run_id, [], [])] == ["confirmed"]

    def test_several_changes_are_told_apart(self, database: Database, make_run: MakeRun) -> None:
        run_id = make_run()
        before = scan(database, run_id, [change(200), change(600), change(200, direction="rise")])
        after = scan(database, run_id, [change(610), change(190, direction="rise"), change(210)])
        assert {row.id for row in before} == {row.id for row in after}
        moved = {row.id: row.step for row in after}
        assert [moved[row.id] for row in before if row.direction == "drop"] == [210, 610]

    def test_runs_do_not_mix(self, database: Database, make_run: MakeRun) -> None:
        first, second = make_run(), make_run()
        scan(database, first, [change()])
        assert scan(database, second, []) == []
        assert scan(database, first, [change()])[0].state == "confirmed"

    def test_two_scans_at_once_make_one_change(self, database: Database, make_run: MakeRun) -> None:
        run_id, barrier = make_run(), threading.Barrier(2)

        def store(step: int) -> None:
            barrier.wait()
            with database.transaction() as session:
                store_scan(session, run_id, [change(step)], STEPS, detector_version=1, ended=False)

        with ThreadPoolExecutor(2) as pool:
            list(pool.map(store, (200, 220)))
        with database.reading() as session:
            assert len(list_phase_changes(session, run_id, withdrawn=True)) == 1

    def test_news_are_told_and_repeats_are_not(self, database: Database, make_run: MakeRun) -> None:
        run_id = make_run()
        for found in ([change(200)], [change(200)], [change(220)], [], []):
            scan(database, run_id, found)
        with database.reading() as session:
            told = [event.payload for event in events_after(session, 0) if event.kind == "phase_change"]
        assert [(news["state"], news.get("step")) for news in told] == [
            ("confirmed", 200),
            ("confirmed", 220),
            ("withdrawn", None),
        ]


class TestMatching:
    @pytest.mark.parametrize(
        ("stored", "found", "same"),
        [
            pytest.param(change(200), change(240), True, id="times overlap"),
            pytest.param(change(200), change(400), False, id="times apart"),
            pytest.param(change(200), change(200, direction="rise"), False, id="other direction"),
            pytest.param(change(200), change(200, measure="icl_score"), False, id="other measure"),
            pytest.param(
                change(200, induction=True, measure="prefix_matching:L1H0"),
                change(200, induction=True, measure="prefix_matching:L1H1", direction="rise"),
                True,
                id="induction, read off another head",
            ),
            pytest.param(change(200), change(200, induction=True), False, id="induction or not"),
            pytest.param(change(200, end_step=None), change(900), True, id="an open end overlaps what follows"),
        ],
    )
    def test_what_is_the_same_change(self, stored: PhaseChange, found: PhaseChange, same: bool) -> None:
        assert match_changes([stored], [found]) == [0 if same else None]

    def test_the_nearest_in_log_step_wins_and_each_matches_once(self) -> None:
        stored = [change(100, 150), change(200, 150)]
        assert match_changes(stored, [change(150, 150), change(190, 150)]) == [0, 1]
        assert match_changes(stored, [change(190, 150), change(180, 150), change(170, 150)]) == [1, None, 0]

    def test_nothing_matches_nothing(self) -> None:
        assert match_changes([], []) == []
        assert match_changes([change()], []) == []
        assert match_changes([], [change()]) == [None]


class TestSettled:
    @pytest.mark.parametrize(("last", "settled"), [(260, False), (300, False), (320, True)])
    def test_needs_three_checkpoints_beyond_its_end(self, last: int, settled: bool) -> None:
        assert is_settled(change(step=210, width=100), range(0, last + 1, 20)) is settled


class TestReview:
    def test_stays_through_scans(self, database: Database, make_run: MakeRun) -> None:
        run_id = make_run()
        (row,) = scan(database, run_id, [change()])
        with database.transaction() as session:
            review_phase_change(session, row.id, "acknowledged", "seen in seed 1, too\x00")
        scan(database, run_id, [])
        (row,) = scan(database, run_id, [change(220)])
        assert (row.review, row.note) == ("acknowledged", "seen in seed 1, too\ufffd")
        with database.transaction() as session:
            assert review_phase_change(session, row.id, None, None).review is None

    def test_an_unknown_change_is_named(self, database: Database) -> None:
        with database.reading() as session, pytest.raises(NotFound, match=r"phase change 0{8}-.* does not exist"):
            get_phase_change(session, UUID(int=0))
