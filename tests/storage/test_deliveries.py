"""The queue of alerts: each message to one sender at a time, tried again later, given up in the end, held at night."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from sqlalchemy import update

from phasewatch.errors import Conflict, NotFound
from phasewatch.storage import alerts as alerts_module
from phasewatch.storage.alerts import Occurrence, raise_alert
from phasewatch.storage.channels import delete_channel, update_channel
from phasewatch.storage.database import Database
from phasewatch.storage.deliveries import (
    BACK_OFF_S,
    MAX_ATTEMPTS,
    Attempt,
    Message,
    claim_messages,
    get_alert,
    has_due,
    list_alerts,
    list_deliveries,
    record_attempt,
    retry_alert,
)
from phasewatch.storage.events import events_after
from phasewatch.storage.schema import Alert, DeliveryOutcome
from tests.conftest import MakeRun
from tests.storage.test_alerts import add_channel, stored

NOW = datetime(2026, 11, 30, 12, 0, tzinfo=UTC)
NIGHT = {"from": "22:00", "to": "07:00", "zone": "UTC"}


@pytest.fixture(autouse=True)
def _at_noon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alerts_module, "utc_now", lambda: NOW)


def tell(database: Database, *keys: str, run_id: UUID | None = None) -> None:
    """Raises an alert for each key."""
    with database.transaction() as session:
        for key in keys:
            raise_alert(session, Occurrence("stale_run", run_id, key, f"{key} is stale"))


def claim(database: Database, owner: str = "me", *, after_s: float = 0.0, limit: int = 10) -> list[Message]:
    """What `owner` is to send `after_s` seconds after noon."""
    with database.transaction() as session:
        return list(claim_messages(session, owner, limit, 60.0, now=NOW + timedelta(seconds=after_s)))


def record(
    database: Database,
    message: Message,
    outcome: DeliveryOutcome = "delivered",
    owner: str = "me",
    *,
    after_s: float = 0.0,
    wait_s: float | None = None,
) -> bool:
    at = NOW + timedelta(seconds=after_s)
    attempt = Attempt(at, outcome, 12.5, 200 if outcome == "delivered" else 500, "x" * 10_000, wait_s)
    with database.transaction() as session:
        return record_attempt(session, message, owner, attempt, now=at)


class TestClaim:
    def test_a_message_has_one_holder_and_an_end(self, database: Database) -> None:
        add_channel(database)
        tell(database, "a")
        with database.reading() as session:
            assert has_due(session, NOW)
            assert not has_due(session, NOW - timedelta(seconds=1))
        (message,) = claim(database)
        assert [alert.key for alert in message.alerts] == ["a"]
        assert (message.attempt, message.channel.url) == (1, "b")
        assert claim(database, "other") == []
        assert record(database, message)
        (alert,) = stored(database)
        assert (alert.state, alert.attempts, alert.owner) == ("sent", 1, None)
        assert claim(database, after_s=1e6) == []
        with database.reading() as session:
            assert not has_due(session, NOW + timedelta(days=10))

    def test_one_message_a_channel_oldest_first(self, database: Database) -> None:
        channels = [add_channel(database) for _ in range(3)]
        tell(database, "a", "b")
        found = claim(database)
        assert [(m.channel.id, m.alerts[0].key) for m in found] == [(channel, "a") for channel in channels]
        assert [m.alerts[0].key for m in claim(database, "other", limit=2)] == ["b", "b"]

    def test_what_waits_for_a_disabled_channel_waits(self, database: Database) -> None:
        channel = add_channel(database)
        tell(database, "a")
        for enabled, n_claimed in ((False, 0), (True, 1)):
            with database.transaction() as session:
                update_channel(session, channel, {"enabled": enabled})
            assert len(claim(database)) == n_claimed

    def test_one_of_a_lost_sender_goes_to_another_with_the_same_id(self, database: Database) -> None:
        add_channel(database)
        tell(database, "a")
        (first,) = claim(database, "lost")
        assert claim(database, after_s=59) == []
        (second,) = claim(database, after_s=61)
        assert second.delivery_id == first.delivery_id
        assert second.attempt == 2
        assert not record(database, first, owner="lost")
        assert record(database, second)
        (alert,) = stored(database)
        with database.reading() as session:
            assert [one.attempt for one in list_deliveries(session, alert.id)] == [2]

    def test_one_whose_senders_are_lost_every_time_is_failed(self, database: Database) -> None:
        add_channel(database)
        tell(database, "a")
        for attempt in range(MAX_ATTEMPTS):
            assert len(claim(database, after_s=attempt * 100)) == 1
        assert claim(database, after_s=1_000) == []
        assert [alert.state for alert in stored(database)] == ["failed"]

    def test_each_of_many_goes_to_one_of_many_senders(self, database: Database) -> None:
        for _ in range(4):
            add_channel(database)
        tell(database, *(f"{number}" for number in range(10)))
        start = threading.Barrier(4)

        def work(owner: str) -> list[int]:
            start.wait()
            held: list[int] = []
            while self.any_due(database):
                for message in claim(database, owner, limit=2):
                    held += [alert.id for alert in message.alerts]
                    assert record(database, message, owner=owner)
            return held

        with ThreadPoolExecutor(4) as threads:
            held = [alert_id for found in threads.map(work, ("a", "b", "c", "d")) for alert_id in found]
        assert sorted(held) == [alert.id for alert in stored(database)]
        assert {alert.state for alert in stored(database)} == {"sent"}

    def any_due(self, database: Database) -> bool:
        with database.reading() as session:
            return has_due(session, NOW)


class TestRecord:
    def test_waits_longer_after_every_failure_and_gives_up(self, database: Database) -> None:
        add_channel(database)
        tell(database, "a")
        after_s, ids = 0.0, set()
        for attempt, wait_s in enumerate(BACK_OFF_S, start=1):
            (message,) = claim(database, after_s=after_s)
            ids.add(message.delivery_id)
            assert message.attempt == attempt
            assert record(database, message, "unreachable", after_s=after_s)
            assert claim(database, after_s=after_s + wait_s - 1) == []
            after_s += wait_s
        (message,) = claim(database, after_s=after_s)
        assert record(database, message, "refused", after_s=after_s)
        (alert,) = stored(database)
        assert (alert.state, alert.attempts, len(ids)) == ("failed", MAX_ATTEMPTS, 1)
        with database.reading() as session:
            log = list_deliveries(session, alert.id)
            events = [event.payload["state"] for event in events_after(session, 0) if event.kind == "alert"]
        assert [one.outcome for one in log] == ["unreachable"] * (MAX_ATTEMPTS - 1) + ["refused"]
        assert (log[0].status_code, log[0].took_ms, len(log[0].detail or "")) == (500, 12.5, 500)
        assert events == ["waiting", "failed"]

    def test_waits_as_long_as_the_receiver_asks(self, database: Database) -> None:
        add_channel(database)
        tell(database, "a")
        record(database, claim(database)[0], "refused", wait_s=500.0)
        assert claim(database, after_s=499) == []
        assert len(claim(database, after_s=500)) == 1

    def test_what_may_not_be_sent_is_not_tried_again(self, database: Database) -> None:
        add_channel(database)
        tell(database, "a")
        record(database, claim(database)[0], "forbidden")
        assert [alert.state for alert in stored(database)] == ["failed"]

    def test_of_a_channel_deleted_meanwhile(self, database: Database) -> None:
        channel = add_channel(database)
        tell(database, "a")
        (message,) = claim(database)
        with database.transaction() as session:
            delete_channel(session, channel)
        assert not record(database, message)
        assert stored(database) == []


class TestQuietHours:
    @pytest.fixture
    def night(self, monkeypatch: pytest.MonkeyPatch) -> datetime:
        """When alerts are raised: an hour into the quiet hours, nine hours before their end."""
        at = NOW.replace(hour=23)
        monkeypatch.setattr(alerts_module, "utc_now", lambda: at)
        return at

    def test_what_they_held_goes_out_as_one_message(self, database: Database, night: datetime) -> None:
        quiet, loud = add_channel(database, quiet_hours=NIGHT), add_channel(database)
        tell(database, "a", "b", "c")
        until_seven_s = 19 * 3600.0
        assert [m.channel.id for m in claim(database, after_s=until_seven_s - 1)] == [loud]
        found = {m.channel.id: m for m in claim(database, after_s=until_seven_s)}
        digest = found[quiet]
        assert [alert.key for alert in digest.alerts] == ["a", "b", "c"]
        assert len({alert.delivery_id for alert in digest.alerts}) == 1
        assert [alert.key for alert in found[loud].alerts] == ["b"]
        record(database, digest, "unreachable", after_s=until_seven_s)
        (again,) = [m for m in claim(database, after_s=until_seven_s + 10) if m.channel.id == quiet]
        assert (again.delivery_id, len(again.alerts)) == (digest.delivery_id, 3)
        record(database, again, after_s=until_seven_s + 10)
        assert {alert.state for alert in stored(database, quiet)} == {"sent"}

    def test_what_joins_after_the_first_attempt_goes_by_itself(self, database: Database, night: datetime) -> None:
        channel = add_channel(database, quiet_hours=NIGHT)
        tell(database, "a", "b")
        (digest,) = claim(database, after_s=19 * 3600.0)
        tell(database, "late")
        (late,) = claim(database, after_s=19 * 3600.0)
        assert [alert.key for alert in late.alerts] == ["late"]
        assert late.delivery_id != digest.delivery_id
        assert len(stored(database, channel)) == 3

    def test_a_further_attempt_waits_for_their_end_too(self, database: Database) -> None:
        add_channel(database, quiet_hours=NIGHT)
        tell(database, "a")
        nine_s = 9 * 3600.0
        record(database, claim(database, after_s=nine_s)[0], "unreachable", after_s=nine_s)
        assert claim(database, after_s=10 * 3600.0 + 1) == []
        (again,) = claim(database, after_s=19 * 3600.0)
        assert again.attempt == 2

    def test_those_set_after_it_was_raised_hold_it_as_well(self, database: Database) -> None:
        channel = add_channel(database)
        tell(database, "a")
        with database.transaction() as session:
            update_channel(session, channel, {"quiet_hours": {"from": "11:00", "to": "13:00", "zone": "UTC"}})
        assert claim(database) == []
        assert stored(database)[0].held_until == NOW.replace(hour=13)


class TestAsked:
    def test_lists_by_what_is_asked_newest_first(self, database: Database, make_run: MakeRun) -> None:
        run_id = make_run()
        first, second = add_channel(database), add_channel(database)
        tell(database, "a", run_id=run_id)
        tell(database, "b")
        record(database, claim(database, limit=1)[0])
        with database.reading() as session:
            everything = list_alerts(session)
            assert [(alert.key, alert.channel_id) for alert in everything] == [
                ("b", second), ("b", first), ("a", second), ("a", first)
            ]  # fmt: skip
            assert [alert.key for alert in list_alerts(session, run_id=run_id)] == ["a", "a"]
            assert [alert.channel_id for alert in list_alerts(session, channel_id=first)] == [first, first]
            assert [alert.id for alert in list_alerts(session, state="sent")] == [everything[-1].id]
            assert list_alerts(session, kind="divergence") == []
            assert list_alerts(session, channel_id=2**40) == []
            assert list_alerts(session, before=everything[1].id) == everything[2:]

    def test_a_failed_one_can_be_sent_again(self, database: Database) -> None:
        add_channel(database)
        tell(database, "a")
        (message,) = claim(database)
        (alert,) = stored(database)
        for wanted in ("sending", "failed"):
            with database.transaction() as session:
                session.execute(update(Alert).values(state=wanted, attempts=MAX_ATTEMPTS, finished_at=NOW))
            if wanted == "sending":
                with pytest.raises(Conflict, match="is sending"):
                    self.retry(database, alert.id)
        self.retry(database, alert.id)
        (again,) = claim(database, after_s=1e9)
        assert (again.attempt, again.alerts[0].id) == (1, alert.id)
        assert again.delivery_id != message.delivery_id

    def retry(self, database: Database, alert_id: int) -> None:
        with database.transaction() as session:
            retry_alert(session, alert_id)

    def test_one_that_does_not_exist(self, database: Database) -> None:
        with database.reading() as session:
            for alert_id in (1, 2**40):
                with pytest.raises(NotFound, match=f"alert {alert_id} does not exist"):
                    get_alert(session, alert_id)
