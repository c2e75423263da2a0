"""Checkpoints: repeats and conflicts, weights that are named once, resume states that are dropped."""

from __future__ import annotations

import hashlib
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import UUID

import pytest

from phasewatch.errors import Conflict, InvalidInput, NotFound
from phasewatch.storage.artifacts import Artifact, Artifacts
from phasewatch.storage.checkpoints import (
    NewCheckpoint,
    drop_older_states,
    get_checkpoint,
    list_checkpoints,
    put_checkpoint,
    put_weights,
    resumable_checkpoints,
    state_name,
    store_weights,
    weights_name,
)
from phasewatch.storage.database import Database
from phasewatch.storage.runs import open_segment
from tests.conftest import MakeRun

MODEL = {"kind": "reference", "d_model": 64, "positions": ["relative", "none"]}


def artifact(name: str, content: bytes = b"weights") -> Artifact:
    return Artifact(name, len(content), hashlib.sha256(content).hexdigest())


def trained(run_id: UUID, step: int, segment: int = 0) -> NewCheckpoint:
    """A checkpoint as the trainer writes it, with weights and a resume state."""
    weights, state = weights_name(run_id, segment, step), state_name(run_id, segment, step)
    return NewCheckpoint(step, step * 2_048, MODEL, artifact(weights), artifact(state, b"state"))


def put(database: Database, run_id: UUID, new: NewCheckpoint, **options: Any) -> bool:
    with database.transaction() as session:
        return put_checkpoint(session, run_id, new, **options)[1]


class TestPut:
    def test_what_is_read_is_what_was_written(self, database: Database, make_run: MakeRun) -> None:
        run_id = make_run()
        assert put(database, run_id, trained(run_id, 100)) is True
        with database.reading() as session:
            found = get_checkpoint(session, run_id, 100)
        assert (found.tokens_seen, found.model, found.size_bytes) == (204_800, MODEL, 7)
        assert found.artifact_url == f"{run_id}/0-0000000100.safetensors"
        assert found.sha256 == hashlib.sha256(b"weights").hexdigest()

    def test_the_same_again_changes_nothing(self, database: Database, make_run: MakeRun) -> None:
        run_id = make_run()
        assert [put(database, run_id, trained(run_id, 100)) for _ in range(2)] == [True, False]

    @pytest.mark.parametrize(
        ("other", "named"),
        [
            (NewCheckpoint(100, 1, MODEL), "tokens_seen"),
            (NewCheckpoint(100, 204_800, {"kind": "other"}), "model"),
            (NewCheckpoint(100, 204_800, MODEL, artifact("a/b", b"other")), "artifact_url, sha256|size_bytes"),
        ],
    )
    def test_another_at_its_step_is_a_conflict_that_names_what_differs(
        self, database: Database, make_run: MakeRun, other: NewCheckpoint, named: str
    ) -> None:
        run_id = make_run()
        put(database, run_id, trained(run_id, 100))
        with pytest.raises(Conflict, match=named):
            put(database, run_id, other)

    @pytest.mark.parametrize("tokens_seen", [-1, 2**63])
    def test_a_count_that_cannot_be_kept_is_refused(
        self, database: Database, make_run: MakeRun, tokens_seen: int
    ) -> None:
        with pytest.raises(InvalidInput, match="tokens_seen"):
            put(database, make_run(), NewCheckpoint(0, tokens_seen))

    def test_a_model_that_json_cannot_hold_is_refused(self, database: Database, make_run: MakeRun) -> None:
        with pytest.raises(InvalidInput, match="model cannot be kept as JSON"):
            put(database, make_run(), NewCheckpoint(0, model={"scale": float("nan")}))

    def test_tuples_in_a_model_are_lists_and_the_same_again(self, database: Database, make_run: MakeRun) -> None:
        run_id = make_run()
        new = NewCheckpoint(0, model={"positions": ("relative", "none")})
        assert [put(database, run_id, new) for _ in range(2)] == [True, False]


class TestVisible:
    def test_by_step_in_pages_and_without_what_a_resume_hides(self, database: Database, make_run: MakeRun) -> None:
        run_id = make_run()
        for step in (30, 10, 20, 0):
            put(database, run_id, NewCheckpoint(step))
        with database.transaction() as session:
            open_segment(session, run_id, 15)
            put_checkpoint(session, run_id, NewCheckpoint(20))
        with database.reading() as session:
            found = [checkpoint.step for checkpoint in list_checkpoints(session, run_id)]
            page = [checkpoint.step for checkpoint in list_checkpoints(session, run_id, after=0, limit=1)]
            with pytest.raises(NotFound, match=f"run {run_id} has no checkpoint at step 30"):
                get_checkpoint(session, run_id, 30)
            with pytest.raises(NotFound):
                get_checkpoint(session, run_id, 2**80)
        assert (found, page) == ([0, 10, 20], [10])


