"""Signing in with a token: a cookie out of reach of scripts and other sites, and writes that prove their page."""

from __future__ import annotations

from datetime import timedelta
from http.cookies import SimpleCookie
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import select, update

from phasewatch.storage.database import Database
from phasewatch.storage.schema import BrowserSession, Scope, utc_now
from phasewatch.storage.tokens import token_sha256
from server.sessions import COOKIE, csrf_token
from tests.server.conftest import ADDRESS, MakeClient, refused
from tests.server.test_auth import ADMIN, add_token, bearer

SESSION, RUNS = "/api/v1/session", "/api/v1/runs"


@pytest.fixture
def client(database: Database, make_client: MakeClient) -> TestClient:
    """A browser without a session, at a server with a token."""
    return make_client(database, admin_token=ADMIN)


def sign_in(client: TestClient, token: str = ADMIN) -> dict[str, Any]:
    """Signs the client in; what it was told."""
    answer = client.post(SESSION, json={"token": token})
    assert answer.status_code == 201, answer.text
    found: dict[str, Any] = answer.json()
    return found


def test_a_cookie_stands_for_the_token_from_then_on(client: TestClient, database: Database) -> None:
    refused(client.get(SESSION), 401)
    told = sign_in(client)
    assert (told["name"], told["scope"]) == ("PHASEWATCH_ADMIN_TOKEN", "admin")
    assert client.get(SESSION).json() == told
    assert client.get(RUNS).status_code == 200
    assert client.get("/").status_code == 200
    with database.reading() as session:
        row = session.scalars(select(BrowserSession)).one()
    secret = client.cookies[COOKIE]
    assert row.sha256 == token_sha256(secret)
    assert secret not in str(vars(row))
    assert row.expires_at - row.created_at == pytest.approx(timedelta(hours=12), abs=timedelta(seconds=2))


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_the_cookie_is_out_of_reach_of_scripts_and_other_sites(client: TestClient, scheme: str) -> None:
    client.base_url = f"{scheme}://127.0.0.1:8000"
    answer = client.post(SESSION, json={"token": ADMIN})
    cookie = SimpleCookie(answer.headers["set-cookie"])[COOKIE]
    assert (cookie["httponly"], cookie["samesite"].lower(), cookie["path"], cookie["domain"]) == (
        True,
        "strict",
        "/",
        "",
    )
    assert bool(cookie["secure"]) is (scheme == "https")
    assert int(cookie["max-age"]) == pytest.approx(12 * 3600, abs=2)
    assert ("strict-transport-security" in answer.headers) is (scheme == "https")
    assert answer.headers["cache-control"] == "no-store"


@pytest.mark.parametrize("token", ["wrong", "pw_" + "A" * 43, "\u0000", "é"])
def test_a_wrong_token_opens_nothing(client: TestClient, database: Database, token: str) -> None:
    answer = client.post(SESSION, json={"token": token})
    refused(answer, 401, "not valid")
    assert "set-cookie" not in answer.headers
    with database.reading() as session:
        assert session.scalars(select(BrowserSession)).all() == []


class TestWrites:
    """A browser sends its cookie whatever page asks; a write needs to show that the page is this server's own."""

    def test_without_the_csrf_token_is_403(self, client: TestClient) -> None:
        told = sign_in(client)
        for headers in ({}, {"X-CSRF-Token": ""}, {"X-CSRF-Token": "x" * 64}, {"X-CSRF-Token": b"\xff\x00"}):
            for method, path in (("POST", RUNS), ("DELETE", SESSION), ("PATCH", "/api/v1/tokens/1")):
                answer = client.request(method, path, json={"name": "x"}, headers=headers)  # type: ignore[arg-type]
                refused(answer, 403, "X-CSRF-Token")
        assert client.post(RUNS, json={"name": "x"}, headers={"X-CSRF-Token": told["csrf"]}).status_code == 201

    def test_another_session_s_csrf_token_is_403(self, client: TestClient) -> None:
        first = sign_in(client)["csrf"]
        assert sign_in(client)["csrf"] != first
        refused(client.post(RUNS, json={"name": "x"}, headers={"X-CSRF-Token": first}), 403)

    @pytest.mark.parametrize(
        ("headers", "status"),
        [
            ({"Origin": ADDRESS}, 201),
            ({"Origin": ADDRESS, "Sec-Fetch-Site": "same-origin"}, 201),
            ({"Sec-Fetch-Site": "none"}, 201),
            ({"Origin": "http://evil.example"}, 403),
            ({"Origin": "http://127.0.0.1:3000"}, 403),
            ({"Origin": "null"}, 403),
            ({"Origin": "http://["}, 403),
            ({"Sec-Fetch-Site": "cross-site"}, 403),
            ({"Sec-Fetch-Site": "same-site"}, 403),
            ({"Origin": ADDRESS, "Sec-Fetch-Site": "cross-site"}, 403),
        ],
    )
    def test_another_site_s_page_is_403(self, client: TestClient, headers: dict[str, str], status: int) -> None:
        told = sign_in(client)
        headers = {"X-CSRF-Token": told["csrf"], **headers}
        assert client.post(RUNS, json={"name": "x"}, headers=headers).status_code == status
        del client.cookies[COOKIE]
        assert client.post(SESSION, json={"token": ADMIN}, headers=headers).status_code == status

    def test_a_form_of_another_site_cannot_sign_anybody_in(self, client: TestClient) -> None:
        for media in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"):
            content = b'{"token": "%s"}' % ADMIN.encode()
            refused(client.post(SESSION, content=content, headers={"Content-Type": media}), 415)

    def test_a_bearer_token_needs_none_even_beside_a_cookie(self, client: TestClient) -> None:
        sign_in(client)
        assert client.post(RUNS, json={"name": "x"}, headers=bearer(ADMIN)).status_code == 201
        assert client.get(SESSION, headers=bearer(ADMIN)).json()["csrf"] is None


