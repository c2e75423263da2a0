"""The loss store: idempotence and conflicts, histories against a plain matrix, and values that are not ordinary."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from typing import Any
from uuid import UUID

import numpy as np
import numpy.typing as npt
import pytest
from sqlalchemy import func, select

from phasewatch.errors import Conflict, InvalidInput, NotFound
from phasewatch.storage.codecs import BLOCK_TOKENS, CODECS, DEFAULT_CODEC, EXACT_CODEC, FloatArray, round_mantissa
from phasewatch.storage.database import Database
from phasewatch.storage.losses import get_losses, list_loss_slices, loss_history, put_losses
from phasewatch.storage.runs import get_run, open_segment
from phasewatch.storage.schema import LossBlock, LossSlice
from tests.conftest import MakeRun, make_probes

SHAPE = (150, 128)  # 19,200 losses: two whole blocks and a part
STEPS = (0, 1, 3, 10, 100)


def losses(seed: int = 0, shape: tuple[int, int] = (2, 8)) -> FloatArray:
    return np.random.default_rng(seed).gamma(1.2, 2.0, shape).astype(np.float32)


@pytest.fixture
def run_id(make_run: MakeRun) -> UUID:
    """A run with the slice `text` of 2 × 8 losses."""
    return make_run(probes=make_probes())


@pytest.fixture
def put(database: Database, run_id: UUID) -> Callable[..., bool]:
    """Puts losses into the slice `text` of `run_id`, in a transaction of its own."""

    def put_now(step: int, values: npt.NDArray[Any], **options: Any) -> bool:
        with database.transaction() as session:
            return put_losses(session, run_id, "text", step, values, **options)

    return put_now


def count(database: Database, table: type[LossSlice] | type[LossBlock]) -> int:
    with database.reading() as session:
        return session.scalar(select(func.count()).select_from(table)) or 0


def stored(database: Database, run_id: UUID, step: int) -> FloatArray:
    with database.reading() as session:
        return get_losses(session, run_id, "text", step)


class TestPut:
    @pytest.mark.parametrize("codec", CODECS)
    def test_what_is_read_is_what_was_written(
        self, database: Database, run_id: UUID, put: Callable[..., bool], codec: str
    ) -> None:
        assert put(5, losses(), codec=codec) is True
        kept = {EXACT_CODEC: losses(), DEFAULT_CODEC: round_mantissa(losses())}
        expected = kept[codec] if codec in kept else losses().astype(np.float16).astype(np.float32)
        np.testing.assert_array_equal(stored(database, run_id, 5), expected)

    def test_the_same_again_changes_nothing(self, database: Database, put: Callable[..., bool]) -> None:
        put(5, losses())
        assert put(5, losses()) is False
        assert put(5, losses().reshape(-1)) is False
        assert put(5, losses().astype(np.float64)) is False
        assert put(5, losses(), codec=EXACT_CODEC) is False
        assert (count(database, LossSlice), count(database, LossBlock)) == (1, 1)

    def test_other_values_are_a_conflict_and_change_nothing(
        self, database: Database, run_id: UUID, put: Callable[..., bool]
    ) -> None:
        put(5, losses())
        nearly = losses()
        nearly[1, 7] = np.nextafter(nearly[1, 7], 100, dtype=np.float32)  # rounds to the same stored value
        with pytest.raises(Conflict, match=rf"run {run_id} has other losses for slice 'text' at step 5"):
            put(5, nearly)
        np.testing.assert_array_equal(stored(database, run_id, 5), round_mantissa(losses()))

    def test_header_says_what_is_there(self, database: Database, run_id: UUID, put: Callable[..., bool]) -> None:
        values = losses()
        values[0, :3] = [np.nan, np.inf, -np.inf]
        put(5, values)
        with database.reading() as session:
            (header,) = list_loss_slices(session, run_id, "text")
        assert (header.step, header.codec, header.n_values, header.n_non_finite) == (5, DEFAULT_CODEC, 16, 3)
        assert header.sha256 == hashlib.sha256(values.astype("<f4").tobytes()).hexdigest()
        assert header.mean_nats == pytest.approx(values.reshape(-1)[3:].astype(np.float64).mean(), rel=1e-12)

    @pytest.mark.parametrize("codec", CODECS)
    def test_values_that_are_not_finite_are_kept_where_they_are(
        self, database: Database, run_id: UUID, put: Callable[..., bool], codec: str
    ) -> None:
        values = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 3.4e38, 1e-45, 1.5] * 2, np.float32).reshape(2, 8)
        put(0, values, codec=codec)
        found = stored(database, run_id, 0)
        np.testing.assert_array_equal(np.isnan(found), np.isnan(values))
        np.testing.assert_array_equal(np.isinf(found), np.isinf(values))
        np.testing.assert_array_equal(np.signbit(found[:, 3:5]), np.signbit(values[:, 3:5]))
        assert put(0, values, codec=codec) is False

    def test_nothing_finite_has_no_mean(self, database: Database, run_id: UUID, put: Callable[..., bool]) -> None:
        put(0, np.full((2, 8), np.nan, np.float32))
        with database.reading() as session:
            (header,) = list_loss_slices(session, run_id, "text")
        assert header.mean_nats is None
        assert header.n_non_finite == 16

    def test_a_double_beyond_single_precision_is_an_infinity_and_counted(
        self, database: Database, run_id: UUID, put: Callable[..., bool]
    ) -> None:
        put(0, np.full((2, 8), 1e300))
        assert np.isposinf(stored(database, run_id, 0)).all()
        with database.reading() as session:
            assert list_loss_slices(session, run_id, "text")[0].n_non_finite == 16

    def test_the_sum_of_the_largest_values_does_not_overflow(
        self, database: Database, run_id: UUID, put: Callable[..., bool]
    ) -> None:
        put(0, np.full((2, 8), 3e38, np.float32))
        with database.reading() as session:
            assert list_loss_slices(session, run_id, "text")[0].mean_nats == pytest.approx(3e38, rel=1e-6)

    def test_floats_of_every_width_are_taken(self, database: Database, run_id: UUID, put: Callable[..., bool]) -> None:
        for step, dtype in enumerate(["<f2", "<f4", ">f4", "<f8", ">f8"]):
            values = losses().astype(dtype)
            put(step, values, codec=EXACT_CODEC)
            np.testing.assert_array_equal(stored(database, run_id, step), values.astype(np.float32))

    def test_another_shape_or_dtype_is_refused(self, database: Database, put: Callable[..., bool]) -> None:
        for values, said in [
            (losses(shape=(2, 7)), r"shape \(2, 7\); expected \(2, 8\) or flat \(16,\)"),
            (losses(shape=(8, 2)), r"shape \(8, 2\)"),
            (losses(shape=(1, 16)), r"shape \(1, 16\)"),
            (np.float32(1.0).reshape(()), r"shape \(\)"),
            (np.zeros((2, 8), np.int64), "dtype int64; expected float16, float32 or float64"),
            (np.zeros((2, 8), np.complex64), "dtype complex64"),
            (np.zeros((2, 8), bool), "dtype bool"),
            (np.zeros((2, 8), np.longdouble), "dtype float128"),
        ]:
            with pytest.raises(InvalidInput, match=said):
                put(0, values)
            assert count(database, LossSlice) == 0

    def test_what_is_not_a_step_is_refused(self, put: Callable[..., bool]) -> None:
        for step in [-1, 2**62 + 1, 2**80, 1.0, True]:
            with pytest.raises(InvalidInput, match="step"):
                put(step, losses())

    def test_a_numpy_integer_is_the_same_step(self, database: Database, put: Callable[..., bool]) -> None:
        assert put(np.int64(7), losses()) is True
        assert put(7, losses()) is False

    def test_the_largest_step_fits(self, database: Database, run_id: UUID, put: Callable[..., bool]) -> None:
        put(2**62, losses())
        assert stored(database, run_id, 2**62).shape == (2, 8)

    def test_an_unknown_codec_leaves_no_header_behind(self, database: Database, put: Callable[..., bool]) -> None:
        with pytest.raises(InvalidInput, match="codec 'zip'"):
            put(0, losses(), codec="zip")
        assert count(database, LossSlice) == 0

    def test_what_is_missing_is_named(self, database: Database, run_id: UUID, make_run: MakeRun) -> None:
        without_probes = make_run()
        with database.transaction() as session:
            with pytest.raises(NotFound, match="no slice 'code'; its probe set has text"):
                put_losses(session, run_id, "code", 0, losses())
            with pytest.raises(NotFound, match="has no probe set yet"):
                put_losses(session, without_probes, "text", 0, losses())
            with pytest.raises(NotFound, match=r"run .* does not exist"):
                put_losses(session, UUID(int=1), "text", 0, losses())
            with pytest.raises(NotFound, match="has no segment 3"):
                put_losses(session, run_id, "text", 0, losses(), segment=3)

    def test_the_run_remembers_its_newest_step(
        self, database: Database, run_id: UUID, put: Callable[..., bool]
    ) -> None:
        for step in (0, 20, 10):
            put(step, losses())
        with database.reading() as session:
            assert get_run(session, run_id).last_step == 20


class TestTwoWritersAtOnce:
    """Two transactions, each begun before the other's commit, put the same loss slice."""

    def both(self, database: Database, run_id: UUID, values: tuple[FloatArray, FloatArray]) -> list[object]:
        barrier = threading.Barrier(2)
        answers: list[object] = []

        def write(own: FloatArray) -> None:
            barrier.wait()
            try:
                with database.transaction() as session:
                    answers.append(put_losses(session, run_id, "text", 0, own))
            except Conflict as error:
                answers.append(type(error))

        threads = [threading.Thread(target=write, args=(own,)) for own in values]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return answers

    def test_the_same_values_are_stored_once(self, database: Database, run_id: UUID) -> None:
        for _ in range(3):
            assert sorted(map(str, self.both(database, run_id, (losses(), losses())))) in (
                ["False", "True"],
                ["False", "False"],
            )
        assert (count(database, LossSlice), count(database, LossBlock)) == (1, 1)

    def test_of_different_values_one_wins_whole_and_the_other_is_a_conflict(
        self, database: Database, run_id: UUID
    ) -> None:
        answers = self.both(database, run_id, (losses(1), losses(2)))
        assert sorted(map(str, answers)) == sorted(["True", str(Conflict)])
        found = stored(database, run_id, 0)
        assert any(np.array_equal(found, round_mantissa(losses(seed))) for seed in (1, 2))


