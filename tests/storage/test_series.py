"""Training metrics: batches that may be repeated, conflicts, and numbers that are not ordinary."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any
from uuid import UUID

import numpy as np
import pytest

from phasewatch.errors import Conflict, InvalidInput
from phasewatch.storage.database import Database
from phasewatch.storage.runs import get_run, open_segment
from phasewatch.storage.series import list_series, load_series, put_series
from tests.conftest import MakeRun

ODD = [0.0, -0.0, math.inf, -math.inf, math.nan, 5e-324, 1.7976931348623157e308, 0.1 + 0.2, -1e-300]


def put(database: Database, run_id: UUID, values: Mapping[Any, Mapping[str, Any]], **options: Any) -> int:
    with database.transaction() as session:
        return put_series(session, run_id, values, **options)


def load(database: Database, run_id: UUID, *names: str) -> dict[str, tuple[list[int], list[float]]]:
    with database.reading() as session:
        return load_series(session, run_id, names or None)


class TestPut:
    def test_what_is_read_is_what_was_written(self, database: Database, make_run: MakeRun) -> None:
        run_id = make_run()
        assert put(database, run_id, {2: {"loss": 2.5}, 0: {"loss": 3.5, "lr": 0.1}}) == 3
        assert load(database, run_id) == {"loss": ([0, 2], [3.5, 2.5]), "lr": ([0], [0.1])}

    def test_the_same_again_changes_nothing_and_only_new_values_count(
        self, database: Database, make_run: MakeRun
    ) -> None:
        run_id = make_run()
        batch = {step: {"loss": 1 / (step + 1), "odd": math.nan} for step in range(3)}
        assert put(database, run_id, batch) == 6
        assert put(database, run_id, batch) == 0
        assert put(database, run_id, batch | {3: {"loss": 0.5}}) == 1

    def test_a_conflict_names_it_and_stores_nothing_of_the_batch(self, database: Database, make_run: MakeRun) -> None:
        run_id = make_run()
        put(database, run_id, {1: {"loss": 2.0}})
        with pytest.raises(Conflict, match=r"has loss = 2\.0 at step 1; 3\.0 was sent"):
            put(database, run_id, {0: {"loss": 4.0}, 1: {"loss": 3.0}})
        with pytest.raises(Conflict, match=r"has loss = 2\.0 at step 1; None was sent"):
            put(database, run_id, {1: {"loss": math.nan}})
        assert load(database, run_id) == {"loss": ([1], [2.0])}

    def test_every_double_comes_back_as_it_was(self, database: Database, make_run: MakeRun) -> None:
        for value in ODD:
            run_id = make_run()
            assert put(database, run_id, {0: {"x": value}}) == 1
            ((found,),) = [values for _, values in load(database, run_id).values()]
            np.testing.assert_array_equal(found, value, strict=True)
            assert math.copysign(1.0, found) == 1.0 or found < 0  # zero has no sign, on either database
            assert put(database, run_id, {0: {"x": value}}) == 0

    def test_numpy_numbers_are_numbers(self, database: Database, make_run: MakeRun) -> None:
        for value in [np.float32(0.5), np.float64(0.5), np.array(0.5), np.float16(0.5)]:
            run_id = make_run()
            assert put(database, run_id, {np.int64(3): {"x": value}}) == 1
            assert load(database, run_id) == {"x": ([3], [0.5])}
            assert put(database, run_id, {3: {"x": 0.5}}) == 0

    def test_what_is_not_one_number_is_refused(self, database: Database, make_run: MakeRun) -> None:
        for value in ["high", None, [1.0, 2.0], 10**400, np.zeros(3)]:
            with pytest.raises(InvalidInput, match="series x has value"):
                put(database, make_run(), {0: {"x": value}})

    def test_a_name_that_cannot_be_kept_is_refused(self, database: Database, make_run: MakeRun) -> None:
        for name in ["", "a\x00b", "x" * 201, "\ud83d"]:
            with pytest.raises(InvalidInput, match="series name"):
                put(database, make_run(), {0: {name: 1.0}})

    def test_what_is_not_a_step_is_refused(self, database: Database, make_run: MakeRun) -> None:
        for step in [-1, 2**63, 0.5, "1"]:
            with pytest.raises(InvalidInput, match="step"):
                put(database, make_run(), {step: {"x": 1.0}})

    def test_nothing_to_store_is_nothing(self, database: Database, make_run: MakeRun) -> None:
        run_id = make_run()
        assert put(database, run_id, {}) == 0
        assert put(database, run_id, {3: {}}) == 0
        with database.reading() as session:
            assert get_run(session, run_id).last_step is None

    def test_a_large_batch(self, database: Database, make_run: MakeRun) -> None:
        run_id = make_run()
        batch = {step: {"loss": step / 7, "lr": 1e-3} for step in range(3_000)}
        assert put(database, run_id, batch) == 6_000
        assert put(database, run_id, batch) == 0
        assert load(database, run_id, "loss")["loss"][1] == [step / 7 for step in range(3_000)]


class TestLoad:
    def test_names_choose(self, database: Database, make_run: MakeRun) -> None:
        run_id = make_run()
        put(database, run_id, {0: {"b": 1.0, "a": 2.0, "c": 3.0}})
        assert list(load(database, run_id, "c", "a", "unknown")) == ["a", "c"]
        with database.reading() as session:
            assert list_series(session, run_id) == ["a", "b", "c"]

    def test_a_resume_hides_what_came_after_it(self, database: Database, make_run: MakeRun) -> None:
        run_id = make_run()
        put(database, run_id, {step: {"loss": 0.0, "old": 1.0} for step in (10, 20, 30)})
        with database.transaction() as session:
            open_segment(session, run_id, 20)
        assert put(database, run_id, {20: {"loss": 9.0}}) == 1
        assert load(database, run_id) == {"loss": ([10, 20], [0.0, 9.0]), "old": ([10], [1.0])}

    def test_runs_do_not_mix(self, database: Database, make_run: MakeRun) -> None:
        first, second = make_run(), make_run()
        put(database, first, {0: {"loss": 1.0}})
        assert load(database, second) == {}
