"""From a change in the database to a request at a receiver, over real sockets and on both databases."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from phasewatch.storage import alerts as alerts_module
from phasewatch.storage.alerts import Occurrence, raise_alert
from phasewatch.storage.database import Database
from phasewatch.storage.deliveries import BACK_OFF_S, MAX_ATTEMPTS, list_alerts, list_deliveries
from phasewatch.storage.schema import Alert, Channel
from phasewatch.webhooks import verify_signature
from server.alerts import sender as sender_module
from server.alerts.channels import add_channel, change_channel, send_test
from server.alerts.sender import Courier, Sender
from server.settings import Settings
from tests.conftest import MakeRun
from tests.server.conftest import SECRET_KEY
from tests.storage.test_phase_changes import change, scan
from tests.webhook_receiver import Receiver

NOON = datetime(2026, 11, 30, 12, 0, tzinfo=UTC)


def settings(**content: Any) -> Settings:
    return Settings(**{"secret_key": SECRET_KEY, "allow_private_webhooks": True} | content)


class Clock:
    """A time that stands still until it is moved on."""

    def __init__(self, now: datetime = NOON) -> None:
        self.now = now

    def __call__(self) -> datetime:
        return self.now

    def forward(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Noon, for whoever raises an alert."""
    found = Clock()
    monkeypatch.setattr(alerts_module, "utc_now", found)
    return found


def channel(database: Database, url: str, **content: Any) -> tuple[Channel, str | None]:
    """A channel and its secret."""
    values = {"name": "team", "kind": None, "rules": {}, "quiet_hours": None, "enabled": True}
    return add_channel(database, settings(), url=url, **values | content)


def sender(database: Database, name: str = "me", *, clock: Callable[[], datetime], **content: Any) -> Sender:
    return Sender(database, Courier(settings(**content)), name, clock=clock)


def tell(database: Database, *keys: str, run_id: UUID | None = None) -> None:
    with database.transaction() as session:
        for key in keys:
            raise_alert(session, Occurrence("stale_run", run_id, key, f"{key} is stale", {"silent_s": 900.0}))


def alerts(database: Database) -> list[Alert]:
    with database.reading() as session:
        return list(list_alerts(session))


class TestDelivered:
    def test_a_confirmed_change_arrives_signed_and_once(
        self, database: Database, make_run: MakeRun, clock: Clock
    ) -> None:
        run_id = make_run(name="<b>two</b>-layer")
        with Receiver() as receiver:
            _, secret = channel(database, receiver.url)
            mine = sender(database, clock=clock, public_url="https://watch.example.com/")
            (row,) = scan(database, run_id, [change()])
            assert mine.send_due() == 1
            scan(database, run_id, [change(step=201)], ended=True)
            assert mine.send_due() == 0
        (came,) = receiver.received
        delivery = verify_signature(secret or "", came.headers, came.body)
        (alert,) = alerts(database)
        assert (alert.state, str(alert.delivery_id)) == ("sent", delivery)
        (said,) = json.loads(came.body)["alerts"]
        assert said["title"] == "Phase change (level) in <b>two</b>-layer: mean_loss:text drop at step 200"
        assert said["text"] == change().explain()
        assert said["link"] == f"https://watch.example.com/changes/{row.id}"
        assert said["data"]["run_name"] == "<b>two</b>-layer"

    def test_through_apprise_in_words(self, sqlite_database: Database, make_run: MakeRun, clock: Clock) -> None:
        database = sqlite_database
        run_id = make_run(name="@everyone <!channel>")
        with Receiver(answers=[(200, {})]) as receiver:
            made, secret = channel(database, f"json://127.0.0.1:{receiver.port}/")
            (row,) = scan(database, run_id, [change()])
            assert sender(database, clock=clock).send_due() == 1
        assert (made.kind, secret) == ("apprise", None)
        said = json.loads(receiver.received[0].body)
        assert said["title"] == "Phase change (level) in ＠everyone ‹!channel›: mean_loss:text drop at step 200"
        assert said["message"].endswith(f"\n\nhttp://127.0.0.1:8000/changes/{row.id}")

    def test_the_address_is_not_in_the_database(self, database: Database) -> None:
        with Receiver() as receiver:
            made, secret = channel(database, receiver.url)
            assert made.address == f"http://127.0.0.1:{receiver.port}/…"
            assert "secret-path" not in made.url
            assert (secret or "") not in (made.secret or "")


