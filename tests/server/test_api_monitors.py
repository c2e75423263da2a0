"""Monitors over HTTP: made, changed, fired, deleted; and what is refused, naming the field."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import select

from phasewatch.ids import new_id
from phasewatch.storage.artifacts import Artifacts
from phasewatch.storage.database import Database
from phasewatch.storage.jobs import claim_jobs, finish_job
from phasewatch.storage.schema import Firing, Job, utc_now
from server.scheduler import Scheduler
from tests.server.conftest import refused
from tests.server.small_run import SmallRun

PATH = "/api/v1/monitors"


def body(**changes: Any) -> dict[str, Any]:
    given = {"name": "watch", "kind": "score", "selector": {"all": True}, "trigger": {"every_s": 60}}
    return given | changes


def made(client: TestClient, **changes: Any) -> dict[str, Any]:
    answer = client.post(PATH, json=body(**changes))
    assert answer.status_code == 201, answer.text
    found: dict[str, Any] = answer.json()
    return found


def test_a_monitor_is_made_read_changed_and_deleted(client: TestClient, run: UUID) -> None:
    first = made(client, selector={"run": str(run)})
    assert first | body(selector={"run": str(run)}, parameters={}, enabled=True) == first
    path = f"{PATH}/{first['id']}"
    assert client.get(path).json() == first
    changed = client.patch(path, json={"name": "another", "enabled": False, "trigger": {"cron": "30 2 * * mon-fri"}})
    assert changed.status_code == 200, changed.text
    expected = first | {"name": "another", "enabled": False, "trigger": {"cron": "30 2 * * mon-fri"}}
    assert changed.json() == client.get(path).json() == expected
    assert client.patch(path, json={}).json() == expected
    assert client.delete(path).json() == {"firings": 0}
    assert client.get(path).status_code == client.delete(path).status_code == 404
    assert client.patch(path, json={"name": "x"}).status_code == client.post(f"{path}/fire").status_code == 404


@pytest.mark.parametrize(
    ("kind", "trigger", "parameters", "stored"),
    [
        ("score", {"each_checkpoint": True}, {}, {}),
        ("scan", {"every_s": 1.5}, {}, {}),
        ("ablate_on_change", {"cron": "*/5 * * * *"}, {}, {}),
        ("compare", {"each_checkpoint": True}, {}, {"measure": "icl_score"}),
        ("compare", {"every_s": 60}, {"measure": "token_group:closing"}, {"measure": "token_group:closing"}),
        ("stale_run", {"every_s": 60}, {"after_s": 30}, {"after_s": 30}),
        ("divergence", {"each_checkpoint": True}, {}, {"series": None}),
        ("divergence", {"every_s": 60}, {"series": "loss"}, {"series": "loss"}),
    ],
)
def test_every_kind_is_made_with_its_parameters(
    sqlite_client: TestClient, kind: str, trigger: dict[str, Any], parameters: dict[str, Any], stored: dict[str, Any]
) -> None:
    found = made(sqlite_client, kind=kind, trigger=trigger, parameters=parameters)
    assert (found["kind"], found["trigger"], found["parameters"]) == (kind, trigger, stored)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"kind": "unheard_of"}, ["kind", "score"]),
        ({"kind": None}, ["kind"]),
        ({"name": ""}, ["name"]),
        ({"name": "a\x00b"}, ["name"]),
        ({"selector": {}}, ["selector", '{"run": id}']),
        ({"selector": {"run": "x"}}, ["selector.run", "UUID"]),
        ({"selector": {"all": False}}, ["selector.all"]),
        ({"selector": {"all": True, "tag": "x"}}, ["selector"]),
        ({"trigger": {"every_s": 0.5}}, ["trigger.every_s"]),
        ({"trigger": {"every_s": "60"}}, ["trigger.every_s"]),
        ({"trigger": {"every_s": 1e300}}, ["trigger.every_s"]),
        ({"trigger": {"cron": "61 * * * *"}}, ["trigger.cron"]),
        ({"trigger": {"cron": "* * * *"}}, ["trigger.cron"]),
        ({"trigger": {"cron": "0 0 30 2 *"}}, ["trigger.cron", "never comes"]),
        ({"trigger": {"each_checkpoint": False}}, ["trigger.each_checkpoint"]),
        ({"trigger": {"when": "soon"}}, ["trigger", '{"every_s": n}']),
        ({"enabled": "yes"}, ["enabled"]),
        ({"parameters": {"own": 1}}, ["parameters.own"]),
        ({"kind": "compare", "parameters": {"measure": 3}}, ["parameters.measure"]),
        ({"kind": "stale_run", "parameters": {"after_s": -1}}, ["parameters.after_s"]),
        ({"kind": "stale_run", "parameters": {"after_s": "soon"}}, ["parameters.after_s"]),
        ({"kind": "stale_run", "trigger": {"each_checkpoint": True}}, ["trigger", "every_s"]),
        ({"kind": "divergence", "parameters": {"series": ""}}, ["parameters.series"]),
        ({"extra": 1}, ["extra"]),
    ],
)
def test_what_a_kind_does_not_have_is_refused_by_its_field(
    sqlite_client: TestClient, changes: dict[str, Any], words: list[str]
) -> None:
    before = sqlite_client.get(PATH).json()
    refused(sqlite_client.post(PATH, json=body(**changes)), 422, *words)
    assert sqlite_client.get(PATH).json() == before


def test_a_change_that_the_kind_does_not_have_is_a_conflict(sqlite_client: TestClient) -> None:
    path = f"{PATH}/{made(sqlite_client, kind='stale_run')['id']}"
    refused(sqlite_client.patch(path, json={"parameters": {"measure": "icl_score"}}), 409, "stale_run", "measure")
    refused(sqlite_client.patch(path, json={"trigger": {"each_checkpoint": True}}), 409, "stale_run", "trigger")
    refused(sqlite_client.patch(path, json={"parameters": {"after_s": 0}}), 422, "parameters.after_s")
    refused(sqlite_client.patch(path, json={"kind": "score"}), 422, "kind")
    assert sqlite_client.patch(path, json={"parameters": {"after_s": 5}}).json()["parameters"] == {"after_s": 5}


def test_a_monitor_of_a_run_that_is_not_there_is_404(sqlite_client: TestClient) -> None:
    selector = {"selector": {"run": str(new_id())}}
    refused(sqlite_client.post(PATH, json=body(**selector)), 404, "run")
    refused(sqlite_client.patch(f"{PATH}/1", json=selector), 404, "run")


def test_firing_by_hand_makes_what_is_not_asked_for_yet(
    client: TestClient, database: Database, artifacts: Artifacts
) -> None:
    run = SmallRun.create(database, artifacts)
    for step in (0, 10):
        run.record_losses(step)
    monitor = made(client, selector={"run": str(run.run_id)}, enabled=False)["id"]
    first = client.post(f"{PATH}/{monitor}/fire")
    second = client.post(f"{PATH}/{monitor}/fire")
    assert (first.status_code, second.status_code) == (202, 202)
    assert [client.get(f"/api/v1/jobs/{job}").json()["step"] for job in first.json()["jobs"]] == [0, 10]
    assert second.json()["jobs"] == []
    firings = client.get(f"{PATH}/{monitor}/firings").json()["items"]
    assert [firing["id"] for firing in firings] == [second.json()["firing"], first.json()["firing"]]
    assert firings[0]["jobs"] == []
    assert firings[1]["jobs"] == [
        {"id": job, "kind": "score", "run": str(run.run_id), "step": step, "state": "waiting"}
        for job, step in zip(first.json()["jobs"], (0, 10), strict=True)
    ]
    assert client.delete(f"{PATH}/{monitor}").json() == {"firings": 2}
    with database.reading() as session:
        assert session.scalars(select(Firing)).all() == []
        assert session.scalars(select(Job.firing_id)).all() == [None, None]


def test_a_monitor_that_is_edited_looks_at_everything_again(
    sqlite_client: TestClient, sqlite_database: Database, artifacts: Artifacts
) -> None:
    run = SmallRun.create(sqlite_database, artifacts, tags=("here",))
    run.record_losses(0)
    monitor = made(sqlite_client, selector={"tag": "elsewhere"}, trigger={"each_checkpoint": True})["id"]
    for built_in in (1, 2, 3):
        assert sqlite_client.patch(f"{PATH}/{built_in}", json={"enabled": False}).status_code == 200
    scheduler = Scheduler(sqlite_database, "one")
    assert scheduler.tick() == 0
    assert sqlite_client.patch(f"{PATH}/{monitor}", json={"selector": {"tag": "here"}}).status_code == 200
    assert scheduler.tick() == 1


def test_what_a_job_says_of_its_outcome_is_read_with_it(client: TestClient, database: Database) -> None:
    monitor = made(client, kind="compare")["id"]
    (job,) = client.post(f"{PATH}/{monitor}/fire").json()["jobs"]
    with database.transaction() as session:
        (row,) = claim_jobs(session, "worker", 1, 60.0)
        finish_job(session, row.id, "worker", {"measure": "icl_score", "runs": []})
    found = client.get(f"/api/v1/jobs/{job}").json()
    assert (found["state"], found["result"]) == ("done", {"measure": "icl_score", "runs": []})


def test_the_coming_times_of_a_cron_line_are_told_before_a_monitor_has_it(sqlite_client: TestClient) -> None:
    answer = sqlite_client.get("/api/v1/monitors/due", params={"cron": "30 4 * * *", "count": 2})
    assert answer.status_code == 200, answer.text
    first, second = (datetime.fromisoformat(text) for text in answer.json()["times"])
    assert (first.hour, first.minute, first.second) == (4, 30, 0)
    assert timedelta(0) < first - utc_now() <= timedelta(days=1)
    assert second - first == timedelta(days=1)
    refused(sqlite_client.get("/api/v1/monitors/due", params={"cron": "0 0 30 2 *"}), 422, "never comes")
    refused(
        sqlite_client.get("/api/v1/monitors/due", params={"cron": "61 * * * *"}), 422, "minute 61 lies outside 0 to 59"
    )
    refused(sqlite_client.get("/api/v1/monitors/due", params={"cron": "0  0 * * *"}), 422, "one space")
