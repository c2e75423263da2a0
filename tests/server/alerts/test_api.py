"""Channels and alerts over the API: what is taken, what is never shown, and who may ask."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import text

from phasewatch.storage.alerts import Occurrence, raise_alert
from phasewatch.storage.database import Database
from phasewatch.storage.deliveries import MAX_ATTEMPTS
from phasewatch.storage.schema import Alert, utc_now
from phasewatch.storage.tokens import put_token
from phasewatch.webhooks import verify_signature
from server.alerts.sender import Courier, Sender
from server.settings import Settings
from tests.conftest import MakeRun
from tests.server.alerts.test_addresses import NOTATIONS
from tests.server.conftest import JSON, SECRET_KEY, MakeClient, refused
from tests.storage.test_phase_changes import change, scan
from tests.webhook_receiver import Receiver

CHANNELS, ALERTS = "/api/v1/channels", "/api/v1/alerts"
PUBLIC = "https://93.184.215.14/hooks/very-secret"


@pytest.fixture
def client(database: Database, make_client: MakeClient) -> TestClient:
    """A client of a service that may send to this machine."""
    return make_client(database, allow_private_webhooks=True)


def add(client: TestClient, url: str = PUBLIC, **content: Any) -> Any:
    """The new channel."""
    answer = client.post(CHANNELS, json={"name": "team", "url": url} | content)
    assert answer.status_code == 201, answer.text
    return answer.json()


def tell(database: Database, *keys: str, run_id: UUID | None = None) -> None:
    with database.transaction() as session:
        for key in keys:
            raise_alert(session, Occurrence("stale_run", run_id, key, f"{key} is stale", {"silent_s": 900.0}))


class TestChannels:
    def test_shows_the_secret_once_and_the_address_never(self, client: TestClient, database: Database) -> None:
        made = add(client, rules={"kinds": ["phase_change"], "max_q": 0.01})
        secret = made.pop("secret")
        assert len(secret) > 40
        assert made["address"] == "https://93.184.215.14/…"
        assert made["rules"]["max_q"] == 0.01
        answers = [client.get(f"{CHANNELS}/{made['id']}"), client.get(CHANNELS)]
        assert answers[0].json() == made
        assert answers[1].json() == {"items": [made], "next": None}
        for answer in answers:
            assert "very-secret" not in answer.text
            assert secret not in answer.text
        with database.reading() as session:
            stored = str(session.execute(text("SELECT * FROM channels")).all())
        assert "very-secret" not in stored
        assert secret not in stored

    def test_who_made_changed_and_tried_one_stands_in_the_audit_log(self, sqlite_client: TestClient) -> None:
        path = f"{CHANNELS}/{add(sqlite_client)['id']}"
        sqlite_client.patch(path, json={"enabled": False})
        sqlite_client.post(f"{path}/test")
        items = sqlite_client.get("/api/v1/audit").json()["items"]
        assert [(one["method"], one["target"]) for one in items] == [
            ("POST", "channel=1"), ("PATCH", "channel=1"), ("POST", "channel=1")
        ]  # fmt: skip
        assert "very-secret" not in str(items)

    def test_has_defaults_that_tell_of_everything_certain(self, client: TestClient) -> None:
        made = add(client)
        assert (made["kind"], made["enabled"], made["quiet_hours"]) == ("webhook", True, None)
        assert made["rules"]["states"] == ["confirmed"]
        assert len(made["rules"]["kinds"]) == 4

    def test_lists_in_pages(self, client: TestClient) -> None:
        ids = [add(client)["id"] for _ in range(3)]
        first = client.get(CHANNELS, params={"limit": 2}).json()
        second = client.get(CHANNELS, params={"limit": 2, "cursor": first["next"]}).json()
        assert [one["id"] for page in (first, second) for one in page["items"]] == ids
        assert second["next"] is None

    def test_changes_what_is_given(self, client: TestClient) -> None:
        made = add(client, quiet_hours={"from": "22:00", "to": "07:00", "zone": "Europe/Berlin"})
        path = f"{CHANNELS}/{made['id']}"
        changed = client.patch(path, json={"enabled": False, "rules": {"induction_only": True}}).json()
        assert (changed["enabled"], changed["rules"]["induction_only"], changed["name"]) == (False, True, "team")
        assert changed["quiet_hours"] == {"from": "22:00", "to": "07:00", "zone": "Europe/Berlin"}
        assert client.patch(path, json={"quiet_hours": None}).json()["quiet_hours"] is None
        assert client.patch(path, json={"url": "https://1.1.1.1:8443/x"}).json()["address"] == "https://1.1.1.1:8443/…"
        last = client.get(path).json()
        for nothing in ({}, {"name": None, "url": None, "rules": None, "enabled": None}):
            same = client.patch(path, json=nothing).json()
            assert same | {"updated_at": None} == last | {"updated_at": None}

    def test_removes_one_with_its_alerts(self, client: TestClient, database: Database) -> None:
        made = add(client)
        tell(database, "a", "b")
        assert client.delete(f"{CHANNELS}/{made['id']}").json() == {"alerts": 2}
        refused(client.get(f"{CHANNELS}/{made['id']}"), 404, f"channel {made['id']} does not exist")
        assert client.get(ALERTS).json()["items"] == []

    def test_a_test_arrives_at_once_and_its_outcome_is_the_answer(self, client: TestClient) -> None:
        with Receiver(answers=[(204, {}), (403, {})]) as receiver:
            made = add(client, receiver.url)
            path = f"{CHANNELS}/{made['id']}/test"
            first, second = client.post(path).json(), client.post(path).json()
        assert (first["outcome"], first["status_code"], first["detail"]) == ("delivered", 204, None)
        assert (second["outcome"], second["status_code"]) == ("refused", 403)
        assert verify_signature(made["secret"], receiver.received[0].headers, receiver.received[0].body)

    def test_a_new_secret_signs_from_now_on(self, client: TestClient) -> None:
        with Receiver() as receiver:
            made = add(client, receiver.url)
            secret = client.post(f"{CHANNELS}/{made['id']}/secret").json()["secret"]
            client.post(f"{CHANNELS}/{made['id']}/test")
        assert secret != made["secret"]
        assert verify_signature(secret, receiver.received[0].headers, receiver.received[0].body)

    @pytest.mark.parametrize(
        "content",
        [
            {"name": ""},
            {"name": "a\x00b"},
            {"name": "x" * 201},
            {"url": ""},
            {"url": "x" * 2_001},
            {"url": 5},
            {"kind": "mail"},
            {"rules": {"kinds": ["everything"]}},
            {"rules": {"runs": {"tag": "a\x00"}}},
            {"rules": {"min_effect": "NaN"}},
            {"rules": None},
            {"quiet_hours": {"from": "25:00", "to": "07:00"}},
            {"quiet_hours": {"from": "22:00", "to": "07:00", "zone": "../../../etc/passwd"}},
            {"enabled": None},
            {"secret": "mine"},
            {"address": "mine"},
        ],
    )
    def test_what_cannot_be_used_is_refused(self, sqlite_client: TestClient, content: dict[str, Any]) -> None:
        refused(sqlite_client.post(CHANNELS, json={"name": "team", "url": PUBLIC} | content), 422)
        assert sqlite_client.get(CHANNELS).json()["items"] == []

    @pytest.mark.parametrize("host", NOTATIONS[:100:4])
    def test_an_address_that_is_not_public_is_refused(self, sqlite_client: TestClient, host: str) -> None:
        refused(sqlite_client.post(CHANNELS, json={"name": "team", "url": f"http://{host}/"}), 422)
        assert sqlite_client.get(CHANNELS).json()["items"] == []

    def test_nor_can_one_be_changed_to_it(self, sqlite_client: TestClient) -> None:
        made = add(sqlite_client)
        path = f"{CHANNELS}/{made['id']}"
        refused(sqlite_client.patch(path, json={"url": "http://127.0.0.1/"}), 422, "not an address of the public")
        assert sqlite_client.get(path).json()["address"] == "https://93.184.215.14/…"

    def test_a_setting_that_was_taken_back_counts_at_sending(
        self, sqlite_database: Database, make_client: MakeClient
    ) -> None:
        with Receiver() as receiver:
            made = add(make_client(sqlite_database, allow_private_webhooks=True), receiver.url)
            answer = make_client(sqlite_database).post(f"{CHANNELS}/{made['id']}/test").json()
        assert (answer["outcome"], receiver.received) == ("forbidden", [])

    def test_a_service_on_this_machine_is_refused_by_name(self, sqlite_client: TestClient) -> None:
        refused(sqlite_client.post(CHANNELS, json={"name": "x", "url": "syslog://"}), 422, "acts on the machine")

    def test_one_of_apprise_has_no_secret(self, client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("server.alerts.apprise_service._ask", lambda request: {"hosts": []})
        made = add(client, "slack://T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ/")
        assert (made["kind"], made["secret"], made["address"]) == ("apprise", None, "slack://…")
        refused(client.post(f"{CHANNELS}/{made['id']}/secret"), 409, "signs nothing")

    def test_the_embedded_default_keeps_its_key_in_a_file(
        self, sqlite_database: Database, make_client: MakeClient, tmp_path: Path
    ) -> None:
        client = make_client(sqlite_database, secret_key=None, data=tmp_path / "data")
        add(client)
        assert (tmp_path / "data" / "secret-key").stat().st_mode & 0o777 == 0o600

    def test_another_database_without_a_key_keeps_no_secrets(
        self, sqlite_database: Database, make_client: MakeClient
    ) -> None:
        client = make_client(sqlite_database, secret_key=None, database_url="postgresql://u@127.0.0.1:9/x")
        refused(client.post(CHANNELS, json={"name": "x", "url": PUBLIC}), 422, "set PHASEWATCH_SECRET_KEY")


class TestScopes:
    @pytest.mark.parametrize("scope", ["read", "write"])
    def test_channels_are_for_admins(self, sqlite_database: Database, make_client: MakeClient, scope: Any) -> None:
        client = make_client(sqlite_database, admin_token="admin")
        with sqlite_database.transaction() as session:
            put_token(session, "mine", name="mine", scope=scope)
        made = client.post(
            CHANNELS, json={"name": "x", "url": PUBLIC}, headers={"Authorization": "Bearer admin"}
        ).json()
        mine = {"Authorization": "Bearer mine"}
        path = f"{CHANNELS}/{made['id']}"
        asked = [("GET", CHANNELS), ("POST", CHANNELS), ("GET", path), ("PATCH", path), ("DELETE", path)]
        asked += [("POST", f"{path}/test"), ("POST", f"{path}/secret"), ("POST", f"{ALERTS}/1/retry")]
        for method, address in asked:
            refused(client.request(method, address, headers=mine | JSON, content=b"{}"), 403)
        assert client.get(ALERTS, headers=mine).status_code == 200


class TestAlerts:
    def test_has_everything_that_was_told(self, client: TestClient, database: Database, make_run: MakeRun) -> None:
        made = add(client)
        run_id = make_run(name="two-layer")
        (row,) = scan(database, run_id, [change(q_value=0.001)])
        (alert,) = client.get(ALERTS).json()["items"]
        assert alert["title"] == "Phase change (level) in two-layer: mean_loss:text drop at step 200"
        assert alert["text"] == client.get(f"/api/v1/phase-changes/{row.id}").json()["explanation"]
        assert (alert["channel"], alert["run"], alert["phase_change"]) == (made["id"], str(run_id), str(row.id))
        assert (alert["state"], alert["attempts"], alert["finished_at"]) == ("waiting", 0, None)
        detail = client.get(f"{ALERTS}/{alert['id']}").json()
        assert {name: detail[name] for name in alert} == alert
        assert detail["deliveries"] == []
        assert (detail["data"]["effect"], detail["data"]["q_value"], detail["data"]["state"]) == (
            0.5,
            0.001,
            "confirmed",
        )

    def test_lists_by_what_is_asked_in_pages(self, client: TestClient, database: Database, make_run: MakeRun) -> None:
        first, second = add(client)["id"], add(client, rules={"kinds": ["stale_run"]})["id"]
        run_id = make_run()
        (row,) = scan(database, run_id, [change()])
        tell(database, "a", run_id=run_id)
        tell(database, "b")

        def found(**params: Any) -> list[tuple[int, str]]:
            items = client.get(ALERTS, params=params).json()["items"]
            return [(one["channel"], one["title"][:1]) for one in items]

        assert found() == [(second, "b"), (first, "b"), (second, "a"), (first, "a"), (first, "P")]
        assert found(run=str(run_id)) == [(second, "a"), (first, "a"), (first, "P")]
        assert found(change=str(row.id), kind="phase_change") == [(first, "P")]
        assert found(channel=second, state="waiting") == [(second, "b"), (second, "a")]
        assert found(state="failed") == found(channel=2**40) == found(run=str(uuid4())) == []
        page = client.get(ALERTS, params={"limit": 3}).json()
        rest = client.get(ALERTS, params={"limit": 3, "cursor": page["next"]}).json()
        assert len(page["items"]) + len(rest["items"]) == 5
        assert rest["next"] is None

    def test_has_its_log_and_can_be_sent_again(self, client: TestClient, database: Database) -> None:
        settings = Settings(secret_key=SECRET_KEY, allow_private_webhooks=True)  # type: ignore[arg-type]
        with Receiver(answers=[(500, {}), (200, {})]) as receiver:
            add(client, receiver.url)
            tell(database, "a")
            with database.transaction() as session:
                session.query(Alert).update({"attempts": MAX_ATTEMPTS - 1})
            sender = Sender(database, Courier(settings), "me", clock=utc_now)
            assert sender.send_due() == 1
            (alert,) = client.get(ALERTS, params={"state": "failed"}).json()["items"]
            again = client.post(f"{ALERTS}/{alert['id']}/retry").json()
            assert (again["state"], again["attempts"]) == ("waiting", 0)
            refused(client.post(f"{ALERTS}/{alert['id']}/retry"), 409, "only failed alerts")
            assert sender.send_due() == 1
        detail = client.get(f"{ALERTS}/{alert['id']}").json()
        assert detail["state"] == "sent"
        log = [(one["attempt"], one["outcome"], one["status_code"]) for one in detail["deliveries"]]
        assert log == [(MAX_ATTEMPTS, "refused", 500), (1, "delivered", 200)]
        assert json.loads(receiver.received[-1].body)["alerts"][0]["id"] == alert["id"]

    def test_one_that_does_not_exist(self, sqlite_client: TestClient) -> None:
        for alert in (1, 2**40):
            refused(sqlite_client.get(f"{ALERTS}/{alert}"), 404, f"alert {alert} does not exist")
            refused(sqlite_client.post(f"{ALERTS}/{alert}/retry"), 404)
            refused(sqlite_client.post(f"{CHANNELS}/{alert}/test"), 404)
