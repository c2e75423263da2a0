"""Rules over occurrences, and quiet hours against times worked out by hand, nights of clock changes included."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import pytest
from pydantic import ValidationError

from phasewatch.storage.alert_rules import Occurrence, QuietHours, Rules

RUN = uuid4()


def occurrence(**content: Any) -> Occurrence:
    """A confirmed drop of 0.5 nats at q = 0.01."""
    values: dict[str, Any] = {
        "kind": "phase_change",
        "run_id": RUN,
        "key": "change",
        "title": "a change",
        "change_kind": "level",
        "effect": 0.5,
        "q_value": 0.01,
        "state": "confirmed",
    }
    return Occurrence(**values | content)


class TestRules:
    @pytest.mark.parametrize(
        ("rules", "content", "matches"),
        [
            ({}, {}, True),
            ({}, {"state": "provisional"}, False),
            ({}, {"state": "withdrawn"}, False),
            ({"states": ["provisional"]}, {"state": "provisional"}, True),
            ({"kinds": ["stale_run"]}, {}, False),
            ({"kinds": ["stale_run"]}, {"kind": "stale_run", "state": None}, True),
            ({"induction_only": True}, {}, False),
            ({"induction_only": True}, {"induction": True}, True),
            ({"induction_only": True}, {"kind": "job_failed", "state": None}, True),
            ({"change_kinds": ["hidden", "bump"]}, {}, False),
            ({"change_kinds": ["hidden", "level"]}, {}, True),
            ({"min_effect": 0.5}, {}, True),
            ({"min_effect": 0.51}, {}, False),
            ({"min_effect": 0.0}, {"effect": None}, False),
            ({"max_q": 0.01}, {}, True),
            ({"max_q": 0.009}, {}, False),
            ({"max_q": 1.0}, {"q_value": None}, False),
            ({"runs": {"run": str(RUN)}}, {}, True),
            ({"runs": {"run": str(uuid4())}}, {}, False),
            ({"runs": {"run": str(RUN)}}, {"run_id": None, "kind": "job_failed"}, False),
            ({"runs": {"tag": "nightly"}}, {}, True),
            ({"runs": {"tag": "night"}}, {}, False),
            ({"runs": {"all": True}}, {"run_id": None, "kind": "job_failed"}, True),
        ],
    )
    def test_match(self, rules: dict[str, Any], content: dict[str, Any], matches: bool) -> None:
        assert Rules.model_validate(rules).match(occurrence(**content), ["nightly", "big"]) is matches

    @pytest.mark.parametrize(
        "rules",
        [
            {"kinds": []},
            {"kinds": ["mail"]},
            {"states": []},
            {"min_effect": -1},
            {"min_effect": float("nan")},
            {"max_q": 1.1},
            {"runs": {}},
            {"runs": {"all": False}},
            {"runs": {"run": "x"}},
            {"runs": {"run": str(RUN), "tag": "x"}},
            {"runs": {"tag": ""}},
            {"unknown": 1},
        ],
    )
    def test_what_makes_no_sense_is_refused(self, rules: dict[str, Any]) -> None:
        with pytest.raises(ValidationError):
            Rules.model_validate(rules)

    def test_kept_as_json_they_stay_the_same(self) -> None:
        rules = Rules.model_validate({"runs": {"run": str(RUN)}, "max_q": 0.05, "change_kinds": ["level"]})
        assert Rules.model_validate(rules.model_dump(mode="json")) == rules


class TestQuietHours:
    NIGHT = QuietHours.model_validate({"from": "22:00", "to": "07:00", "zone": "Europe/Berlin"})

    @pytest.mark.parametrize(
        ("now", "end"),
        [
            ("2026-11-30T20:59:59", None),  # 21:59:59 in Berlin
            ("2026-11-30T21:00:00", "2026-12-01T06:00:00"),
            ("2026-11-30T23:30:00", "2026-12-01T06:00:00"),  # after midnight in Berlin
            ("2026-12-01T05:59:59", "2026-12-01T06:00:00"),
            ("2026-12-01T06:00:00", None),
            ("2026-07-01T20:30:00", "2026-07-02T05:00:00"),  # summer time
            ("2026-03-28T22:00:00", "2026-03-29T05:00:00"),  # the night that summer time begins in
            ("2026-10-24T21:00:00", "2026-10-25T06:00:00"),  # and the one it ends in
            ("2026-12-31T23:30:00", "2027-01-01T06:00:00"),
        ],
    )
    def test_of_a_night(self, now: str, end: str | None) -> None:
        expected = None if end is None else datetime.fromisoformat(end).replace(tzinfo=UTC)
        assert self.NIGHT.end_of(datetime.fromisoformat(now).replace(tzinfo=UTC)) == expected

    @pytest.mark.parametrize(
        ("now", "end"),
        [
            ("2026-11-30T11:59:00", None),
            ("2026-11-30T12:00:00", "2026-11-30T13:30:00"),
            ("2026-11-30T13:29:59", "2026-11-30T13:30:00"),
            ("2026-11-30T13:30:00", None),
        ],
    )
    def test_within_a_day(self, now: str, end: str | None) -> None:
        noon = QuietHours.model_validate({"from": "12:00", "to": "13:30"})
        expected = None if end is None else datetime.fromisoformat(end).replace(tzinfo=UTC)
        assert noon.end_of(datetime.fromisoformat(now).replace(tzinfo=UTC)) == expected

    @pytest.mark.parametrize(
        "hours",
        [
            {"from": "22:00", "to": "22:00"},
            {"from": "24:00", "to": "07:00"},
            {"from": "7:00", "to": "08:00"},
            {"from": "22:60", "to": "07:00"},
            {"from": "22:00"},
            {"from": "22:00", "to": "07:00", "zone": "Berlin"},
            {"from": "22:00", "to": "07:00", "zone": "../../etc/passwd"},
            {"from": "22:00", "to": "07:00", "zone": "Europe"},
            {"from": "22:00", "to": "07:00", "zone": ""},
            {"from": "22:00", "to": "07:00", "zone": "\x00"},
        ],
    )
    def test_what_makes_no_sense_is_refused(self, hours: dict[str, str]) -> None:
        with pytest.raises(ValidationError):
            QuietHours.model_validate(hours)

    def test_kept_as_json_they_stay_the_same(self) -> None:
        kept = self.NIGHT.model_dump(by_alias=True)
        assert kept == {"from": "22:00", "to": "07:00", "zone": "Europe/Berlin"}
        assert QuietHours.model_validate(kept) == self.NIGHT
