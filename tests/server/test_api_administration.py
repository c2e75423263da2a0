"""Settings and findings over HTTP: everything an admin needs to see, and never a secret."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

import phasewatch
from phasewatch.storage.artifacts import Artifacts
from phasewatch.storage.database import Database
from phasewatch.storage.schema import REVISION
from phasewatch.storage.tokens import new_token, put_token
from server.app import create_app
from server.schemas.administration import without_secrets
from server.settings import Settings
from tests.server.conftest import ADDRESS, MakeClient, refused


def asked(client: TestClient, path: str) -> Any:
    answer = client.get(f"/api/v1{path}")
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_every_setting_with_its_source_and_no_secret(
    sqlite_database: Database, artifacts: Artifacts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "secret").write_text("from-a-file-123")
    monkeypatch.setenv("PHASEWATCH_METRICS_TOKEN_FILE", str(tmp_path / "secret"))
    monkeypatch.setenv("PHASEWATCH_ADMIN_TOKEN", "from-the-environment-456")
    monkeypatch.setenv("PHASEWATCH_DATABASE_URL", "postgresql://someone:pass-789@db:5432/phasewatch?sslpassword=key-0")
    monkeypatch.setenv("PHASEWATCH_MAX_BODY_BYTES", "12345")
    settings = Settings()
    with TestClient(create_app(settings, sqlite_database, artifacts), base_url=ADDRESS) as client:
        client.headers["Authorization"] = "Bearer from-the-environment-456"
        answer = client.get("/api/v1/settings")
    found = answer.json()
    assert (found["version"], found["schema"]) == (phasewatch.__version__, REVISION)
    known = {one["name"]: one for one in found["settings"]}
    assert set(known) == {f"PHASEWATCH_{name.upper()}" for name in Settings.model_fields}
    for secret in ("123", "456", "789", "key-0", "someone"):
        assert secret not in answer.text.replace("12345", "")
    for name, value, source in (
        ("PHASEWATCH_ADMIN_TOKEN", "set", "given"),
        ("PHASEWATCH_METRICS_TOKEN", "set", "file"),
        ("PHASEWATCH_METRICS_TOKEN_FILE", str(tmp_path / "secret"), "given"),
        ("PHASEWATCH_DATABASE_URL", "postgresql://db:5432/phasewatch", "given"),
        ("PHASEWATCH_MAX_BODY_BYTES", 12345, "given"),
        ("PHASEWATCH_HOST", "127.0.0.1", "default"),
    ):
        assert (known[name]["value"], known[name]["source"]) == (value, source)
        assert known[name]["description"]
    assert known["PHASEWATCH_MAX_BODY_BYTES"]["default"] == 64 * 2**20


def test_a_secret_that_nobody_gave_is_not_set(sqlite_client: TestClient) -> None:
    [token] = [one for one in asked(sqlite_client, "/settings")["settings"] if one["name"] == "PHASEWATCH_ADMIN_TOKEN"]
    assert (token["value"], token["source"], token["secret"]) == ("not set", "default", True)


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("s3://key:secret@bucket/weights?secret=x", "s3://bucket/weights"),
        ("/data/artifacts", "/data/artifacts"),
        ("sqlite:////data/phasewatch.db", "sqlite:////data/phasewatch.db"),
        ("postgresql://me:a/b@db/phasewatch", "postgresql://db/phasewatch"),
        ("postgresql://db/phasewatch?password=a@b", "postgresql://…"),
    ],
)
def test_addresses_lose_what_may_be_secret(address: str, shown: str) -> None:
    assert without_secrets(address) == shown


def test_the_doctor_says_the_same_as_the_command(sqlite_client: TestClient) -> None:
    found = asked(sqlite_client, "/doctor")
    known = {one["what"]: one for one in found["findings"]}
    assert known["schema"]["is_well"]
    assert not known["scheduler"]["is_well"]
    assert "server scheduler" in known["scheduler"]["advice"]
    assert not found["is_well"]


@pytest.mark.parametrize("path", ["/settings", "/doctor"])
def test_only_an_admin_may_look(sqlite_database: Database, make_client: MakeClient, path: str) -> None:
    client, token = make_client(sqlite_database, admin_token="right"), new_token()
    with sqlite_database.transaction() as session:
        put_token(session, token, name="writer", scope="write")
    client.headers["Authorization"] = f"Bearer {token}"
    refused(client.get(f"/api/v1{path}"), 403, "needs a token of scope admin")
