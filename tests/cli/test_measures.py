from __future__ import annotations

import time
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from phasewatch.cli import measures
from phasewatch.measures import registry
from phasewatch.storage.artifacts import Artifacts
from phasewatch.storage.database import Database
from phasewatch.storage.jobs import cancel_job, list_jobs
from server.dispatcher import Dispatcher
from server.executors import ThreadExecutor
from tests.cli.conftest import Call
from tests.conftest import MakeRun
from tests.live_server import LiveServer
from tests.server.small_run import SmallRun


@pytest.fixture
def run(live: LiveServer, sqlite_database: Database, artifacts: Artifacts) -> SmallRun:
    found = SmallRun.create(sqlite_database, artifacts)
    for step in (0, 10):
        found.record(step)
    return found


@pytest.fixture
def worker(run: SmallRun, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Does the jobs that come, the way a worker does."""
    monkeypatch.setattr(measures, "POLL_S", 0.02)
    dispatcher = Dispatcher(run.database, ThreadExecutor(run.database, run.artifacts, 1), poll_s=0.02)
    dispatcher.start()
    yield
    dispatcher.stop()


WITH_PARAMETERS = {
    "ablation": "ablation:L1H0",
    "attention_pattern": "attention_pattern:L1H0",
    "natural_attention_pattern": "natural_attention_pattern:L1H0",
    "token_group": "token_group:closing",
}


class TestMeasures:
    def test_lists_every_measure_with_what_it_needs(self, phasewatch: Call) -> None:
        answer = phasewatch("measures")
        assert answer.status == 0
        lines = {line.split()[0]: line for line in answer.out.splitlines() if line.strip()}
        for one in registry.select():
            assert one.needs in lines[WITH_PARAMETERS.get(one.name, one.name)]
        assert "layers × heads" in lines["prefix_matching"]

    def test_json_is_the_answer_of_the_api(self, phasewatch: Call) -> None:
        items = phasewatch("measures", "--json").json["items"]
        assert [item["name"] for item in items] == [one.name for one in registry.select()]


class TestMeasure:
    @pytest.mark.usefixtures("worker")
    def test_waits_until_it_is_measured(self, phasewatch: Call, run: SmallRun) -> None:
        answer = phasewatch("measure", "small", "copying", "ablation:L1H0")
        assert answer.status == 0, answer.err
        assert "measured at 2 of 2 checkpoints" in answer.out
        shown = phasewatch("show", "small").out
        assert "copying" in shown
        assert "ablation" not in shown  # which is no score of heads

    @pytest.mark.usefixtures("worker")
    def test_a_failed_job_is_told_and_is_status_1(
        self, phasewatch: Call, run: SmallRun, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("phasewatch.storage.jobs.BACK_OFF_S", (0.0, 0.0))
        answer = phasewatch("measure", "small", "ablation:L7H0", "--steps", "10")
        assert answer.status == 1
        assert "step 10: InvalidInput: the model has no head 0 in layer 7" in answer.out

    def test_that_nobody_takes_a_job_is_said(
        self, phasewatch: Call, run: SmallRun, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def cancel_all(seconds: float) -> None:
            polls.append(seconds)
            with run.database.transaction() as session:
                for job in list_jobs(session, state="waiting") if len(polls) == 3 else ():
                    cancel_job(session, job.id)

        polls: list[float] = []
        monkeypatch.setattr(measures, "HINT_S", -1.0)
        monkeypatch.setattr(measures, "time", SimpleNamespace(sleep=cancel_all, monotonic=time.monotonic))
        answer = phasewatch("measure", "small", "copying")
        assert answer.out.count("no worker has taken a job yet; `python -m server worker` starts one") == 1
        assert "measured at 0 of 2 checkpoints" in answer.out

    def test_without_waiting_the_jobs_are_said(self, phasewatch: Call, run: SmallRun) -> None:
        answer = phasewatch("measure", "small", "copying", "--steps", "0,10", "--no-wait")
        assert (answer.status, "2 jobs are queued" in answer.out) == (0, True)
        items = phasewatch("measure", "small", "copying", "--no-wait", "--json").json["items"]
        assert [(item["step"], item["state"]) for item in items] == [(0, "waiting"), (10, "waiting")]

    def test_refusals_are_one_line(self, phasewatch: Call, run: SmallRun) -> None:
        for arguments, words in (
            (("small", "colour"), "no measure is called 'colour'"),
            (("small", "copying", "--steps", "5"), "step 5"),
            (("small", "copying", "--steps", "x"), "'x' cannot be read"),
            (("nobody", "copying"), "nobody"),
        ):
            answer = phasewatch("measure", *arguments)
            assert answer.status == 1
            assert words in answer.err
            assert len(answer.err.splitlines()) == 1


class TestGroup:
    def test_is_added_listed_and_removed(self, phasewatch: Call, run: SmallRun) -> None:
        assert "no token groups yet" in phasewatch("group", "list", "small").out
        answer = phasewatch("group", "add", "small", "late", "--positions", "10-20")
        assert answer.out == "late: 66 tokens of text; measured as token_group:late\n"
        for where in ("small", run.probes.sha256):
            listed = phasewatch("group", "list", where).out
            assert "positions: [10, 20]" in listed
            assert "66 of text" in listed
        assert [one["name"] for one in phasewatch("group", "list", "small", "--json").json["items"]] == ["late"]
        assert phasewatch("group", "remove", "small", "late").out.startswith("late is deleted, and 0 values")
        assert phasewatch("group", "remove", "small", "late").status == 1

    def test_every_way_of_describing_one(self, phasewatch: Call, run: SmallRun) -> None:
        for name, arguments in {
            "ids": ("--ids", "1,2"),
            "frequency": ("--frequency", "0.0-0.05"),
            "late": ("--positions", "10-20"),
        }.items():
            made = phasewatch("group", "add", "small", name, *arguments, "--json")
            assert made.status == 0, made.err
            assert made.json["measures"]["text"] == f"token_group:{name}"
        assert "pieces" in phasewatch("group", "add", "small", "p", "--pattern", "a").err
        assert "is empty" in phasewatch("group", "add", "small", "i", "--induction-predictable").err

    def test_refusals_are_one_line(self, phasewatch: Call, run: SmallRun, make_run: MakeRun) -> None:
        make_run(name="bare")
        for arguments, words in (
            (("small", "x"), "exactly one way, not 0"),
            (("small", "x", "--ids", "1", "--positions", "1-2"), "exactly one way, not 2"),
            (("small", "x", "--ids", "one"), "'one' cannot be read"),
            (("small", "x y", "--ids", "1"), "name"),
            (("bare", "x", "--ids", "1"), "no probe set yet"),
        ):
            answer = phasewatch("group", "add", *arguments)
            assert answer.status == 1
            assert words in answer.err
            assert len(answer.err.splitlines()) == 1