class TestEnds:
    """A session ends with its time, with a sign-out, and with its token."""

    def test_signing_out(self, client: TestClient, database: Database) -> None:
        csrf = sign_in(client)["csrf"]
        secret = client.cookies[COOKIE]
        answer = client.delete(SESSION, headers={"X-CSRF-Token": csrf})
        assert answer.status_code == 204
        assert "max-age=0" in answer.headers["set-cookie"].lower()
        assert COOKIE not in client.cookies
        refused(client.get(RUNS, headers={"Cookie": f"{COOKIE}={secret}"}), 401, "sign in")
        with database.reading() as session:
            assert session.scalars(select(BrowserSession)).all() == []

    def test_who_may_only_read_may_sign_out(self, client: TestClient, database: Database) -> None:
        add_token(database, "t", "read")
        csrf = sign_in(client, "t")["csrf"]
        refused(client.post(RUNS, json={"name": "x"}, headers={"X-CSRF-Token": csrf}), 403, "scope read")
        assert client.delete(SESSION, headers={"X-CSRF-Token": csrf}).status_code == 204

    def test_revoking_the_token(self, client: TestClient, database: Database) -> None:
        made = client.post("/api/v1/tokens", json={"name": "b"}, headers=bearer(ADMIN)).json()
        sign_in(client, made["token"])
        assert client.get(RUNS).status_code == 200
        secret = client.cookies[COOKIE]
        client.cookies.clear()
        client.delete(f"/api/v1/tokens/{made['id']}", headers=bearer(ADMIN))
        refused(client.get(RUNS, headers={"Cookie": f"{COOKIE}={secret}"}), 401)
        with database.reading() as session:
            assert session.scalars(select(BrowserSession)).all() == []

    def test_time(self, client: TestClient, database: Database) -> None:
        sign_in(client)
        with database.transaction() as session:
            session.execute(update(BrowserSession).values(expires_at=utc_now() - timedelta(seconds=1)))
        client.app.state.service.gate.forget()  # type: ignore[attr-defined]  # believed for a second
        refused(client.get(RUNS), 401)
        sign_in(client)
        with database.reading() as session:
            assert len(session.scalars(select(BrowserSession)).all()) == 1  # the old one was removed

    def test_the_token_s_own_end_comes_first(self, client: TestClient) -> None:
        soon = (utc_now() + timedelta(hours=1)).isoformat()
        body = {"name": "b", "expires_at": soon}
        made = client.post("/api/v1/tokens", json=body, headers=bearer(ADMIN)).json()
        assert sign_in(client, made["token"])["expires_at"] == made["expires_at"]


@pytest.mark.parametrize("scope", ["read", "write", "admin"])
def test_a_session_may_what_its_token_may(client: TestClient, database: Database, scope: Scope) -> None:
    add_token(database, "t", scope)
    headers = {"X-CSRF-Token": sign_in(client, "t")["csrf"]}
    assert client.get(RUNS).status_code == 200
    assert client.post(RUNS, json={"name": "x"}, headers=headers).status_code == (403 if scope == "read" else 201)
    assert client.get("/api/v1/tokens").status_code == (200 if scope == "admin" else 403)


def test_events_come_with_the_cookie(client: TestClient) -> None:
    client.app.state.service.events.close()  # type: ignore[attr-defined]  # so that the stream ends by itself
    refused(client.get("/api/v1/events"), 401)
    sign_in(client)
    answer = client.get("/api/v1/events")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/event-stream")


def test_without_tokens_this_machine_s_user_is_told_so(sqlite_database: Database, sqlite_client: TestClient) -> None:
    nobody = {"name": "local", "scope": "admin", "expires_at": None, "csrf": None}
    assert sqlite_client.get(SESSION, headers={"Cookie": f"{COOKIE}=pws_x"}).json() == nobody
    refused(sqlite_client.post(SESSION, json={"token": "x"}), 401)


@pytest.mark.parametrize("cookie", ["", "x", "pws_" + "A" * 43, ADMIN, "\u00e9", "a" * 5000])
def test_a_cookie_that_no_sign_in_gave_is_401(client: TestClient, cookie: str) -> None:
    for path in (RUNS, SESSION):
        refused(client.get(path, headers={"Cookie": f"{COOKIE}={cookie}".encode("latin-1")}), 401)  # type: ignore[arg-type]


def test_the_csrf_token_tells_nothing_of_the_secret() -> None:
    assert csrf_token("a") != csrf_token("b")
    assert csrf_token("a") == csrf_token("a")
    assert len(csrf_token("a")) == 64
