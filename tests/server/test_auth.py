"""Who is let in: loopback and its Host header without tokens, bearer tokens and their scopes with any."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from fastapi import APIRouter
from fastapi.testclient import TestClient
from sqlalchemy import delete

from phasewatch.errors import InvalidInput
from phasewatch.storage.artifacts import Artifacts
from phasewatch.storage.database import Database
from phasewatch.storage.schema import ApiToken, Scope
from phasewatch.storage.tokens import put_token, token_sha256
from server import auth
from server.auth import check_address, host_name, is_loopback
from server.dependencies import ADMIN_ONLY, Caller
from server.settings import Settings
from tests.server.conftest import ADDRESS, MakeClient, make_app, refused

RUNS = "/api/v1/runs"
ADMIN = "an-admin-token"


def bearer(token: str) -> dict[str, str]:
    """The header that carries a token."""
    return {"Authorization": f"Bearer {token}"}


def add_token(database: Database, token: str, scope: Scope) -> None:
    """Makes a token valid, as another process would."""
    with database.transaction() as session:
        put_token(session, token, name=token, scope=scope)


class TestWithoutTokens:
    @pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.1:8000", "localhost:1", "LocalHost", "[::1]", "[::1]:8000"])
    def test_names_of_this_machine_are_answered(
        self, sqlite_database: Database, sqlite_client: TestClient, host: str
    ) -> None:
        assert sqlite_client.get(RUNS, headers={"Host": host}).status_code == 200

    @pytest.mark.parametrize(
        "host", ["evil.example", "localhost.evil.example", "evil.example:8000", "127.0.0.1.evil.example", "", "[::1"]
    )
    def test_another_name_is_refused_everywhere(
        self, sqlite_database: Database, sqlite_client: TestClient, host: str
    ) -> None:
        for path in (RUNS, "/", "/api/v1/health", "/static/pages/run.js", "/openapi.json", "/nowhere"):
            answer = sqlite_client.get(path, headers={"Host": host})
            assert answer.status_code == 403, path
            assert answer.json()["type"] == "urn:phasewatch:forbidden"

    def test_the_allowed_names_are_a_setting(self, sqlite_database: Database, make_client: MakeClient) -> None:
        client = make_client(sqlite_database, allowed_hosts="Lab.Example, localhost")
        assert client.get(RUNS, headers={"Host": "lab.example:80"}).status_code == 200
        assert client.get(RUNS, headers={"Host": "127.0.0.1"}).status_code == 403

    @pytest.mark.parametrize(
        ("origin", "status"),
        [
            ("http://127.0.0.1:8000", 201),
            ("http://localhost:3000", 201),
            ("https://evil.example", 403),
            ("null", 403),
            ("http://[", 403),
        ],
    )
    def test_a_page_of_another_site_may_not_write(
        self, sqlite_database: Database, sqlite_client: TestClient, origin: str, status: int
    ) -> None:
        answer = sqlite_client.post(RUNS, json={"name": "x"}, headers={"Origin": origin})
        assert answer.status_code == status


class TestWithTokens:
    @pytest.fixture
    def client(self, database: Database, make_client: MakeClient) -> TestClient:
        """A client of a service whose admin token came from its settings."""
        return make_client(database, admin_token=ADMIN)

    @pytest.mark.parametrize(
        "headers",
        [
            {},
            bearer("wrong"),
            bearer(""),
            bearer(ADMIN + "x"),
            {"Authorization": f"Basic {ADMIN}"},
            {"Authorization": ADMIN},
            {"Authorization": b"Bearer \xff\xfe\x00"},
        ],
    )
    def test_a_request_without_a_valid_token_is_401(self, client: TestClient, headers: dict[str, str]) -> None:
        for path in (RUNS, "/openapi.json", "/docs", "/nowhere"):
            answer = client.get(path, headers=headers)
            assert answer.status_code == 401
            assert answer.headers["WWW-Authenticate"].startswith("Bearer")
            assert answer.json()["type"] == "urn:phasewatch:unauthorized"

    def test_health_and_the_files_of_the_page_need_none(self, client: TestClient) -> None:
        for path in ("/api/v1/health", "/api/v1/ready", "/static/pages/run.js"):
            assert client.get(path).status_code == 200

    @pytest.mark.parametrize("path", ["/", "/runs/00000000-0000-0000-0000-000000000000"])
    def test_a_page_asks_for_the_token_and_holds_no_data(self, client: TestClient, path: str) -> None:
        client.post(RUNS, json={"name": "a secret name"}, headers=bearer(ADMIN))
        answer = client.get(path)
        assert answer.status_code == 401
        assert answer.headers["content-type"].startswith("text/html")
        assert answer.headers["WWW-Authenticate"].startswith("Bearer")
        assert "secret" not in answer.text
        assert client.post(path).status_code == 401

    @pytest.mark.parametrize(
        ("scope", "reads", "writes"), [("read", 200, 403), ("write", 200, 201), ("admin", 200, 201)]
    )
    def test_a_scope_allows_what_it_says(
        self, client: TestClient, database: Database, scope: Scope, reads: int, writes: int
    ) -> None:
        add_token(database, f"a-{scope}-token", scope)
        headers = bearer(f"a-{scope}-token")
        assert client.get(RUNS, headers=headers).status_code == reads
        answer = client.post(RUNS, json={"name": "x"}, headers=headers)
        assert answer.status_code == writes
        assert len(client.get(RUNS, headers=headers).json()["items"]) == (writes == 201)

    def test_any_host_name_is_answered_to_who_has_a_token(self, client: TestClient) -> None:
        assert client.get(RUNS, headers=bearer(ADMIN) | {"Host": "lab.example"}).status_code == 200

    def test_an_expired_token_is_not_valid(self, client: TestClient, database: Database) -> None:
        with database.transaction() as session:
            past = datetime.now(UTC) - timedelta(seconds=1)
            session.add(ApiToken(name="old", sha256=token_sha256("old"), scope="read", expires_at=past))
        assert client.get(RUNS, headers=bearer("old")).status_code == 401

    def test_the_token_is_stored_as_its_hash_alone(self, client: TestClient, database: Database) -> None:
        with database.reading() as session:
            (row,) = session.query(ApiToken).all()
        assert (row.sha256, row.scope) == (token_sha256(ADMIN), "admin")
        assert ADMIN not in str(vars(row))


def test_a_token_of_another_process_counts_after_a_moment_and_so_does_its_end(
    database: Database, make_client: MakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    client = make_client(database)
    assert client.get(RUNS).status_code == 200
    add_token(database, "new", "read")
    assert client.get(RUNS).status_code == 200  # believed for a second
    now += auth.CACHE_S + 0.01
    assert client.get(RUNS).status_code == 401
    assert client.get(RUNS, headers=bearer("new")).status_code == 200
    with database.transaction() as session:
        session.execute(delete(ApiToken).where(ApiToken.name == "new"))
    add_token(database, "newer", "read")
    now += auth.CACHE_S + 0.01
    assert client.get(RUNS, headers=bearer("new")).status_code == 401
    assert client.get(RUNS, headers=bearer("newer")).status_code == 200


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "[::1]", "localhost", "LOCALHOST"])
def test_these_addresses_reach_this_machine_alone(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.org", "", "127.0.0.1.evil.example"])
def test_another_address_needs_a_token_to_listen_on(sqlite_database: Database, host: str) -> None:
    assert not is_loopback(host)
    with pytest.raises(InvalidInput, match="PHASEWATCH_ADMIN_TOKEN"):
        check_address(Settings(host=host), sqlite_database)
    check_address(Settings(host=host, admin_token=ADMIN), sqlite_database)
    add_token(sqlite_database, "t", "read")
    check_address(Settings(host=host), sqlite_database)


@pytest.mark.parametrize(
    ("header", "name"),
    [
        ("a:80", "a"),
        ("A", "a"),
        ("[::1]:80", "[::1]"),
        ("[::1]", "[::1]"),
        ("a:b", "a:b"),
        ("a::80", "a::80"),
        ("", ""),
    ],
)
def test_the_port_of_a_host_header_is_left_out(header: str, name: str) -> None:
    assert host_name(header) == name


class TestRoutesForAdmins:
    """A route says itself that it is for admins, and what it tells whom."""

    @pytest.fixture
    def client(self, sqlite_database: Database, artifacts: Artifacts) -> TestClient:
        """A client of a service with a route of each kind."""
        app = make_app(sqlite_database, artifacts, admin_token=ADMIN)
        router = APIRouter(prefix="/api/v1/vault", dependencies=ADMIN_ONLY)

        @router.post("")
        def open_vault(caller: Caller) -> dict[str, Any]:
            return {"name": caller.name, "scope": caller.scope, "token": caller.token_id}

        @app.get("/api/v1/me")
        def show_caller(caller: Caller) -> bool:
            return caller.is_admin

        app.include_router(router)
        return TestClient(app, base_url=ADDRESS)

    @pytest.mark.parametrize("scope", ["read", "write"])
    def test_a_lesser_scope_is_403(self, client: TestClient, sqlite_database: Database, scope: Scope) -> None:
        add_token(sqlite_database, "t", scope)
        with client:
            refused(client.post("/api/v1/vault", headers=bearer("t")), 403, "scope")
            assert client.get("/api/v1/me", headers=bearer("t")).json() is False

    def test_an_admin_is_let_in_by_name(self, client: TestClient) -> None:
        with client:
            answer = client.post("/api/v1/vault", headers=bearer(ADMIN))
            assert answer.json() == {"name": "PHASEWATCH_ADMIN_TOKEN", "scope": "admin", "token": 1}
            assert client.get("/api/v1/me", headers=bearer(ADMIN)).json() is True

    def test_without_tokens_this_machine_s_user_is_one(self, client: TestClient) -> None:
        """Not entered: what the settings say of tokens was not made valid."""
        assert client.post("/api/v1/vault").json() == {"name": "local", "scope": "admin", "token": None}
