"""Runs: creation that may be repeated, what may be asked of them, and the trainer's lease."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, get_args
from uuid import UUID

import pytest

from phasewatch.errors import Conflict, InvalidInput, NotFound
from phasewatch.ids import new_id
from phasewatch.storage.database import Database
from phasewatch.storage.losses import put_losses
from phasewatch.storage.probe_sets import put_probe_set
from phasewatch.storage.runs import (
    NewRun,
    claim_run,
    create_run,
    edit_run,
    extend_run_lease,
    get_run,
    list_runs,
    release_run,
    request_status,
    set_probe_set,
    set_status,
)
from phasewatch.storage.schema import Run, RunStatus
from tests.conftest import MakeRun, make_probes
from tests.storage.test_losses import losses

LEASE_S = 30.0
EXPIRED_S = -1.0


def read(database: Database, run_id: UUID) -> Run:
    with database.reading() as session:
        return get_run(session, run_id)


def claim(database: Database, owner: str, lease_s: float = LEASE_S) -> UUID | None:
    with database.transaction() as session:
        run = claim_run(session, owner, lease_s)
        return None if run is None else run.id


class TestCreate:
    CONTENT: tuple[tuple[str, Any], ...] = (("name", "other"), ("config", {"x": 2}), ("training", {"seed": 1}))

    def create(self, database: Database, **content: Any) -> tuple[Run, bool]:
        with database.transaction() as session:
            return create_run(session, NewRun(**{"name": "run", **content}))

    def test_a_recorded_run_is_running_and_one_to_train_is_queued(self, database: Database) -> None:
        assert self.create(database)[0].status == "running"
        assert self.create(database, training={"seed": 0})[0].status == "queued"

    def test_names_are_not_unique(self, database: Database) -> None:
        assert self.create(database)[0].id != self.create(database)[0].id

    def test_the_same_again_finds_the_first(self, database: Database) -> None:
        run_id = new_id()
        assert [self.create(database, id=run_id, config={"x": 1})[1] for _ in range(2)] == [True, False]

    def test_the_same_again_after_the_run_has_moved_on_changes_nothing(self, database: Database) -> None:
        run, _ = self.create(database, tags=("a",))
        with database.transaction() as session:
            set_status(session, get_run(session, run.id), "completed")
            get_run(session, run.id).tags = ["a", "b"]
        again, created = self.create(database, id=run.id, tags=("a",))
        assert (created, again.status, again.tags) == (False, "completed", ["a", "b"])

    @pytest.mark.parametrize(("field", "value"), CONTENT)
    def test_something_else_under_the_same_id_is_a_conflict(self, database: Database, field: str, value: Any) -> None:
        run, _ = self.create(database, config={"x": 1})
        with pytest.raises(Conflict, match=f"run {run.id} exists with another"):
            self.create(database, **{"id": run.id, "config": {"x": 1}, field: value})

    def test_an_unknown_parent_is_named(self, database: Database) -> None:
        with pytest.raises(NotFound, match="parent run 00000000-0000-0000-0000-000000000001 does not exist"):
            self.create(database, parent=UUID(int=1))

    def test_created_by_two_at_once_it_is_created_once(self, database: Database) -> None:
        run_id, barrier = new_id(), threading.Barrier(4)

        def create(_: int) -> bool:
            barrier.wait()
            return self.create(database, id=run_id)[1]

        with ThreadPoolExecutor(4) as pool:
            assert sorted(pool.map(create, range(4))) == [False, False, False, True]


class TestList:
    def test_newest_first_and_page_after_page(self, database: Database, make_run: MakeRun) -> None:
        made = [make_run(name=f"run {number}") for number in range(5)]
        with database.reading() as session:
            first = list_runs(session, limit=2)
            rest = list_runs(session, before=first[-1].id, limit=10)
        assert [run.id for run in (*first, *rest)] == made[::-1]

    def test_filters(self, database: Database, make_run: MakeRun) -> None:
        tagged = make_run(name="a", tags=("demo", "x"))
        make_run(name="a", tags=("demonstration",))
        queued = make_run(name="b", training={})
        with database.reading() as session:
            assert [run.id for run in list_runs(session, tag="demo")] == [tagged]
            assert [run.id for run in list_runs(session, status="queued")] == [queued]
            assert len(list_runs(session, name="a")) == 2
            assert list_runs(session, name="a", status="queued") == []

    def test_tagged_runs_come_in_pages_too(self, database: Database, make_run: MakeRun) -> None:
        made = [make_run(tags=("demo",) if number % 2 else ()) for number in range(8)]
        with database.reading() as session:
            first = list_runs(session, tag="demo", limit=3)
            rest = list_runs(session, tag="demo", before=first[-1].id, limit=3)
        assert [run.id for run in (*first, *rest)] == made[::-2]


class TestStatus:
    ALLOWED = (
        ("cancel", ("queued", "running", "paused"), "cancelled"),
        ("pause", ("queued", "running"), "paused"),
        ("resume", ("paused", "failed", "cancelled"), "queued"),
    )

    def test_what_may_be_asked_in_which_status(self, database: Database, make_run: MakeRun) -> None:
        for action, sources, target in self.ALLOWED:
            for status in get_args(RunStatus):
                run_id = make_run(training={})
                with database.transaction() as session:
                    set_status(session, get_run(session, run_id), status)
                if status in (*sources, target):
                    with database.transaction() as session:
                        assert request_status(session, run_id, action).status == target
                else:
                    with (
                        pytest.raises(Conflict, match=f"is {status}; {action} needs one of"),
                        database.transaction() as session,
                    ):
                        request_status(session, run_id, action)
                    assert read(database, run_id).status == status

    def test_a_recorded_run_that_resumes_is_running(self, database: Database, make_run: MakeRun) -> None:
        run_id = make_run()
        for action, status in (("cancel", "cancelled"), ("resume", "running")):
            with database.transaction() as session:
                request_status(session, run_id, action)
            assert read(database, run_id).status == status

    def test_times_follow_the_status(self, database: Database, make_run: MakeRun) -> None:
        run_id = make_run(training={})
        assert (read(database, run_id).started_at, read(database, run_id).finished_at) == (None, None)
        claim(database, "worker")
        started = read(database, run_id).started_at
        assert started is not None
        with database.transaction() as session:
            set_status(session, get_run(session, run_id), "failed", "out of memory\x00 \ud83d")
        ended = read(database, run_id)
        assert ended.finished_at is not None
        assert ended.finished_at >= started
        assert ended.failure == "out of memory\ufffd \ufffd"
        with database.transaction() as session:
            request_status(session, run_id, "resume")
        assert (read(database, run_id).finished_at, read(database, run_id).failure) == (None, None)

    def test_writes_after_the_end_are_taken_and_do_not_change_it(self, database: Database, make_run: MakeRun) -> None:
        run_id = make_run(probes=make_probes())
        with database.transaction() as session:
            set_status(session, get_run(session, run_id), "completed")
            put_losses(session, run_id, "text", 3, losses())
        assert (read(database, run_id).status, read(database, run_id).last_step) == ("completed", 3)


class TestEdit:
    def edit(self, database: Database, run_id: UUID, **changes: Any) -> Run:
        with database.transaction() as session:
            return edit_run(session, run_id, **changes)

    def test_names_and_tags(self, database: Database, make_run: MakeRun) -> None:
        run_id = make_run(tags=("a",))
        assert self.edit(database, run_id, name="new").tags == ["a"]
        assert self.edit(database, run_id, tags=["b", "c"]).name == "new"
        assert read(database, run_id).tags == ["b", "c"]
        for changes in ({"name": ""}, {"tags": ["a\x00"]}):
            with pytest.raises(InvalidInput):
                self.edit(database, run_id, **changes)

    def test_a_recorded_run_may_be_ended(self, database: Database, make_run: MakeRun) -> None:
        run_id = make_run()
        for status, failure in (("failed", "out of memory"), ("completed", None)):
            edited = self.edit(database, run_id, status=status, failure=failure)
            assert (edited.status, edited.failure) == (status, failure)

    def test_one_trained_here_or_cancelled_may_not(self, database: Database, make_run: MakeRun) -> None:
        trained, cancelled = make_run(training={}), make_run()
        with database.transaction() as session:
            request_status(session, cancelled, "cancel")
        for run_id, said in ((trained, "its trainer says how it ends"), (cancelled, "was cancelled")):
            with pytest.raises(Conflict, match=said):
                self.edit(database, run_id, status="completed")


class TestLease:
    def test_queued_runs_go_out_oldest_first_and_once(self, database: Database, make_run: MakeRun) -> None:
        made = [make_run(training={}) for _ in range(2)]
        make_run()  # recorded from outside: nobody's to train
        assert [claim(database, "a"), claim(database, "b"), claim(database, "c")] == [*made, None]

    def test_many_workers_claim_each_run_once(self, database: Database, make_run: MakeRun) -> None:
        made = [make_run(training={}) for _ in range(20)]

        def work(worker: int) -> list[UUID]:
            found = []
            while (run_id := claim(database, f"worker {worker}")) is not None:
                found.append(run_id)
            return found

        with ThreadPoolExecutor(4) as pool:
            claimed = [run_id for own in pool.map(work, range(4)) for run_id in own]
        assert sorted(claimed) == sorted(made)

    def test_an_expired_lease_is_anothers(self, database: Database, make_run: MakeRun) -> None:
        run_id = make_run(training={})
        claim(database, "a", EXPIRED_S)
        assert claim(database, "b") == run_id
        with database.transaction() as session:
            assert extend_run_lease(session, run_id, "a", LEASE_S) is None
            assert release_run(session, run_id, "a", "failed", "too late") is False
            assert extend_run_lease(session, run_id, "b", LEASE_S) == "running"
        assert (read(database, run_id).status, read(database, run_id).failure) == ("running", None)

    def test_a_heartbeat_keeps_it(self, database: Database, make_run: MakeRun) -> None:
        run_id = make_run(training={})
        claim(database, "a", EXPIRED_S)
        with database.transaction() as session:
            extend_run_lease(session, run_id, "a", LEASE_S)
        assert claim(database, "b") is None

    def test_a_heartbeat_tells_what_was_asked_meanwhile(self, database: Database, make_run: MakeRun) -> None:
        run_id = make_run(training={})
        claim(database, "a")
        with database.transaction() as session:
            request_status(session, run_id, "cancel")
        with database.transaction() as session:
            assert extend_run_lease(session, run_id, "a", LEASE_S) == "cancelled"

    @pytest.mark.parametrize(("action", "status"), [("pause", "paused"), ("cancel", "cancelled")])
    def test_giving_back_does_not_undo_what_was_asked(
        self, database: Database, make_run: MakeRun, action: str, status: str
    ) -> None:
        run_id = make_run(training={})
        claim(database, "a")
        with database.transaction() as session:
            request_status(session, run_id, action)
        with database.transaction() as session:
            assert release_run(session, run_id, "a", "queued") is True
        assert read(database, run_id).status == status
        assert claim(database, "b") is None

    def test_a_resumed_run_waits_until_its_trainer_has_let_go(self, database: Database, make_run: MakeRun) -> None:
        run_id = make_run(training={})
        claim(database, "a")
        for action in ("pause", "resume"):
            with database.transaction() as session:
                request_status(session, run_id, action)
        assert claim(database, "b") is None
        with database.transaction() as session:
            release_run(session, run_id, "a", "queued")
        assert claim(database, "b") == run_id

    @pytest.mark.parametrize("status", [None, "queued"])
    def test_a_run_given_back_goes_to_the_next(
        self, database: Database, make_run: MakeRun, status: RunStatus | None
    ) -> None:
        run_id = make_run(training={})
        claim(database, "a")
        with database.transaction() as session:
            release_run(session, run_id, "a", status)
        assert claim(database, "b") == run_id

    def test_an_ended_run_is_not_trained_again(self, database: Database, make_run: MakeRun) -> None:
        run_id = make_run(training={})
        claim(database, "a")
        with database.transaction() as session:
            release_run(session, run_id, "a", "completed")
        assert claim(database, "b") is None


class TestProbeSet:
    @pytest.fixture
    def two_sets(self, database: Database) -> tuple[str, str]:
        first, second = make_probes(seed=0), make_probes(seed=1)
        with database.transaction() as session:
            put_probe_set(session, first)
            put_probe_set(session, second)
        return first.sha256, second.sha256

    def give(self, database: Database, run_id: UUID, probe_set: str) -> str | None:
        with database.transaction() as session:
            return set_probe_set(session, run_id, probe_set).probe_set_id

    def test_may_change_until_there_are_losses(
        self, database: Database, make_run: MakeRun, two_sets: tuple[str, str]
    ) -> None:
        run_id = make_run()
        for chosen in two_sets:
            assert self.give(database, run_id, chosen) == chosen
        with database.transaction() as session:
            put_losses(session, run_id, "text", 0, losses())
        assert self.give(database, run_id, two_sets[1]) == two_sets[1]
        with pytest.raises(Conflict, match="a probe set is fixed for a run"):
            self.give(database, run_id, two_sets[0])

    def test_an_unknown_one_is_named(self, database: Database, make_run: MakeRun) -> None:
        with pytest.raises(NotFound, match="probe set abc does not exist"):
            self.give(database, make_run(), "abc")

    def test_cannot_change_under_losses_on_their_way(
        self, database: Database, make_run: Callable[..., UUID], two_sets: tuple[str, str]
    ) -> None:
        """The change begins before the losses are committed; it waits, and then is a conflict."""
        run_id = make_run()
        self.give(database, run_id, two_sets[0])
        begun, answers = threading.Event(), []

        def change() -> None:
            begun.wait()
            try:
                answers.append(self.give(database, run_id, two_sets[1]))
            except Conflict:
                answers.append("conflict")

        thread = threading.Thread(target=change)
        thread.start()
        with database.transaction() as session:
            put_losses(session, run_id, "text", 0, losses())
            begun.set()
            thread.join(0.2)
        thread.join()
        assert answers == ["conflict"]
