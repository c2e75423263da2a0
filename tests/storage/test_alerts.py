"""Alerts: raised with what they tell of, once a channel, by the rules of each."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import select

from phasewatch.storage import alerts as alerts_module
from phasewatch.storage.alerts import Occurrence, raise_alert
from phasewatch.storage.database import Database
from phasewatch.storage.events import events_after
from phasewatch.storage.jobs import NewJob, claim_jobs, enqueue, fail_attempt
from phasewatch.storage.phase_changes import review_phase_change, store_scan
from phasewatch.storage.schema import Alert, Channel, Job
from tests.conftest import MakeRun
from tests.storage.test_phase_changes import STEPS, change, scan

NOON = datetime(2026, 11, 30, 12, 0, tzinfo=UTC)


def add_channel(database: Database, rules: dict[str, Any] | None = None, **content: Any) -> int:
    """A channel that nothing is sent to here."""
    values: dict[str, Any] = {"name": "team", "kind": "webhook", "address": "a", "url": "b", "enabled": True}
    with database.transaction() as session:
        channel = Channel(**values | content, rules=rules or {})
        session.add(channel)
        session.flush()
        return channel.id


def stored(database: Database, channel: int | None = None) -> Sequence[Alert]:
    """Alerts, oldest first."""
    query = select(Alert).order_by(Alert.id)
    with database.reading() as session:
        return session.scalars(query if channel is None else query.where(Alert.channel_id == channel)).all()


def stale(run_id: UUID | None, key: str = "stale_run:1") -> Occurrence:
    """A run that was not heard from."""
    return Occurrence("stale_run", run_id, key, "a run is stale", {"silent_s": 900.0})


class TestRaise:
    def test_one_for_each_enabled_channel_that_wants_it(self, database: Database, make_run: MakeRun) -> None:
        run_id = make_run(name="night", tags=("nightly",))
        wanted = [
            add_channel(database),
            add_channel(database, {"kinds": ["stale_run"]}),
            add_channel(database, {"runs": {"tag": "nightly"}}),
        ]
        add_channel(database, {"runs": {"tag": "daily"}})
        add_channel(database, {"kinds": ["divergence"]})
        add_channel(database, enabled=False)
        with database.transaction() as session:
            assert raise_alert(session, stale(run_id)) == 3
        made = stored(database)
        assert [alert.channel_id for alert in made] == wanted
        assert {alert.state for alert in made} == {"waiting"}
        assert len({alert.delivery_id for alert in made}) == 3
        assert made[0].payload == {"run": str(run_id), "run_name": "night", "silent_s": 900.0}

    def test_a_repeat_makes_none(self, database: Database, make_run: MakeRun) -> None:
        run_id = make_run()
        add_channel(database)
        for key, n_made in (("a", 1), ("a", 0), ("b", 1)):
            with database.transaction() as session:
                assert raise_alert(session, stale(run_id, key)) == n_made
        assert [alert.key for alert in stored(database)] == ["a", "b"]

    def test_with_what_was_rolled_back_goes_its_alert(self, database: Database, make_run: MakeRun) -> None:
        run_id = make_run()
        add_channel(database)
        with pytest.raises(OSError, match="gone"):
            self.raise_and_fail(database, run_id)
        assert stored(database) == []

    def raise_and_fail(self, database: Database, run_id: UUID) -> None:
        with database.transaction() as session:
            raise_alert(session, stale(run_id))
            raise OSError("gone")

    def test_without_channels_nothing_is_made(self, database: Database, make_run: MakeRun) -> None:
        run_id = make_run()
        with database.transaction() as session:
            assert raise_alert(session, stale(run_id)) == 0

    def test_about_no_run(self, database: Database) -> None:
        add_channel(database)
        with database.transaction() as session:
            assert raise_alert(session, stale(None)) == 1

    def test_those_who_watch_live_see_it(self, database: Database, make_run: MakeRun) -> None:
        run_id = make_run()
        channel = add_channel(database)
        with database.transaction() as session:
            raise_alert(session, stale(run_id))
        with database.reading() as session:
            events = [event for event in events_after(session, 0) if event.kind == "alert"]
        assert [event.payload["channel"] for event in events] == [channel]

    def test_in_quiet_hours_it_waits_for_their_end(
        self, database: Database, make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        run_id = make_run()
        monkeypatch.setattr(alerts_module, "utc_now", lambda: NOON)
        quiet = add_channel(database, quiet_hours={"from": "11:00", "to": "14:00", "zone": "UTC"})
        loud = add_channel(database, quiet_hours={"from": "13:00", "to": "14:00", "zone": "UTC"})
        with database.transaction() as session:
            assert raise_alert(session, stale(run_id)) == 2
        (held,), (sent) = stored(database, quiet), stored(database, loud)
        assert held.not_before == held.held_until == NOON.replace(hour=14)
        assert (sent[0].held_until, sent[0].not_before) == (None, NOON)

    def test_a_deleted_run_takes_its_alerts_along(self, database: Database, make_run: MakeRun) -> None:
        run_id = make_run()
        add_channel(database)
        with database.transaction() as session:
            raise_alert(session, stale(run_id))
        with database.transaction() as session:
            session.delete(session.get_one(alerts_module.Run, run_id))
        assert stored(database) == []


class TestPhaseChanges:
    def test_is_told_once_when_it_is_confirmed(self, database: Database, make_run: MakeRun) -> None:
        run_id = make_run(name="two-layer")
        add_channel(database)
        scan(database, run_id, [change(end_step=None)], STEPS[:12])
        assert stored(database) == []
        (row,) = scan(database, run_id, [change()])
        scan(database, run_id, [change(step=205)])
        (alert,) = stored(database)
        assert (alert.kind, alert.run_id, alert.phase_change_id) == ("phase_change", run_id, row.id)
        assert alert.title == "Phase change (level) in two-layer: mean_loss:text drop at step 200"
        assert alert.payload["explanation"] == change().explain()
        assert (alert.payload["effect"], alert.payload["unit"]) == (0.5, "nats")

    def test_at_first_sight_where_the_rules_say_so(self, database: Database, make_run: MakeRun) -> None:
        run_id = make_run()
        early = add_channel(database, {"states": ["provisional", "confirmed"]})
        late = add_channel(database)
        scan(database, run_id, [change(end_step=None)], STEPS[:12])
        assert [alert.channel_id for alert in stored(database)] == [early]
        scan(database, run_id, [change()])
        assert [alert.channel_id for alert in stored(database)] == [early, late]

    def test_its_withdrawal_follows_where_it_was_told(self, database: Database, make_run: MakeRun) -> None:
        run_id = make_run()
        everything = {"states": ["provisional", "confirmed", "withdrawn"]}
        told, late = add_channel(database, everything), add_channel(database, {"states": ["confirmed", "withdrawn"]})
        scan(database, run_id, [change(end_step=None)], STEPS[:12])
        for _ in range(2):
            scan(database, run_id, [], STEPS[:14])
        assert [alert.payload["state"] for alert in stored(database, told)] == ["provisional", "withdrawn"]
        assert stored(database, told)[1].title.startswith("Withdrawn: Phase change")
        assert stored(database, late) == []

    def test_the_rules_see_what_was_found(self, database: Database, make_run: MakeRun) -> None:
        run_id = make_run()
        induction = add_channel(database, {"induction_only": True})
        certain = add_channel(database, {"max_q": 0.01, "min_effect": 0.2})
        found = [
            change(200, q_value=0.02),
            change(500, q_value=0.001, effect=0.1),
            change(700, induction=True, q_value=0.001),
        ]
        scan(database, run_id, found, ended=True)
        assert [alert.payload["step"] for alert in stored(database, induction)] == [700]
        assert [alert.payload["step"] for alert in stored(database, certain)] == [700]

    def test_one_that_was_dismissed_is_not_told(self, database: Database, make_run: MakeRun) -> None:
        run_id = make_run()
        add_channel(database)
        (row,) = scan(database, run_id, [change(end_step=None)], STEPS[:12])
        with database.transaction() as session:
            review_phase_change(session, row.id, "dismissed", None)
        scan(database, run_id, [change()])
        assert stored(database) == []

    def test_a_size_that_is_no_number_stops_no_scan(self, database: Database, make_run: MakeRun) -> None:
        run_id = make_run()
        add_channel(database)
        scan(database, run_id, [change(effect=float("inf"))], ended=True)
        assert [alert.payload["effect"] for alert in stored(database)] == [None]

    def test_a_scan_that_is_rolled_back_tells_nothing(self, database: Database, make_run: MakeRun) -> None:
        run_id = make_run()
        add_channel(database)
        with pytest.raises(OSError, match="lease"):
            self.scan_and_fail(database, run_id)
        assert stored(database) == []

    def scan_and_fail(self, database: Database, run_id: UUID) -> None:
        with database.transaction() as session:
            store_scan(session, run_id, [change()], STEPS, detector_version=3, ended=True, slice_name="text")
            raise OSError("lease")


class TestFailedJobs:
    def fail(self, database: Database, key: str, run_id: UUID | None, kind: str = "score") -> None:
        """Fails a job in its last attempt."""
        with database.transaction() as session:
            job_id = enqueue(session, NewJob(key=key, kind=kind, run_id=run_id))
            session.get_one(Job, job_id).attempts = 2
        with database.transaction() as session:
            claim_jobs(session, "me", 1, 60.0)
            fail_attempt(session, job_id or 0, "me", "ValueError: no weights\n\nTraceback …")

    def test_the_third_failure_is_told(self, database: Database, make_run: MakeRun) -> None:
        run_id = make_run(name="broken")
        add_channel(database)
        with database.transaction() as session:
            job_id = enqueue(session, NewJob(key="a", kind="score", run_id=run_id))
        for n_told in (0, 0, 1):
            with database.transaction() as session:
                session.get_one(Job, job_id).not_before = None
            with database.transaction() as session:
                claim_jobs(session, "me", 1, 60.0)
                fail_attempt(session, job_id or 0, "me", "ValueError: no weights\n\nTraceback …")
            assert len(stored(database)) == n_told
        (alert,) = stored(database)
        assert alert.title == f"Job {job_id} (score) of broken failed"
        assert alert.payload["error"] == "ValueError: no weights"

    def test_of_one_kind_and_run_one_an_hour(self, database: Database, make_run: MakeRun) -> None:
        run_id, other = make_run(), make_run()
        add_channel(database)
        for key, of, kind in (("a", run_id, "score"), ("b", run_id, "score"), ("c", other, "score"), ("d", None, "x")):
            self.fail(database, key, of, kind)
        assert [alert.run_id for alert in stored(database)] == [run_id, other, None]
