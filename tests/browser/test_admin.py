"""The pages that a service is run by: every action on them, against what the API then says."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import httpx
import pytest
from fastapi import FastAPI
from playwright.sync_api import Browser, Page, expect
from sqlalchemy import select, update

from phasewatch.storage.alert_rules import Occurrence, Rules
from phasewatch.storage.alerts import raise_alert
from phasewatch.storage.artifacts import Artifacts
from phasewatch.storage.database import Database
from phasewatch.storage.jobs import MAX_ATTEMPTS, NewJob, claim_jobs, enqueue, fail_attempt, note_progress
from phasewatch.storage.schema import Alert, Channel, Delivery, Job, Run, utc_now
from phasewatch.storage.tokens import new_token, put_token
from tests.browser.watched import SCREENS, Watched, visiting
from tests.server.conftest import make_app
from tests.webhook_receiver import Receiver


class TestMonitors:
    def test_one_is_made_by_keyboard_fired_turned_off_and_deleted(self, visit: Watched, run: UUID) -> None:
        page = visit.open("/monitors")
        fill_monitor_by_keys(page)
        row = page.locator("#monitors tbody tr", has_text="watch the demo")
        expect(row).to_contain_text("Scan")
        expect(row).to_contain_text("runs tagged demo")
        expect(row).to_contain_text("every 2 hours next in")
        page.get_by_role("button", name="Fire watch the demo now").click()
        expect(page.locator("#said")).to_have_text("Fired: 1 job.")
        page.get_by_role("button", name="History of watch the demo").click()
        expect(page.locator("#firings tbody tr")).to_have_count(1)
        expect(page.locator("#firings tbody tr")).to_contain_text("scan")
        assert "monitor=" in page.url
        page.get_by_role("button", name="Turn watch the demo off").click()
        expect(row).to_contain_text("off")
        [made] = [one for one in get(visit, "/monitors") if one["name"] == "watch the demo"]
        assert (made["enabled"], made["selector"], made["trigger"]) == (False, {"tag": "demo"}, {"every_s": 7200})
        delete = page.get_by_role("button", name="Delete watch the demo")
        delete.click()
        expect(delete).to_have_text("Really delete?")
        delete.click()
        expect(row).to_have_count(0)
        assert "watch the demo" not in [one["name"] for one in get(visit, "/monitors")]

    def test_a_form_for_each_kind_and_errors_at_the_field(self, browser: Browser, app: FastAPI) -> None:
        with visiting(browser, app) as watched:
            page = watched.open("/monitors")
            page.get_by_role("button", name="Create").click()
            expect(page.locator("#field-name")).to_be_focused()
            expect(page.locator("#field-name-wrong")).not_to_be_empty()
            page.get_by_label("Kind").select_option("stale_run")
            page.get_by_label("Silent after (seconds)").fill("30")
            page.locator("#field-trigger").select_option("cron")
            page.get_by_label("Cron line").fill("30 4 * * *")
            expect(page.locator("#field-trigger-help")).to_contain_text("then in")
            page.get_by_label("Kind").select_option("compare")
            expect(page.get_by_label("Silent after (seconds)")).to_be_hidden()
            page.get_by_label("Name").fill("odd")
            page.get_by_label("Cron line").fill("0 0 30 2 *")
            expect(page.locator("#field-cron-wrong")).to_contain_text("never comes")
            page.get_by_role("button", name="Create").click()
            expect(page.locator("#field-cron")).to_have_attribute("aria-invalid", "true")
            expect(page.locator("#field-cron-wrong")).to_contain_text("never comes")
            expect(page.locator("#field-cron")).to_be_focused()
            page.get_by_label("Cron line").fill("0 0 1 * *")
            page.get_by_role("button", name="Create").click()
            expect(page.locator("#monitors tbody tr", has_text="odd")).to_contain_text("measure icl_score")
        assert all("422" in error for error in watched.errors)  # what the browser says of a refused answer


def fill_monitor_by_keys(page: Page) -> None:
    """Fills the form of a monitor without a mouse."""
    keys = page.keyboard
    page.get_by_label("Name").focus()
    keys.type("watch the demo")
    keys.press("Tab")
    keys.type("Scan")
    keys.press("Tab")
    keys.type("Those")
    keys.press("Tab")
    keys.type("demo")
    keys.press("Tab")
    keys.type("Again")
    keys.press("Tab")
    keys.press("Control+A")
    keys.type("2")
    keys.press("Tab")
    keys.type("hours")
    keys.press("Tab")
    keys.press("Tab")
    keys.press("Enter")


def get(watched: Watched, path: str) -> Any:
    """What the API says, asked outside the page; the items of a list."""
    found = httpx.get(f"{watched.base}/api/v1{path}").raise_for_status().json()
    return found["items"] if "items" in found else found


class TestJobs:
    def test_a_failed_one_says_why_and_is_tried_again(self, visit: Watched, jobs: dict[str, int]) -> None:
        page = visit.open("/jobs?state=failed")
        row = page.locator("#jobs tbody tr")
        expect(row).to_have_count(1)
        expect(row).to_contain_text("no weights at step 64")
        row.locator("summary", has_text="no weights").click()
        expect(row.locator("pre.error").first).to_contain_text("in the third line")
        page.get_by_role("button", name=f"Try job {jobs['failed']} again").click()
        expect(page.locator("#said")).to_have_text(f"Job {jobs['failed']} waits again.")
        expect(page.locator("#jobs")).to_contain_text("No job is like this.")
        assert get(visit, f"/jobs/{jobs['failed']}")["state"] == "waiting"

    def test_progress_cancelling_and_filters(self, visit: Watched, jobs: dict[str, int], run: UUID) -> None:
        page = visit.open("/jobs")
        expect(page.locator("#jobs tbody tr")).to_have_count(3)
        running = page.locator(f"#jobs tr[data-key='{jobs['running']}']")
        expect(running.locator("progress")).to_have_attribute("value", "0.4")
        expect(running).to_contain_text("40 %, the second of five")
        page.get_by_role("button", name=f"Cancel job {jobs['running']}").click()
        expect(running).to_contain_text("cancelled")
        assert get(visit, f"/jobs/{jobs['running']}")["state"] == "cancelled"
        page.get_by_label("Kind").select_option("scan")
        expect(page.locator("#jobs tbody tr")).to_have_count(1)
        expect(page.locator("#jobs tbody tr")).to_contain_text("two layers")
        page.get_by_label("Run").select_option(str(run))
        assert page.url.endswith(f"?kind=scan&run={run}")
        page.reload()
        expect(page.locator("#jobs tbody tr")).to_have_count(1)
        expect(page.get_by_label("Kind")).to_have_value("scan")

    def test_what_changes_appears_and_what_was_unfolded_stays(
        self, visit: Watched, jobs: dict[str, int], database: Database
    ) -> None:
        page = visit.open("/jobs")
        waiting = page.locator(f"#jobs tr[data-key='{jobs['waiting']}']")
        waiting.locator("summary").click()
        expect(waiting.locator("pre")).to_contain_text('"note": "waiting"')
        expect(page.locator("#live")).to_have_text("live")
        with database.transaction() as session:
            assert [job.id for job in claim_jobs(session, "worker", 1, 60.0)] == [jobs["waiting"]]
        expect(waiting).to_contain_text("running")
        expect(waiting.locator("pre")).to_contain_text('"note": "waiting"')


@pytest.fixture
def jobs(database: Database, run: UUID) -> dict[str, int]:
    """A job that failed, one that runs, and one that waits: their ids."""
    with database.transaction() as session:
        made = {
            state: enqueue(session, NewJob(f"job {state}", kind, run, step=64, parameters={"note": state}))
            for state, kind in (("failed", "score"), ("running", "score"), ("waiting", "scan"))
        }
    found = {state: job for state, job in made.items() if job is not None}
    for _ in range(MAX_ATTEMPTS):
        with database.transaction() as session:
            session.execute(update(Job).values(not_before=None))
            assert claim_jobs(session, "worker", 1, 60.0)[0].id == found["failed"]
            fail_attempt(session, found["failed"], "worker", "no weights at step 64", "deep\nin the third line")
    with database.transaction() as session:
        assert claim_jobs(session, "worker", 1, 60.0)[0].id == found["running"]
    with database.transaction() as session:
        note_progress(session, found["running"], "worker", 0.4, "the second of five")
    return found


class TestAlerts:
    def test_a_channel_is_made_tried_and_deleted(self, browser: Browser, private: FastAPI, run: UUID) -> None:
        with Receiver() as receiver, visiting(browser, private) as watched:
            page = watched.open("/alerts")
            page.get_by_label("Name").fill("our chat")
            page.get_by_label("Address").fill(receiver.url)
            page.get_by_label("runs that diverge").uncheck()
            page.get_by_label("Only when induction heads form").check()
            page.get_by_label("Of which runs").select_option("tag")
            page.get_by_label("Tag").fill("demo")
            page.get_by_label("Quiet hours").check()
            page.get_by_role("button", name="Create").click()
            secret = page.locator("#shown code")
            expect(secret).to_be_visible()
            row = page.locator("#channels tbody tr")
            expect(row).to_contain_text("of runs tagged demo; only induction; confirmed changes; quiet 22:00 to 07:00")
            expect(page.locator("#channels")).not_to_contain_text("abc")
            page.get_by_role("button", name="Send a test to our chat").click()
            expect(row).to_contain_text("delivered (204)")
            assert len(receiver.received) == 1
            receiver.answers[:] = [(500, {})]
            page.get_by_role("button", name="Send a test to our chat").click()
            expect(row).to_contain_text("refused (500)")
            old = secret.inner_text()
            page.get_by_role("button", name="New secret for our chat").click()
            page.get_by_role("button", name="New secret for our chat").click()
            expect(secret).not_to_have_text(old)
            page.get_by_role("button", name="Turn our chat off").click()
            expect(row).to_contain_text("off")
            [made] = get(watched, "/channels")
            assert (made["enabled"], made["rules"]["kinds"]) == (False, ["phase_change", "stale_run", "job_failed"])
            page.get_by_role("button", name="Delete our chat").click()
            page.get_by_role("button", name="Delete our chat").click()
            expect(page.locator("#channels")).to_contain_text("No channels")
        assert watched.errors == []

    def test_an_address_that_is_refused_is_told_at_its_field(self, browser: Browser, app: FastAPI) -> None:
        with visiting(browser, app) as watched:
            page = watched.open("/alerts")
            page.get_by_label("Name").fill("inside")
            page.get_by_label("Address").fill("http://127.0.0.1:9/hook")
            page.get_by_role("button", name="Create").click()
            expect(page.locator("#new-channel")).to_contain_text("127.0.0.1")
            expect(page.get_by_label("Name")).to_have_value("inside")
        assert all("422" in error for error in watched.errors)

    def test_what_was_sent_is_followed_and_sent_again(
        self, browser: Browser, private: FastAPI, database: Database, run: UUID
    ) -> None:
        alert = failed_alert(database, run)
        with visiting(browser, private) as watched:
            page = watched.open("/alerts?state=failed")
            row = page.locator("#alerts tbody tr")
            expect(row).to_contain_text("The run diverges")
            expect(row.get_by_role("link", name="two layers")).to_have_attribute("href", f"/runs/{run}")
            row.locator("summary", has_text="1 attempt").click()
            expect(row.locator("li")).to_contain_text("unreachable in 12 ms: nobody listens")
            page.get_by_role("button", name=f"Send alert {alert} again").click()
            expect(page.locator("#alerts")).to_contain_text("No alert is like this.")
            page.get_by_label("State").select_option("waiting")
            expect(row).to_contain_text("The run diverges")
            assert get(watched, f"/alerts/{alert}")["state"] == "waiting"
        assert watched.errors == []


@pytest.fixture
def private(database: Database, artifacts: Artifacts) -> FastAPI:
    """The service where alerts may go to this machine."""
    return make_app(database, artifacts, allow_private_webhooks=True, secret_key="k" * 32)


def failed_alert(database: Database, run: UUID) -> int:
    """An alert that one channel was to be told of and could not be."""
    with database.transaction() as session:
        rules = Rules().model_dump(mode="json")
        session.add(Channel(name="our chat", kind="webhook", address="https://chat", url="", rules=rules, enabled=True))
        session.flush()
        assert raise_alert(session, Occurrence("divergence", run, "key", "The run diverges")) == 1
        [alert] = session.scalars(select(Alert)).all()
        alert.state, alert.attempts = "failed", 1
        attempt = {"attempt": 1, "time": utc_now(), "outcome": "unreachable", "took_ms": 12.0}
        session.add(Delivery(alert_id=alert.id, detail="nobody listens", **attempt))
        return alert.id


class TestTokens:
    def test_the_first_one_closes_the_door_and_is_shown_once(self, browser: Browser, app: FastAPI) -> None:
        with visiting(browser, app, permissions=["clipboard-read", "clipboard-write"]) as watched:
            page = watched.open("/tokens")
            expect(page.locator("#tokens")).to_contain_text("No tokens")
            make_token(page, "mine", "admin")
            shown = page.locator("#shown code")
            expect(shown).to_contain_text("pw_")
            token = shown.inner_text()
            page.get_by_role("button", name="Copy").click()
            expect(page.locator("#said")).to_have_text("Copied.")
            assert page.evaluate("navigator.clipboard.readText()") == token
            expect(page.locator("#who-name")).to_have_text("mine (admin)")
            make_token(page, "reader", "read")
            row = page.locator("#tokens tbody tr", has_text="reader")
            expect(row).to_contain_text("by mine")
            page.get_by_role("button", name="Revoke reader").click()
            page.get_by_role("button", name="Revoke reader").click()
            expect(row).to_have_count(0)
            page.get_by_label("Show revoked ones too").check()
            expect(row).to_contain_text("revoked")
            page.reload()
            expect(row).to_contain_text("revoked")
            expect(page.locator("#shown")).to_be_hidden()
            assert token not in page.content()
            asked = httpx.get(f"{watched.base}/api/v1/tokens", headers={"Authorization": f"Bearer {token}"}).json()
            assert [one["name"] for one in asked["items"]] == ["mine"]
        assert watched.errors == []

    def test_a_name_that_is_missing_is_told_at_its_field(self, visit: Watched) -> None:
        page = visit.open("/tokens")
        page.get_by_role("button", name="Create").click()
        expect(page.get_by_label("Name")).to_be_focused()
        expect(page.locator("#field-name-wrong")).not_to_be_empty()


def make_token(page: Page, name: str, scope: str) -> None:
    """Fills the form of a token."""
    page.get_by_label("Name").fill(name)
    page.get_by_label("Scope").select_option(scope)
    page.get_by_role("button", name="Create").click()


class TestSettings:
    def test_settings_findings_and_who_changed_what(self, browser: Browser, app: FastAPI) -> None:
        with visiting(browser, app) as watched:
            httpx.post(f"{watched.base}/api/v1/runs", json={"name": "from outside"}).raise_for_status()
            page = watched.open("/settings")
            row = page.locator("#settings tbody tr", has_text="PHASEWATCH_ADMIN_TOKEN").first
            expect(row).to_contain_text("not set")
            expect(page.locator("#version")).to_contain_text("schema 0004")
            page.get_by_role("button", name="Look it over").click()
            expect(page.locator("#findings tbody tr", has_text="scheduler")).to_contain_text("none has ever ticked")
            expect(page.locator("#verdict")).to_contain_text("not well")
            entry = page.locator("#audit tbody tr")
            expect(entry).to_contain_text("POST /api/v1/runs")
            page.get_by_label("Method").select_option("DELETE")
            expect(page.locator("#audit")).to_contain_text("No write like this")
            assert page.url.endswith("?method=DELETE")
        assert watched.errors == []


PAGES = ("/monitors?monitor=1", "/jobs", "/alerts", "/tokens", "/settings")


@pytest.mark.parametrize("screen", SCREENS)
def test_they_are_accessible_and_fit(
    browser: Browser, app: FastAPI, database: Database, jobs: dict[str, int], screen: str
) -> None:
    failed_alert(database, get_run_id(database))
    with visiting(browser, app, **SCREENS[screen]) as watched:
        for address in PAGES:
            page = watched.open(address)
            expect(page.locator("#live")).to_be_visible()
            expect(page.locator("#content table").first).to_be_attached()
            watched.check_accessible()
            watched.check_fits()
    assert watched.errors == []


def get_run_id(database: Database) -> UUID:
    """The recorded run."""
    with database.reading() as session:
        return session.scalars(select(Run.id)).one()


def test_who_may_only_read_is_offered_nothing_else(
    browser: Browser, database: Database, artifacts: Artifacts, run: UUID
) -> None:
    token = new_token()
    with database.transaction() as session:
        put_token(session, token, name="reader", scope="read")
    with visiting(browser, make_app(database, artifacts)) as watched:
        page = watched.open("/monitors")
        page.get_by_label("This server asks for a token.").fill(token)
        page.get_by_role("button", name="Sign in").click()
        expect(page.get_by_role("button", name="History of score every checkpoint")).to_be_visible()
        expect(page.get_by_role("button", name="Fire")).to_have_count(0)
        expect(page.locator("#new-monitor")).to_be_hidden()
        watched.open("/tokens")
        expect(page.locator("#only-admins")).to_be_visible()
        watched.open("/settings")
        expect(page.locator("#only-admins")).to_be_visible()
    assert all("401" in error for error in watched.errors)
