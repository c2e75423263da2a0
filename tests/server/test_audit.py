"""The audit log: who wrote what, who tried without the right to; and nothing of what training runs record."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import func, select, update

from phasewatch.storage.audit import trim_audit
from phasewatch.storage.database import Database
from phasewatch.storage.schema import AuditEntry, utc_now
from server.audit import INGEST
from tests.server.conftest import NPY, MakeClient, losses, npy, refused
from tests.server.test_auth import ADMIN, add_token, bearer

RUNS, AUDIT = "/api/v1/runs", "/api/v1/audit"


@pytest.fixture
def client(database: Database, make_client: MakeClient) -> TestClient:
    """A client that sends the admin token of the settings."""
    client = make_client(database, admin_token=ADMIN)
    client.headers.update(bearer(ADMIN))
    return client


def entries(client: TestClient, **query: Any) -> list[dict[str, Any]]:
    """What the log holds, newest first."""
    found: list[dict[str, Any]] = client.get(AUDIT, params=query).json()["items"]
    return found


def test_a_write_stands_there_with_who_and_what(client: TestClient, run: UUID) -> None:
    answer = client.patch(f"{RUNS}/{run}", json={"name": "new"}, headers={"X-Request-Id": "r-1"})
    assert answer.status_code == 200
    (entry,) = entries(client)
    assert (entry["method"], entry["route"], entry["status"]) == ("PATCH", "/api/v1/runs/{run}", 200)
    assert (entry["token_id"], entry["name"], entry["target"]) == (1, "PHASEWATCH_ADMIN_TOKEN", f"run={run}")
    assert (entry["request_id"], entry["address"]) == ("r-1", "testclient")


def test_what_has_transactions_of_its_own_stands_there_too(client: TestClient, run: UUID) -> None:
    assert client.delete(f"{RUNS}/{run}").status_code == 200
    (entry,) = entries(client)
    assert (entry["method"], entry["target"], entry["status"]) == ("DELETE", f"run={run}", 200)


def test_what_somebody_had_no_right_to_stands_there(client: TestClient, database: Database, run: UUID) -> None:
    add_token(database, "reader", "read")
    refused(client.delete(f"{RUNS}/{run}", headers=bearer("reader")), 403)
    refused(client.post("/api/v1/session", json={"token": "wrong"}), 401)
    sign_in, deletion = entries(client)
    assert (deletion["name"], deletion["route"], deletion["target"]) == ("reader", "/api/v1/runs/{run}", f"run={run}")
    assert (deletion["status"], sign_in["status"], sign_in["route"]) == (403, 401, "/api/v1/session")
    assert "wrong" not in str(sign_in)


def test_what_changed_nothing_and_what_runs_record_does_not(client: TestClient, run: UUID) -> None:
    assert client.put(f"{RUNS}/{run}/losses/text/0", content=npy(losses()), headers=NPY).status_code == 201
    assert client.post(f"{RUNS}/{run}/series", json={"points": []}).status_code == 200
    assert client.post(f"{RUNS}/{run}/checkpoints", json={"step": 0}).status_code == 201
    assert client.get(RUNS).status_code == 200
    assert client.post(RUNS, json={}).status_code == 422
    assert client.delete(f"{RUNS}/01890000-0000-7000-8000-000000000000").status_code == 404
    assert entries(client) == []


def test_a_write_that_is_undone_leaves_no_entry(
    client: TestClient, database: Database, run: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The entry is in the transaction of what it tells."""

    def fail(session: object) -> None:
        raise OSError("the disk is full")

    monkeypatch.setattr("phasewatch.storage.database.write_events", fail)
    with pytest.raises(OSError, match="disk"):
        client.patch(f"{RUNS}/{run}", json={"name": "new"})
    monkeypatch.undo()
    assert entries(client) == []


def test_the_log_is_for_admins_and_can_be_searched(client: TestClient, database: Database) -> None:
    add_token(database, "writer", "write")
    refused(client.get(AUDIT, headers=bearer("writer")), 403, "admin")
    client.post(RUNS, json={"name": "a"}, headers=bearer("writer"))
    made = client.post("/api/v1/tokens", json={"name": "b"}).json()
    assert [entry["target"] for entry in entries(client, token=1)] == [f"token={made['id']}"]
    assert [entry["name"] for entry in entries(client, route=RUNS)] == ["writer"]
    assert len(entries(client, method="POST", target="token=")) == 1
    assert entries(client, target="%") == []
    assert entries(client, since="2099-01-01T00:00:00Z") == []
    assert len(entries(client, until="2099-01-01T00:00:00Z")) == 2
    first = client.get(AUDIT, params={"limit": 1}).json()
    second = client.get(AUDIT, params={"limit": 1, "cursor": first["next"]}).json()
    assert (first["items"][0]["id"], second["items"][0]["id"], second["next"]) == (2, 1, None)


def test_it_is_trimmed_after_a_year(client: TestClient, database: Database) -> None:
    for name in ("a", "b"):
        client.post(RUNS, json={"name": name})
    with database.transaction() as session:
        session.execute(update(AuditEntry).where(AuditEntry.id == 1).values(time=utc_now() - timedelta(days=366)))
    with database.transaction() as session:
        assert trim_audit(session) == 1
        assert session.scalar(select(func.count()).select_from(AuditEntry)) == 1


def test_what_counts_as_recording_are_routes_that_there_are(
    sqlite_database: Database, sqlite_client: TestClient
) -> None:
    paths = sqlite_client.get("/openapi.json").json()["paths"]
    assert all(method.lower() in paths[template] for method, template in INGEST)
