"""Tokens over the API: shown once, listed without their text, changed, revoked; and the last admin's is kept."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import select

from phasewatch.storage.database import Database
from phasewatch.storage.schema import ApiToken, Scope, utc_now
from server import auth
from tests.server.conftest import MakeClient, refused
from tests.server.test_auth import ADMIN, add_token, bearer

TOKENS = "/api/v1/tokens"
RUNS = "/api/v1/runs"


@pytest.fixture
def client(database: Database, make_client: MakeClient) -> TestClient:
    """A client that sends the admin token of the settings."""
    client = make_client(database, admin_token=ADMIN)
    client.headers.update(bearer(ADMIN))
    return client


def make(client: TestClient, **content: Any) -> dict[str, Any]:
    """A new token, as the API shows it."""
    answer = client.post(TOKENS, json={"name": "ci", **content})
    assert answer.status_code == 201, answer.text
    found: dict[str, Any] = answer.json()
    return found


def test_a_token_is_shown_once_and_works(client: TestClient, database: Database) -> None:
    made = make(client, scope="write")
    assert made["token"].startswith("pw_")
    assert len(made["token"]) == 3 + 43  # 256 bits in base64
    assert (made["name"], made["scope"], made["made_by"]) == ("ci", "write", "PHASEWATCH_ADMIN_TOKEN")
    assert client.post(RUNS, json={"name": "x"}, headers=bearer(made["token"])).status_code == 201
    shown = [client.get(TOKENS).text, client.get(f"{TOKENS}/{made['id']}").text]
    assert not any("token" in item for item in client.get(TOKENS).json()["items"])
    with database.reading() as session:
        shown += [str(vars(row)) for row in session.scalars(select(ApiToken))]
    assert not any(made["token"] in text for text in shown)


def test_only_admins_see_or_make_tokens(client: TestClient, database: Database) -> None:
    for scope in ("read", "write"):
        headers = bearer(make(client, scope=scope)["token"])
        for method, path in (("GET", TOKENS), ("POST", TOKENS), ("GET", f"{TOKENS}/1"), ("DELETE", f"{TOKENS}/1")):
            refused(client.request(method, path, json={"name": "x"}, headers=headers), 403, "scope")
    assert len(client.get(TOKENS).json()["items"]) == 3


def test_a_list_comes_in_pages(client: TestClient) -> None:
    names = [make(client, name=f"t{number}")["name"] for number in range(3)]
    page = client.get(TOKENS, params={"limit": 2}).json()
    rest = client.get(TOKENS, params={"limit": 2, "cursor": page["next"]}).json()
    assert [item["name"] for item in (*page["items"], *rest["items"])] == ["PHASEWATCH_ADMIN_TOKEN", *names]
    assert rest["next"] is None


def test_a_revoked_token_is_refused_at_once_and_stays_in_sight(client: TestClient) -> None:
    made = make(client)
    headers = bearer(made["token"])
    assert client.get(RUNS, headers=headers).status_code == 200
    answer = client.delete(f"{TOKENS}/{made['id']}")
    assert answer.status_code == 200
    assert answer.json()["revoked_at"] is not None
    refused(client.get(RUNS, headers=headers), 401, "revoked")
    assert made["id"] not in [item["id"] for item in client.get(TOKENS).json()["items"]]
    assert made["id"] in [item["id"] for item in client.get(TOKENS, params={"revoked": True}).json()["items"]]
    assert client.delete(f"{TOKENS}/{made['id']}").json() == answer.json()
    refused(client.patch(f"{TOKENS}/{made['id']}", json={"name": "again"}), 409, "revoked")


def test_the_last_admin_token_is_not_revoked_by_mistake(client: TestClient) -> None:
    refused(client.delete(f"{TOKENS}/1"), 409, "last", "python -m server token create")
    other = make(client, scope="admin")
    assert client.delete(f"{TOKENS}/1", headers=bearer(other["token"])).status_code == 200
    last = f"{TOKENS}/{other['id']}"
    refused(client.delete(last, headers=bearer(other["token"])), 409, "last")
    assert client.delete(last, params={"last_admin": True}, headers=bearer(other["token"])).status_code == 200
    assert client.get(RUNS, headers=bearer(other["token"])).status_code == 401
    refused(client.get(RUNS), 401)


def test_an_admin_token_that_is_over_counts_for_nobody(client: TestClient, database: Database) -> None:
    other = make(client, scope="admin", expires_at=(datetime.now(UTC) + timedelta(hours=1)).isoformat())
    with database.transaction() as session:
        row = session.get(ApiToken, other["id"])
        assert row is not None
        row.expires_at = utc_now() - timedelta(seconds=1)
    refused(client.delete(f"{TOKENS}/1"), 409, "last")


def test_a_token_ends_when_it_says(client: TestClient, database: Database) -> None:
    made = make(client, expires_at=(datetime.now(UTC) + timedelta(days=1)).isoformat())
    assert client.get(RUNS, headers=bearer(made["token"])).status_code == 200
    with database.transaction() as session:
        row = session.get(ApiToken, made["id"])
        assert row is not None
        row.expires_at = utc_now()
    client.app.state.service.gate.forget()  # type: ignore[attr-defined]  # believed for a second
    refused(client.get(RUNS, headers=bearer(made["token"])), 401, "expired")


@pytest.mark.parametrize("when", ["2020-01-01T00:00:00Z", "2030-01-01T00:00:00", "tomorrow", 5.5])
def test_an_end_that_is_over_or_no_time_is_422(client: TestClient, when: object) -> None:
    made = make(client)
    refused(client.post(TOKENS, json={"name": "x", "expires_at": when}), 422, "expires_at")
    refused(client.patch(f"{TOKENS}/{made['id']}", json={"expires_at": when}), 422, "expires_at")


def test_name_and_end_can_be_changed_and_nothing_else(client: TestClient) -> None:
    made = make(client, expires_at="2099-01-01T00:00:00Z")
    path = f"{TOKENS}/{made['id']}"
    assert client.patch(path, json={"name": "new"}).json()["expires_at"] == "2099-01-01T00:00:00Z"
    changed = client.patch(path, json={"expires_at": None}).json()
    assert (changed["name"], changed["expires_at"]) == ("new", None)
    refused(client.patch(path, json={"scope": "admin"}), 422, "scope")
    refused(client.patch(path, json={"name": None}), 422, "name")
    refused(client.get(f"{TOKENS}/99"), 404, "99")


@pytest.mark.parametrize("scope", ["read", "write"])
def test_the_first_token_of_all_needs_scope_admin(
    sqlite_database: Database, sqlite_client: TestClient, scope: Scope
) -> None:
    refused(sqlite_client.post(TOKENS, json={"name": "x", "scope": scope}), 409, "admin")
    made = sqlite_client.post(TOKENS, json={"name": "x", "scope": "admin"}).json()
    assert made["made_by"] == "local"
    refused(sqlite_client.get(RUNS), 401)
    assert sqlite_client.post(TOKENS, json={"name": "y"}, headers=bearer(made["token"])).status_code == 201


def test_last_use_is_written_at_most_once_a_minute(
    client: TestClient, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_token(database, "t", "read")
    used = []
    for _ in range(3):
        assert client.get(RUNS, headers=bearer("t")).status_code == 200
        used.append(client.get(f"{TOKENS}/2").json()["last_used_at"])
    assert used[0] is not None
    assert set(used) == {used[0]}
    gate = client.app.state.service.gate  # type: ignore[attr-defined]
    assert isinstance(gate, auth.Gate)
    assert not gate.use_is_due(2)
    assert gate.use_is_due(3)


def test_a_token_of_the_settings_that_was_revoked_stays_so(
    sqlite_database: Database, make_client: MakeClient, caplog: pytest.LogCaptureFixture
) -> None:
    client = make_client(sqlite_database, admin_token=ADMIN)
    client.delete(f"{TOKENS}/1", params={"last_admin": True}, headers=bearer(ADMIN))
    again = make_client(sqlite_database, admin_token=ADMIN)
    assert "PHASEWATCH_ADMIN_TOKEN was revoked" in caplog.text
    refused(again.get(RUNS, headers=bearer(ADMIN)), 401)
