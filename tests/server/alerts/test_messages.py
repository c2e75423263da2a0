"""What alerts say: every value of a change in the JSON, and words that no name can turn into something else."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from server.alerts.messages import MAX_TEXT, Notice, body_of, plain, words_of
from server.settings import Settings

AT = datetime(2026, 11, 30, 12, 0, tzinfo=UTC)
BASE = "https://phasewatch.example.com"


def notice(title: str = "Induction change in two-layer at step 200", **content: Any) -> Notice:
    """A phase change as it was raised."""
    payload = {"run": "RUN", "run_name": "two-layer", "phase_change": "CHANGE", "step": 200, "effect": None}
    return Notice("phase_change", title, payload | {"explanation": "It falls by 0.5 nats."} | content, AT, 7)


class TestPlain:
    @pytest.mark.parametrize(
        ("text", "made"),
        [
            ("my_run_v2", "my_run_v2"),
            ("_slanted_ or __bold__", "＿slanted＿ or ＿＿bold＿＿"),
            ("**bold** `code` ~~gone~~", "∗∗bold∗∗ ˋcodeˋ ∼∼gone∼∼"),
            ("@everyone @here <@1234> <!channel> <#C1|x>", "＠everyone ＠here ‹＠1234› ‹!channel› ‹#C1ǀx›"),
            ("[click](https://evil.example)", "[click］(https:∕∕evil.example)"),
            ("<https://evil.example|docs>", "‹https:∕∕evil.exampleǀdocs›"),
            ('<script>alert("x")</script>', '‹script›alert("x")‹/script›'),
            ("<img src=x onerror=alert(1)>", "‹img src=x onerror=alert(1)›"),
            ("a &amp; b &#64;", "a ＆amp; b ＆#64;"),
            ("a\r\nBcc: everyone@example.com", "a Bcc: everyone＠example.com"),
            ("a\x00\x1b[31mb\x07", "a[31mb"),
            ("\u202egnp.exe\u2066 a\u200bb\ufeff", "gnp.exe ab"),
            ("tab\tand\u2028line\u2029s", "tab and line s"),
            ("\\*", "＼∗"),
            ("half \ud800", "half"),
            ("steps [140, 160], 10 % of ∆", "steps [140, 160], 10 % of ∆"),
        ],
    )
    def test_takes_from_text_what_has_a_meaning(self, text: str, made: str) -> None:
        assert plain(text) == made


class TestWords:
    def test_one_alert_has_its_title_text_and_link(self) -> None:
        title, text = words_of([notice()], BASE)
        assert title == "Induction change in two-layer at step 200"
        assert text == f"It falls by 0.5 nats.\n\n{BASE}/changes/CHANGE"

    def test_a_digest_lists_what_there_is(self) -> None:
        title, text = words_of([notice(f"change {number}") for number in range(3)], BASE)
        assert title == "phasewatch: 3 alerts"
        assert text.splitlines() == [part for n in range(3) for part in (f"• change {n}", f"{BASE}/changes/CHANGE")]

    def test_a_long_digest_says_how_many_more(self) -> None:
        _, text = words_of([notice(f"change {number}") for number in range(50)], BASE)
        assert text.splitlines()[-1] == "… and 40 more: GET /api/v1/alerts"

    @pytest.mark.parametrize("n_alerts", [1, 2, 50])
    def test_no_message_is_longer_than_services_take(self, n_alerts: int) -> None:
        long = notice("x" * 5_000, explanation="y" * 50_000)
        title, text = words_of([long] * n_alerts, BASE)
        assert len(title) <= 200
        assert len(text) <= MAX_TEXT + 100

    def test_names_cannot_break_out(self) -> None:
        title, text = words_of([notice("change in <!channel>\n# x", explanation="**@here**")], BASE)
        assert title == "change in ‹!channel› # x"
        assert text.startswith("∗∗＠here∗∗\n\n")

    def test_what_is_about_a_run_leads_to_its_page(self) -> None:
        _, text = words_of([Notice("stale_run", "a run is stale", {"run": "RUN", "text": "silent"}, AT)], BASE)
        assert text == f"silent\n\n{BASE}/runs/RUN"

    def test_where_nobody_said_how_to_reach_the_pages_there_is_no_link(self) -> None:
        assert words_of([notice()], None) == ("Induction change in two-layer at step 200", "It falls by 0.5 nats.")
        assert json.loads(body_of([notice()], "D", None))["alerts"][0]["link"] is None

    def test_without_an_explanation_the_values_are_named(self) -> None:
        _, text = words_of([Notice("stale_run", "a run is stale", {"silent_s": 900.0, "step": None}, AT)], BASE)
        assert text == "silent s: 900.0"


class TestBody:
    def test_has_everything_and_names_as_they_are(self) -> None:
        made = json.loads(body_of([notice("in <b>ä</b>"), notice()], "DELIVERY", BASE))
        assert made["delivery"] == "DELIVERY"
        assert len(made["alerts"]) == 2
        assert made["alerts"][0] == {
            "id": 7,
            "kind": "phase_change",
            "title": "in <b>ä</b>",
            "text": "It falls by 0.5 nats.",
            "link": f"{BASE}/changes/CHANGE",
            "raised_at": "2026-11-30T12:00:00Z",
            "data": notice().payload,
        }

    def test_is_the_same_over_every_attempt(self) -> None:
        assert body_of([notice()], "D", BASE) == body_of([notice()], "D", BASE)


@pytest.mark.parametrize(
    ("settings", "base"),
    [
        ({}, "http://127.0.0.1:8000"),
        ({"host": "localhost", "port": 80}, "http://localhost:80"),
        ({"host": "0.0.0.0"}, None),
        ({"port": 0}, None),
        ({"host": "0.0.0.0", "public_url": "https://watch.example.com/"}, "https://watch.example.com"),
    ],
)
def test_what_links_begin_with(settings: dict[str, Any], base: str | None) -> None:
    assert Settings(**settings).link_base == base
