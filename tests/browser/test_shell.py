"""What every page has around it: navigation, keyboard, light and dark, signing in, and help when things go wrong."""

from __future__ import annotations

from uuid import UUID

import pytest
from fastapi import FastAPI
from playwright.sync_api import Browser, expect

from phasewatch.storage.artifacts import Artifacts
from phasewatch.storage.database import Database
from tests.browser.watched import SCREENS, Watched, visiting
from tests.server.conftest import make_app


def test_the_navigation_leads_to_every_page_and_says_where_one_is(visit: Watched) -> None:
    page = visit.open("/")
    links = page.get_by_role("navigation", name="Main").get_by_role("link")
    for name in links.all_inner_texts():
        page.get_by_role("navigation", name="Main").get_by_role("link", name=name, exact=True).click()
        expect(page.locator("nav [aria-current]")).to_have_text(name)
        expect(page.locator("h1")).to_be_visible()


def test_the_keyboard_comes_to_the_content_first(visit: Watched) -> None:
    page = visit.open("/")
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    page.keyboard.press("Enter")
    assert page.evaluate("location.hash") == "#content"


def test_light_and_dark_follow_the_system_until_one_is_chosen_and_the_choice_is_kept(
    browser: Browser, app: FastAPI
) -> None:
    def ground() -> str:
        return str(page.evaluate("getComputedStyle(document.body).backgroundColor"))

    light, dark = "rgb(251, 252, 253)", "rgb(15, 20, 26)"
    with visiting(browser, app, color_scheme="dark") as watched:
        page = watched.open("/")
        assert ground() == dark
        page.emulate_media(color_scheme="light")
        page.wait_for_selector("html[data-theme=light]")
        assert ground() == light
        page.get_by_role("button", name="Light or dark").click()
        assert ground() == dark
        page.reload()
        assert ground() == dark
    assert watched.errors == []


def test_an_unknown_run_is_told_in_words(browser: Browser, app: FastAPI) -> None:
    with visiting(browser, app) as watched:
        page = watched.open(f"/runs/{UUID(int=7)}")
        expect(page.locator("#problem")).to_contain_text("does not exist")
    assert watched.errors
    assert all("404" in error for error in watched.errors)


def test_a_server_with_tokens_asks_for_one_and_keeps_it_from_scripts(
    browser: Browser, database: Database, artifacts: Artifacts, run: UUID
) -> None:
    with visiting(browser, make_app(database, artifacts, admin_token="right")) as watched:
        page = watched.open("/")
        field = page.get_by_label("This server asks for a token.")
        expect(field).to_be_visible()
        field.fill("wrong")
        page.get_by_role("button", name="Sign in").click()
        expect(page.locator("#problem")).to_contain_text("not valid")
        field.fill("right")
        page.get_by_role("button", name="Sign in").click()
        page.get_by_role("link", name="two layers").click()
        expect(page.locator("#changes li")).to_have_count(3)
        expect(page.locator("#live")).to_have_text("live")
        kept = page.evaluate("JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie])")
        assert "right" not in kept
        page.get_by_role("button", name="Pause").click()  # a write, which needs the session's second word
        expect(page.locator("#facts")).to_contain_text("paused")
        page.get_by_role("button", name="Sign out").click()
        expect(page.get_by_label("This server asks for a token.")).to_be_visible()
    assert all("401" in error for error in watched.errors)


def test_the_api_s_page_opens(visit: Watched) -> None:
    page = visit.open("/docs")
    expect(page.locator("h1")).to_contain_text("API")
    assert page.locator("tbody tr").count() > 30
    visit.check_accessible()


@pytest.mark.parametrize("screen", SCREENS)
def test_the_pages_of_runs_are_accessible_and_fit(browser: Browser, app: FastAPI, run: UUID, screen: str) -> None:
    with visiting(browser, app, **SCREENS[screen]) as watched:
        page = watched.open("/")
        expect(page.locator("#runs tbody tr")).to_have_count(1)
        watched.check_accessible()
        watched.check_fits()
        page.goto(f"{watched.base}/runs/{run}?head=L1H0")
        page.wait_for_selector("body[data-drawn]")
        page.locator("#icl summary").click()
        watched.check_accessible()
        watched.check_fits()
    assert watched.errors == []
