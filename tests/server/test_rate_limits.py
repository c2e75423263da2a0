"""Who asks too often is told when to come back; recordings are counted apart, and strangers keep nobody else out."""

from __future__ import annotations

import pytest
from fastapi.testclient import TestClient

from phasewatch.storage.database import Database
from server.rate_limits import MAX_KEYS, Buckets, network
from tests.server.conftest import MakeClient, refused
from tests.server.test_auth import ADMIN, add_token, bearer

RUNS = "/api/v1/runs"


def test_a_bucket_holds_a_minute_s_worth_and_fills_again() -> None:
    now = 0.0
    buckets = Buckets(60, lambda: now)
    assert [buckets.take("a") for _ in range(60)] == [0.0] * 60
    assert buckets.take("a") == pytest.approx(1.0)
    assert buckets.take("b") == 0.0
    now = 0.5
    assert not buckets.has("a")
    assert buckets.take("a") == pytest.approx(0.5)
    now = 1.0
    assert buckets.has("a")
    assert buckets.take("a") == 0.0
    now = 1e6
    assert [buckets.take("a") for _ in range(61)][-1] > 0


def test_no_limit_is_none_and_memory_has_an_end() -> None:
    assert all(Buckets(0).take("a") == 0.0 for _ in range(1000))
    buckets = Buckets(1)
    for key in range(MAX_KEYS + 50):
        buckets.take(key)
    assert len(buckets._left) == MAX_KEYS


@pytest.mark.parametrize(
    ("address", "counted"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::9", "2001:db8:1:2::/64"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("testclient", "testclient"),
    ],
)
def test_addresses_of_one_line_count_as_one(address: str, counted: str) -> None:
    assert network(address) == counted


class TestOverHttp:
    """429 with Retry-After, by token for those who have one and by address for the others."""

    def test_a_token_that_asks_too_often(self, sqlite_database: Database, make_client: MakeClient) -> None:
        client = make_client(sqlite_database, admin_token=ADMIN, rate_limit=5)
        add_token(sqlite_database, "t", "read")
        answers = [client.get(RUNS, headers=bearer("t")) for _ in range(6)]
        assert [answer.status_code for answer in answers] == [200] * 5 + [429]
        refused(answers[-1], 429, "PHASEWATCH_RATE_LIMIT")
        assert 1 <= int(answers[-1].headers["Retry-After"]) <= 12
        assert client.get(RUNS, headers=bearer(ADMIN)).status_code == 200

    def test_recordings_are_counted_apart(self, sqlite_database: Database, make_client: MakeClient) -> None:
        client = make_client(sqlite_database, admin_token=ADMIN, rate_limit=3, ingest_rate_limit=2)
        path = f"{RUNS}/01890000-0000-7000-8000-000000000000/series"
        send = [client.post(path, json={"points": []}, headers=bearer(ADMIN)).status_code for _ in range(3)]
        assert send == [404, 404, 429]
        assert client.get(RUNS, headers=bearer(ADMIN)).status_code == 200

    def test_a_stranger_is_refused_and_keeps_nobody_else_out(
        self, sqlite_database: Database, make_client: MakeClient
    ) -> None:
        client = make_client(sqlite_database, admin_token=ADMIN, attempt_limit=3)
        assert client.get(RUNS, headers=bearer(ADMIN)).status_code == 200
        answers = [client.get(RUNS, headers=bearer(f"wrong{number}")).status_code for number in range(5)]
        assert answers == [401] * 3 + [429] * 2
        assert client.get(RUNS, headers=bearer(ADMIN)).status_code == 200
        assert client.get("/api/v1/health").status_code == 200
        refused(client.post("/api/v1/session", json={"token": "x"}), 429, "PHASEWATCH_ATTEMPT_LIMIT")

    def test_without_tokens_nobody_is_limited(self, sqlite_database: Database, make_client: MakeClient) -> None:
        client: TestClient = make_client(sqlite_database, rate_limit=1, attempt_limit=1)
        assert {client.get(RUNS).status_code for _ in range(5)} == {200}