class TestHistory:
    """Histories of a slice of several blocks, against a plain matrix."""

    @pytest.fixture
    def wide(self, make_run: MakeRun) -> UUID:
        return make_run(probes=make_probes(SHAPE[0], SHAPE[1] + 1))

    @pytest.fixture
    def matrix(self, database: Database, wide: UUID) -> FloatArray:
        """(n_steps, n_values), written with steps out of order and codecs mixed; float16 values, so both keep them."""
        values = np.stack([losses(step, SHAPE).astype(np.float16).reshape(-1) for step in STEPS]).astype(np.float32)
        with database.transaction() as session:
            for row in (3, 0, 4, 2, 1):
                put_losses(session, wide, "text", STEPS[row], values[row], codec=CODECS[row % 2])
        return values

    def test_every_choice_of_tokens(self, database: Database, wide: UUID, matrix: FloatArray) -> None:
        for tokens in [
            None,
            [0],
            [SHAPE[0] * SHAPE[1] - 1],
            [BLOCK_TOKENS - 1, BLOCK_TOKENS],
            [19_000, 5, 8_192, 5, 16_384, 0],
            list(range(8_000, 17_000)),
            [],
        ]:
            with database.reading() as session:
                found = loss_history(session, wide, "text", tokens=tokens)
            columns = np.arange(matrix.shape[1]) if tokens is None else np.array(tokens, np.int64)
            assert found.steps.tolist() == list(STEPS)
            np.testing.assert_array_equal(found.tokens, columns)
            np.testing.assert_array_equal(found.values, matrix[:, columns])

    def test_every_choice_of_steps(self, database: Database, wide: UUID, matrix: FloatArray) -> None:
        for steps, rows in [([3, 100], [2, 4]), ([100, 3], [2, 4]), ([7], []), ([], []), ([0, 2**80], [0])]:
            with database.reading() as session:
                found = loss_history(session, wide, "text", tokens=[1, 9_000], steps=steps)
            assert found.steps.tolist() == [STEPS[row] for row in rows]
            np.testing.assert_array_equal(found.values, matrix[np.ix_(rows, [1, 9_000])])

    def test_a_token_the_slice_does_not_have_is_refused(self, database: Database, wide: UUID) -> None:
        for tokens in [[-1], [19_200], [0, 2**80]]:
            with database.reading() as session, pytest.raises(InvalidInput, match="has tokens 0 to 19199"):
                loss_history(session, wide, "text", tokens=tokens)

    def test_nothing_recorded_is_an_empty_history(self, database: Database, wide: UUID) -> None:
        with database.reading() as session:
            found = loss_history(session, wide, "text", tokens=[4, 5])
            assert found.values.shape == (0, 2)
            with pytest.raises(NotFound, match="no losses of slice 'text' at step 3"):
                get_losses(session, wide, "text", 3)

    def test_a_resumed_run_shows_each_step_from_the_segment_that_holds_it(
        self, database: Database, wide: UUID, matrix: FloatArray
    ) -> None:
        resumed = matrix + 1
        with database.transaction() as session:
            open_segment(session, wide, 5)
            put_losses(session, wide, "text", 10, resumed[3], codec=EXACT_CODEC)
        with database.reading() as session:
            found = loss_history(session, wide, "text", tokens=[0, 9_000])
        assert found.steps.tolist() == [0, 1, 3, 10]
        np.testing.assert_array_equal(found.values, np.stack([*matrix[:3], resumed[3]])[:, [0, 9_000]])

    def test_slices_of_one_run_do_not_mix(self, database: Database, make_run: MakeRun) -> None:
        both = make_probes()
        both = both.with_slice("code", make_probes(2, 9, seed=1).slices["text"].tokens)
        run_id = make_run(probes=both)
        with database.transaction() as session:
            put_losses(session, run_id, "text", 0, losses(1))
            put_losses(session, run_id, "code", 0, losses(2))
        with database.reading() as session:
            np.testing.assert_array_equal(get_losses(session, run_id, "code", 0), round_mantissa(losses(2)))

    def test_runs_of_one_probe_set_do_not_mix(self, database: Database, make_run: MakeRun) -> None:
        runs = [make_run(probes=make_probes()) for _ in range(2)]
        with database.transaction() as session:
            for seed, run_id in enumerate(runs):
                put_losses(session, run_id, "text", 0, losses(seed))
        for seed, run_id in enumerate(runs):
            np.testing.assert_array_equal(stored(database, run_id, 0), round_mantissa(losses(seed)))