class TestFailing:
    def test_a_receiver_that_is_down_is_tried_again_and_given_up(self, database: Database, clock: Clock) -> None:
        with Receiver() as receiver:
            url = receiver.url
        channel(database, url)
        tell(database, "a")
        mine = sender(database, clock=clock)
        for wait_s in (*BACK_OFF_S, 0.0):
            assert mine.send_due() == 1
            assert mine.send_due() == 0
            clock.forward(wait_s)
        assert mine.send_due() == 0
        (alert,) = alerts(database)
        assert (alert.state, alert.attempts) == ("failed", MAX_ATTEMPTS)
        with database.reading() as session:
            log = list_deliveries(session, alert.id)
        assert [one.attempt for one in log] == list(range(1, MAX_ATTEMPTS + 1))
        assert {one.outcome for one in log} == {"unreachable"}
        assert [(one.time - NOON).total_seconds() for one in log[:3]] == [0.0, 10.0, 70.0]

    def test_one_that_recovers_gets_the_same_message(self, database: Database, clock: Clock) -> None:
        answers: list[tuple[int, dict[str, str]]] = [(503, {"Retry-After": "120"}), (500, {}), (200, {})]
        with Receiver(answers=answers) as receiver:
            _, secret = channel(database, receiver.url)
            tell(database, "a")
            mine = sender(database, clock=clock)
            assert mine.send_due() == 1
            clock.forward(119)
            assert mine.send_due() == 0
            clock.forward(1)
            assert mine.send_due() == 1
            clock.forward(BACK_OFF_S[1])
            assert mine.send_due() == 1
        bodies = {came.body for came in receiver.received}
        ids = {verify_signature(secret or "", came.headers, came.body) for came in receiver.received}
        assert (len(receiver.received), len(bodies), len(ids)) == (3, 1, 1)
        (alert,) = alerts(database)
        with database.reading() as session:
            log = list_deliveries(session, alert.id)
        assert [(one.outcome, one.status_code) for one in log] == [
            ("refused", 503), ("refused", 500), ("delivered", 200)
        ]  # fmt: skip

    def test_an_address_that_is_not_allowed_any_more(self, database: Database, clock: Clock) -> None:
        with Receiver() as receiver:
            channel(database, receiver.url)
            tell(database, "a")
            assert sender(database, clock=clock, allow_private_webhooks=False).send_due() == 1
        (alert,) = alerts(database)
        assert (alert.state, receiver.received) == ("failed", [])
        with database.reading() as session:
            assert [one.outcome for one in list_deliveries(session, alert.id)] == ["forbidden"]

    def test_secrets_under_another_key_are_said_in_the_log(self, database: Database, clock: Clock) -> None:
        with Receiver() as receiver:
            channel(database, receiver.url)
            tell(database, "a")
            sender(database, clock=clock, secret_key="another key, of as many characters").send_due()
        with database.reading() as session:
            (log,) = list_deliveries(session, alerts(database)[0].id)
        assert "sealed under another key" in (log.detail or "")
        assert receiver.received == []