class TestWeights:
    def test_named_once(self, database: Database, make_run: MakeRun) -> None:
        run_id = make_run()
        put(database, run_id, NewCheckpoint(5))
        with database.transaction() as session:
            assert put_weights(session, run_id, 5, artifact("a/b"))[1]
            assert not put_weights(session, run_id, 5, artifact("a/c"))[1]
            with pytest.raises(Conflict, match="has other weights at step 5"):
                put_weights(session, run_id, 5, artifact("a/d", b"other"))
        with database.reading() as session:
            assert get_checkpoint(session, run_id, 5).artifact_url == "a/b"

    def test_a_conflict_leaves_the_first_file_whole(
        self, database: Database, make_run: MakeRun, artifacts: Artifacts
    ) -> None:
        run_id = make_run()
        put(database, run_id, NewCheckpoint(5))
        with database.transaction() as session:
            checkpoint, created = store_weights(session, artifacts, run_id, 5, b"first")
        assert created
        with database.transaction() as session, pytest.raises(Conflict):
            store_weights(session, artifacts, run_id, 5, b"second")
        assert artifacts.get(str(checkpoint.artifact_url), checkpoint.sha256) == b"first"
        assert artifacts.delete_folder(str(run_id)) == len(b"first")

    def test_the_same_again_leaves_one_file(self, database: Database, make_run: MakeRun, artifacts: Artifacts) -> None:
        run_id = make_run()
        put(database, run_id, NewCheckpoint(5))
        for expected in True, False:
            with database.transaction() as session:
                assert store_weights(session, artifacts, run_id, 5, b"first")[1] is expected
        assert artifacts.delete_folder(str(run_id)) == len(b"first")

    def test_late_weights_go_to_the_segment_they_are_of(
        self, database: Database, make_run: MakeRun, artifacts: Artifacts
    ) -> None:
        run_id = make_run()
        put(database, run_id, NewCheckpoint(5))
        with database.transaction() as session:
            open_segment(session, run_id, 3)
            put_checkpoint(session, run_id, NewCheckpoint(5))
            store_weights(session, artifacts, run_id, 5, b"hidden", segment=0)
            store_weights(session, artifacts, run_id, 5, b"visible", segment=1)
            with pytest.raises(NotFound, match="no checkpoint at step 6 in segment 0"):
                store_weights(session, artifacts, run_id, 6, b"none", segment=0)
            with pytest.raises(NotFound, match="has no segment 2"):
                store_weights(session, artifacts, run_id, 5, b"none", segment=2)
        with database.reading() as session:
            shown = get_checkpoint(session, run_id, 5)
            hidden = get_checkpoint(session, run_id, 5, segment=0)
        assert artifacts.get(str(shown.artifact_url), shown.sha256) == b"visible"
        assert artifacts.get(str(hidden.artifact_url), hidden.sha256) == b"hidden"
        assert artifacts.delete_folder(str(run_id)) == len(b"hiddenvisible")

    def test_of_two_uploads_at_once_one_wins(self, database: Database, make_run: MakeRun, artifacts: Artifacts) -> None:
        run_id, barrier = make_run(), threading.Barrier(2)
        put(database, run_id, NewCheckpoint(5))

        def upload(content: bytes) -> bytes | None:
            barrier.wait()
            try:
                with database.transaction() as session:
                    store_weights(session, artifacts, run_id, 5, content)
            except Conflict:
                return None
            return content

        with ThreadPoolExecutor(2) as pool:
            (won,) = [content for content in pool.map(upload, (b"first", b"second")) if content is not None]
        with database.reading() as session:
            checkpoint = get_checkpoint(session, run_id, 5)
        assert artifacts.get(str(checkpoint.artifact_url), checkpoint.sha256) == won


class TestResume:
    def test_newest_visible_state_first(self, database: Database, make_run: MakeRun) -> None:
        run_id = make_run()
        for step in (0, 10, 20):
            put(database, run_id, trained(run_id, step))
        put(database, run_id, NewCheckpoint(30))
        with database.transaction() as session:
            open_segment(session, run_id, 15)
            assert [row.step for row in resumable_checkpoints(session, run_id)] == [10, 0]

    def test_older_and_hidden_states_are_dropped(self, database: Database, make_run: MakeRun) -> None:
        run_id = make_run()
        for step in (0, 10, 20):
            put(database, run_id, trained(run_id, step))
        with database.transaction() as session:
            open_segment(session, run_id, 15)
            put_checkpoint(session, run_id, trained(run_id, 30, segment=1))
        with database.transaction() as session:
            dropped = drop_older_states(session, run_id, keep=2)
        assert sorted(dropped) == sorted(state_name(run_id, 0, step) for step in (0, 20))
        with database.reading() as session:
            assert [row.step for row in resumable_checkpoints(session, run_id)] == [30, 10]
            assert get_checkpoint(session, run_id, 0).artifact_url is not None

    def test_names_sort_as_steps_do(self) -> None:
        names = [weights_name(UUID(int=0), 0, step) for step in (0, 9, 10, 143_000)]
        assert names == sorted(names)
