"""Jobs, monitors and firings over HTTP."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from fastapi.testclient import TestClient

from phasewatch.storage import jobs
from phasewatch.storage.database import Database
from phasewatch.storage.monitors import insert_firing
from phasewatch.storage.schema import Monitor
from phasewatch.storage.tokens import put_token
from tests.server.conftest import MakeClient

DUE = datetime(2030, 1, 1, tzinfo=UTC)


@pytest.fixture
def monitor(database: Database, run: UUID) -> int:
    """A monitor that was due three times and asked for four jobs."""
    with database.transaction() as session:
        watch = Monitor(
            name="m", kind="score", selector={"all": True}, trigger={"every_s": 60}, parameters={}, enabled=True
        )
        session.add(watch)
        session.flush()
        firings = [insert_firing(session, watch.id, DUE + timedelta(minutes=n)) for n in range(3)]
        for step in range(3):
            jobs.enqueue(session, jobs.NewJob(f"score:{step}", "score", run, 0, step, {"a": 1}), firings[step])
        jobs.enqueue(session, jobs.NewJob("scan:x", "scan", priority=5))
        return watch.id


def test_jobs_are_listed_newest_first_and_filtered(client: TestClient, monitor: int, run: UUID) -> None:
    first = client.get("/api/v1/jobs", params={"limit": 3}).json()
    second = client.get("/api/v1/jobs", params={"limit": 3, "cursor": first["next"]}).json()
    keys = [item["key"] for item in first["items"] + second["items"]]
    assert keys == ["scan:x", "score:2", "score:1", "score:0"]
    scores = client.get("/api/v1/jobs", params={"run": str(run), "kind": "score", "state": "waiting"}).json()
    assert [item["step"] for item in scores["items"]] == [2, 1, 0]
    assert client.get("/api/v1/jobs", params={"state": "done"}).json()["items"] == []
    one = scores["items"][0]
    assert one | {"kind": "score", "run": str(run), "segment": 0, "parameters": {"a": 1}, "attempts": 0} == one
    assert one["firing"] is not None
    assert client.get(f"/api/v1/jobs/{one['id']}").json() == one


def test_a_failed_job_tells_why_and_can_be_retried(client: TestClient, database: Database, monitor: int) -> None:
    with database.transaction() as session:
        (job,) = jobs.claim_jobs(session, "worker", 1, 60)
        path = f"/api/v1/jobs/{job.id}"
    assert client.post(f"{path}/retry").status_code == 409
    for _ in range(jobs.MAX_ATTEMPTS):
        with database.transaction() as session:
            jobs.fail_attempt(session, job.id, "worker", "ValueError: too few checkpoints")
            row = jobs.get_job(session, job.id, lock=True)
            if row.state == "waiting":
                row.state, row.owner, row.attempts = "running", "worker", row.attempts + 1
    failed = client.get(path).json()
    assert (failed["state"], failed["attempts"]) == ("failed", 3)
    assert failed["error"] == "ValueError: too few checkpoints"
    retried = client.post(f"{path}/retry").json()
    assert (retried["state"], retried["attempts"]) == ("waiting", 0)


def test_a_job_is_cancelled_once(client: TestClient, monitor: int) -> None:
    job = client.get("/api/v1/jobs").json()["items"][0]["id"]
    assert client.post(f"/api/v1/jobs/{job}/cancel").json()["state"] == "cancelled"
    assert client.post(f"/api/v1/jobs/{job}/cancel").status_code == 409
    assert client.get("/api/v1/jobs", params={"state": "cancelled"}).json()["items"][0]["id"] == job


@pytest.mark.parametrize("job", [10**9, 2**62])
def test_an_unknown_job_is_404(client: TestClient, job: int) -> None:
    assert client.get(f"/api/v1/jobs/{job}").status_code == 404
    assert client.post(f"/api/v1/jobs/{job}/retry").status_code == 404


def test_monitors_and_their_firings_are_listed(client: TestClient, monitor: int) -> None:
    everything = client.get("/api/v1/monitors").json()["items"]
    page = client.get("/api/v1/monitors", params={"limit": 1}).json()
    rest = client.get("/api/v1/monitors", params={"cursor": page["next"]}).json()
    assert page["items"] + rest["items"] == everything
    item = everything[-1]
    assert item | {"id": monitor, "kind": "score", "selector": {"all": True}, "trigger": {"every_s": 60}} == item
    assert client.get(f"/api/v1/monitors/{monitor}").json() == item
    path = f"/api/v1/monitors/{monitor}/firings"
    first = client.get(path, params={"limit": 2}).json()
    second = client.get(path, params={"limit": 2, "cursor": first["next"]}).json()
    times = [firing["scheduled_at"] for firing in first["items"] + second["items"]]
    assert times == [f"2030-01-01T00:0{n}:00Z" for n in (2, 1, 0)]
    assert first["items"][0]["monitor"] == monitor


@pytest.mark.parametrize("path", ["/api/v1/monitors/77", "/api/v1/monitors/77/firings", f"/api/v1/monitors/{2**62}"])
def test_an_unknown_monitor_is_404(client: TestClient, path: str) -> None:
    assert client.get(path).status_code == 404


def test_a_traceback_is_for_scope_admin_alone(
    database: Database, make_client: MakeClient, run: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "MAX_ATTEMPTS", 1)
    with database.transaction() as session:
        jobs.enqueue(session, jobs.NewJob("scan:x", "scan", run))
        (job,) = jobs.claim_jobs(session, "worker", 1, 60)
        jobs.fail_attempt(session, job.id, "worker", "ValueError: no", "File secret.py, line 3")
        put_token(session, "r" * 40, name="reader", scope="read")
        put_token(session, "w" * 40, name="writer", scope="write")
    client = make_client(database, admin_token="a" * 40)
    for token, seen in (("r", None), ("w", None), ("a", "File secret.py, line 3")):
        headers = {"Authorization": f"Bearer {token * 40}"}
        one = client.get(f"/api/v1/jobs/{job.id}", headers=headers).json()
        listed = client.get("/api/v1/jobs", headers=headers).json()["items"]
        assert one["error"] == "ValueError: no"
        assert [one["traceback"]] == [item["traceback"] for item in listed] == [seen]