class TestOnce:
    def test_two_senders_deliver_each_message_once(self, database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sender_module, "POLL_S", 0.01)
        with Receiver() as receiver:
            _, secret = channel(database, receiver.url)
            channel(database, receiver.url)
            senders = [Sender(database, Courier(settings()), name) for name in ("one", "two")]
            for each in senders:
                each.start()
            for start in range(0, 12, 3):
                tell(database, *(f"{number}" for number in range(start, start + 3)))
            deadline = time.monotonic() + 30
            while {alert.state for alert in alerts(database)} != {"sent"} and time.monotonic() < deadline:
                time.sleep(0.02)
            for each in senders:
                each.stop()
        titles = [json.loads(came.body)["alerts"][0]["title"] for came in receiver.received]
        assert sorted(titles) == sorted([f"{number} is stale" for number in range(12)] * 2)
        assert len({json.loads(came.body)["delivery"] for came in receiver.received}) == 24
        assert secret is not None

    def test_nothing_is_sent_while_the_transaction_is_open(self, database: Database) -> None:
        with Receiver() as receiver:
            channel(database, receiver.url)
            with database.transaction() as session:
                raise_alert(session, Occurrence("stale_run", None, "a", "a is stale"))
                claimed: list[int] = []
                thread = threading.Thread(target=lambda: claimed.append(self.look(database)))
                thread.start()
                thread.join()
            assert (claimed, receiver.received) == ([0], [])
            assert sender(database, clock=lambda: datetime.now(UTC)).send_due() == 1

    def look(self, database: Database) -> int:
        """How many messages another process sees to send."""
        with database.reading() as session:
            return len(list_alerts(session, state="waiting"))

    def test_one_whose_end_was_lost_is_sent_again_with_the_same_id(
        self, database: Database, clock: Clock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """At least once: a receiver knows the repeat by its id."""
        with Receiver() as receiver:
            channel(database, receiver.url)
            tell(database, "a")
            with monkeypatch.context() as patch:
                patch.setattr(sender_module, "record_attempt", self.lose)
                with pytest.raises(OSError, match="the database went away"):
                    sender(database, "lost", clock=clock).send_due()
            clock.forward(sender_module.LEASE_S + 1)
            assert sender(database, clock=clock).send_due() == 1
        first, second = receiver.received
        assert first.headers["X-Phasewatch-Delivery"] == second.headers["X-Phasewatch-Delivery"]
        assert [alert.state for alert in alerts(database)] == ["sent"]

    def lose(self, *_: Any, **__: Any) -> None:
        raise OSError("the database went away")


class TestQuietHours:
    def test_what_the_night_held_comes_as_one_message_in_the_morning(self, database: Database, clock: Clock) -> None:
        night = {"from": "22:00", "to": "07:00", "zone": "Europe/Berlin"}
        with Receiver() as receiver:
            channel(database, receiver.url, quiet_hours=night)
            mine = sender(database, clock=clock)
            clock.now = NOON.replace(hour=22)  # 23:00 in Berlin
            tell(database, "a", "b")
            for hour in (22, 23):
                clock.now = NOON.replace(hour=hour, minute=30)
                assert mine.send_due() == 0
            clock.now = NOON.replace(day=1, month=12, hour=6)
            assert mine.send_due() == 1
        (came,) = receiver.received
        assert [one["title"] for one in json.loads(came.body)["alerts"]] == ["a is stale", "b is stale"]
        assert {alert.state for alert in alerts(database)} == {"sent"}


class TestTest:
    def test_is_sent_at_once_whatever_the_rules_and_the_hour(self, database: Database) -> None:
        hours = {"from": "00:00", "to": "23:59", "zone": "UTC"}
        with Receiver() as receiver:
            made, secret = channel(database, receiver.url, quiet_hours=hours, enabled=False)
            outcome = send_test(database, settings(), made.id)
        assert (outcome.outcome, outcome.status_code) == ("delivered", 204)
        (came,) = receiver.received
        assert verify_signature(secret or "", came.headers, came.body)
        assert json.loads(came.body)["alerts"][0]["kind"] == "test"

    def test_says_what_went_wrong(self, database: Database) -> None:
        with Receiver(answers=[(403, {})]) as receiver:
            made, _ = channel(database, receiver.url)
            outcome = send_test(database, settings(), made.id)
        assert (outcome.outcome, outcome.status_code) == ("refused", 403)

    def test_goes_where_the_channel_leads_now(self, database: Database) -> None:
        with Receiver() as old, Receiver() as new:
            made, _ = channel(database, old.url)
            change_channel(database, settings(), made.id, {"url": new.url})
            send_test(database, settings(), made.id)
        assert (len(old.received), len(new.received)) == (0, 1)
