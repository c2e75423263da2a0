"""A run's report opened from the disk, as who was sent it opens it: nothing loads, everything shows, on paper too."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from fastapi import FastAPI
from playwright.sync_api import Browser, expect

from phasewatch.client import Client
from phasewatch.report.run import read_run
from phasewatch.report.run_files import write_report
from tests.browser.recorded_run import INDUCTION
from tests.browser.watched import SCREENS, Watched
from tests.server.conftest import serving


@pytest.fixture
def report(app: FastAPI, run: UUID, tmp_path: Path) -> Path:
    """The file."""
    path = tmp_path / "report.html"
    with serving(app) as url, Client(url) as client:
        write_report(read_run(client, str(run)), path)
    return path


@contextmanager
def reading(browser: Browser, file: Path, **options: Any) -> Iterator[Watched]:
    """The file in a fresh page without scripts, which has no server at all."""
    context = browser.new_context(offline=True, **options)
    watched = Watched(context.new_page(), file.as_uri())
    watched.page.on("console", watched.note_console)
    watched.page.on("request", watched.note_request)
    watched.page.goto(file.as_uri())
    yield watched
    context.close()


@pytest.mark.parametrize("screen", SCREENS)
def test_it_opens_offline_accessible_and_fitting_the_screen(browser: Browser, report: Path, screen: str) -> None:
    with reading(browser, report, **SCREENS[screen]) as watched:
        expect(watched.page.locator("#verdict .headline").first).to_contain_text(
            f"An induction change, from step {INDUCTION.start_step}"
        )
        watched.check_fits()
        watched.check_accessible()
    assert watched.errors == []


def test_its_pictures_follow_light_and_dark(browser: Browser, report: Path) -> None:
    def ink_and_ground(scheme: str) -> tuple[str, str]:
        with reading(browser, report, color_scheme=scheme) as watched:
            ink = watched.page.locator("#curves svg text, #curves svg path[style*='currentColor'], #curves svg").first
            color = ink.evaluate("node => getComputedStyle(node).color")
            return color, watched.page.evaluate("getComputedStyle(document.body).backgroundColor")

    assert ink_and_ground("light") == ("rgb(27, 36, 48)", "rgb(255, 255, 255)")
    assert ink_and_ground("dark") == ("rgb(230, 234, 239)", "rgb(18, 23, 29)")


def test_on_paper_it_is_black_on_white_with_nothing_cut_off(browser: Browser, report: Path) -> None:
    with reading(browser, report, color_scheme="dark") as watched:
        page = watched.page
        page.emulate_media(media="print", color_scheme="dark")
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        assert page.evaluate("getComputedStyle(document.body).color") == "rgb(0, 0, 0)"
        hidden = page.evaluate(
            """[...document.querySelectorAll(".wide, pre")].filter((box) =>
                getComputedStyle(box).overflowX === "auto" && box.scrollWidth > box.clientWidth).length"""
        )
        assert hidden == 0
        assert page.pdf(format="A4").startswith(b"%PDF")
    assert watched.errors == []
