"""`phasewatch token`: made, listed and revoked against the real API."""

from __future__ import annotations

from phasewatch.storage.database import Database
from tests.cli.conftest import Call, call
from tests.live_server import LiveServer


def test_tokens_are_made_listed_and_revoked(sqlite_database: Database, phasewatch: Call, live: LiveServer) -> None:
    refused = phasewatch("token", "create", "reader")
    assert refused.status == 1
    assert "scope admin" in refused.err
    admin = phasewatch("token", "create", "me", "--scope", "admin").out.strip()
    assert admin.startswith("pw_")

    def asked(*arguments: str) -> str:
        answer = call("--url", live.url, "--token", admin, "token", *arguments)
        return answer.out if answer.status == 0 else answer.err

    live.stop()
    live.start()  # what was believed of tokens a moment ago is forgotten
    made = asked("create", "reader", "--json")
    assert '"made_by": "me"' in made
    assert "reader" in asked("list")
    assert "revoked" in asked("revoke", "2")
    assert "reader" not in asked("list")
    assert "reader" in asked("list", "--revoked")
    assert "--last-admin" not in asked("list")
    assert "last_admin" in asked("revoke", "1")
