"""Monitors that tell or compare: silence, divergence, comparisons and retention, from the tick to the result."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import UUID

import numpy as np
import pytest
from fastapi.testclient import TestClient
from sqlalchemy import select, update

from phasewatch.storage.artifacts import Artifacts
from phasewatch.storage.checkpoints import NewCheckpoint, put_checkpoint, weights_name
from phasewatch.storage.database import Database
from phasewatch.storage.jobs import claim_jobs
from phasewatch.storage.losses import put_losses
from phasewatch.storage.measurements import StoredMeasurement, put_measurements
from phasewatch.storage.schema import Alert, Channel, Job, Monitor, Run, utc_now
from phasewatch.storage.series import put_series
from server.jobs import Work, attempt
from server.jobs.watches import find_divergence
from server.scheduler import Scheduler
from tests.conftest import MakeRun, make_probes


@pytest.fixture
def monitored(client: TestClient, database: Database) -> Any:
    """Makes a monitor, the only one that is on."""
    with database.transaction() as session:
        session.execute(update(Monitor).values(enabled=False))

    def make(kind: str, trigger: dict[str, Any] | None = None, **parameters: Any) -> int:
        body = {
            "name": kind, "kind": kind, "selector": {"all": True}, "trigger": trigger or {"every_s": 1},
            "parameters": parameters,
        }  # fmt: skip
        answer = client.post("/api/v1/monitors", json=body)
        assert answer.status_code == 201, answer.text
        return int(answer.json()["id"])

    return make


def work_off(database: Database, artifacts: Artifacts) -> list[dict[str, Any] | None]:
    """Does every job there is; their results, oldest first."""
    with database.transaction() as session:
        claimed = [Work.from_row(row, "worker") for row in claim_jobs(session, "worker", 100, 60.0)]
    for work in claimed:
        assert attempt(work, database, artifacts) is None
    with database.reading() as session:
        ids = [work.job_id for work in claimed]
        return list(session.scalars(select(Job.result).where(Job.id.in_(ids)).order_by(Job.id)))


def channel(database: Database) -> None:
    """Somebody who wants to be told of everything."""
    with database.transaction() as session:
        session.add(Channel(name="c", kind="webhook", address="c", url="", enabled=True, rules={}))


def alerts(database: Database) -> list[tuple[str, UUID | None]]:
    with database.reading() as session:
        return [(row.kind, row.run_id) for row in session.scalars(select(Alert).order_by(Alert.created_at))]


def test_a_run_that_fell_silent_is_told_of_once_for_each_silence(
    database: Database, artifacts: Artifacts, make_run: MakeRun, monitored: Any
) -> None:
    silent, going_on, over = make_run(name="silent"), make_run(name="going on"), make_run(name="over")
    monitored("stale_run", after_s=60)
    channel(database)
    now = utc_now()
    with database.transaction() as session:
        for run, heard, status in ((silent, 90, "running"), (going_on, 10, "running"), (over, 90, "completed")):
            values = {"heartbeat_at": now - timedelta(seconds=heard), "status": status}
            session.execute(update(Run).where(Run.id == run).values(**values))
    scheduler = Scheduler(database, "one")
    assert scheduler.tick(now + timedelta(seconds=2)) == 1
    assert [scheduler.tick(now + timedelta(seconds=n)) for n in (3, 4)] == [0, 0]
    (found,) = work_off(database, artifacts)
    assert found is not None
    assert found["stale"]
    assert found["silent_s"] >= 90
    with database.transaction() as session:  # it was heard from, and falls silent again
        session.execute(update(Run).where(Run.id == silent).values(heartbeat_at=now - timedelta(seconds=70)))
    assert scheduler.tick(now + timedelta(seconds=5)) == 1
    with database.transaction() as session:  # heard from before the job looked
        session.execute(update(Run).where(Run.id == silent).values(heartbeat_at=utc_now()))
    (again,) = work_off(database, artifacts)
    assert again is not None
    assert not again["stale"]
    assert alerts(database) == [("stale_run", silent)]


def diverging(n: int = 40, turn: int = 25) -> np.ndarray[Any, Any]:
    """A loss that falls from 6 to 2 nats, then rises to 9 within a few checkpoints."""
    values = 2 + 4 * np.exp(-np.arange(n) / 5) + np.random.default_rng(0).normal(0, 0.01, n)
    values[turn:] += 7 * (1 - np.exp(-np.arange(1, n - turn + 1) / 1.5))
    return values


def test_divergence_is_found_in_a_loss_that_rises_again_and_in_none_that_falls() -> None:
    steps = np.arange(40) * 10 + 10
    found = find_divergence(diverging(), steps, "loss")
    assert found is not None
    assert 250 <= found.step <= 290
    assert find_divergence(diverging(turn=40), steps, "loss") is None
    assert find_divergence(diverging()[:5], steps[:5], "loss") is None


@pytest.mark.parametrize("source", ["slice", "series"])
def test_a_diverging_run_is_told_of(
    database: Database, artifacts: Artifacts, make_run: MakeRun, monitored: Any, source: str
) -> None:
    run = make_run(probes=make_probes())
    monitored("divergence", {"each_checkpoint": True})
    channel(database)
    with database.transaction() as session:
        for number, loss in enumerate(diverging()):
            if source == "slice":
                put_losses(session, run, "text", 10 * number + 10, np.full(16, loss, np.float32))
            else:
                put_series(session, run, {10 * number + 10: {"loss": float(loss)}})
    scheduler, now = Scheduler(database, "one"), utc_now()
    assert scheduler.tick(now + timedelta(seconds=2)) == 1
    assert scheduler.tick(now + timedelta(seconds=4)) == 0
    (found,) = work_off(database, artifacts)
    assert found is not None
    (name,) = found["diverged"]
    assert name == ("mean_loss:text" if source == "slice" else "loss")
    with database.transaction() as session:
        put_series(session, run, {1_000: {"lr": 0.1}})
    assert scheduler.tick(now + timedelta(seconds=6)) == 1  # it went on
    work_off(database, artifacts)
    assert alerts(database) == [("divergence", run)]  # once


def test_runs_are_compared_as_the_api_does(
    client: TestClient, database: Database, artifacts: Artifacts, make_run: MakeRun, monitored: Any
) -> None:
    runs = [make_run(probes=make_probes(), config={"depth": depth}) for depth in (1, 2)]
    monitor = monitored("compare", measure="icl_score")
    with database.transaction() as session:
        for number, run in enumerate(runs):
            for step in range(8):
                put_measurements(session, run, step, {"icl_score": StoredMeasurement(1, np.array(-step / 10 - number))})
    (job,) = client.post(f"/api/v1/monitors/{monitor}/fire").json()["jobs"]
    work_off(database, artifacts)
    found = client.get(f"/api/v1/jobs/{job}").json()["result"]
    asked = client.get("/api/v1/compare", params={"runs": ",".join(map(str, runs)), "measure": "icl_score"}).json()
    for one in asked["runs"]:
        del one["values"], one["tokens"]
    del asked["steps"]
    assert found == asked | {"reason": None, "n_left_out": 0}


def test_a_comparison_of_what_is_not_there_says_so(database: Database, artifacts: Artifacts, monitored: Any) -> None:
    monitored("compare", measure="icl_score")
    assert Scheduler(database, "one").tick(utc_now() + timedelta(seconds=2)) == 1
    (found,) = work_off(database, artifacts)
    assert found is not None
    assert found["reason"].startswith("none of the 0 runs has measure 'icl_score'")


def test_a_comparison_at_each_checkpoint_comes_once_a_state(
    database: Database, artifacts: Artifacts, make_run: MakeRun, monitored: Any
) -> None:
    run = make_run()
    monitored("compare", {"each_checkpoint": True})
    scheduler, now = Scheduler(database, "one"), utc_now()
    made = [scheduler.tick(now + timedelta(seconds=2))]
    work_off(database, artifacts)
    made.append(scheduler.tick(now + timedelta(seconds=4)))
    with database.transaction() as session:
        put_series(session, run, {10: {"loss": 1.0}})
    made += [scheduler.tick(now + timedelta(seconds=n)) for n in (6, 8)]
    assert made == [1, 0, 1, 0]


def test_retention_is_asked_for_by_monitor_and_by_hand(
    client: TestClient, database: Database, artifacts: Artifacts, make_run: MakeRun, monitored: Any
) -> None:
    first, second = make_run(), make_run()
    for run in (first, second):
        for step in (0, 10, 20):
            weights = artifacts.put(weights_name(run, 0, step), b"x" * 500)
            with database.transaction() as session:
                put_checkpoint(session, run, NewCheckpoint(step, weights=weights))
    path = f"/api/v1/runs/{first}/retention"
    dry = client.post(path, json={"keep_last": 1, "dry_run": True})
    assert dry.status_code == 200
    expected = {"n_weights": 2, "weights_bytes": 1_000, "n_kept": 1, "steps": [0, 10]}
    assert dry.json() == expected | {"n_loss_slices": 0, "loss_bytes": 0, "job": None}
    asked = client.post(path, json={"keep_last": 2})
    assert (asked.status_code, asked.json()["steps"]) == (202, [0])
    work_off(database, artifacts)
    done = client.get(f"/api/v1/jobs/{asked.json()['job']}").json()
    one = {"n_weights": 1, "artifacts_bytes": 500, "n_loss_slices": 0, "database_bytes": 0}
    assert done["result"] == one | {"n_runs": 1, "runs": [{"run": str(first), **one}]}
    monitored("retention", keep_every=2)
    assert Scheduler(database, "one").tick(utc_now() + timedelta(seconds=2)) == 1
    (found,) = work_off(database, artifacts)
    assert found is not None
    assert (found["n_runs"], found["n_weights"], found["artifacts_bytes"]) == (2, 2, 1_000)
    weights = [item["has_weights"] for item in client.get(f"/api/v1/runs/{second}/checkpoints").json()["items"]]
    assert weights == [True, False, True]


@pytest.mark.parametrize(
    "body", [{"keep_last": 0}, {"keep_every": "3"}, {"losses_float16_after_days": -1}, {"keep": 1}, {"dry_run": 1}]
)
def test_rules_that_make_no_sense_are_refused(client: TestClient, run: UUID, body: dict[str, Any]) -> None:
    answer = client.post(f"/api/v1/runs/{run}/retention", json=body)
    assert answer.status_code == 422
    assert next(iter(body)) in answer.json()["detail"]


def test_retention_of_a_run_that_is_not_there_is_404(client: TestClient) -> None:
    missing = "01900000-0000-7000-8000-000000000000"
    assert client.post(f"/api/v1/runs/{missing}/retention", json={"dry_run": True}).status_code == 404
