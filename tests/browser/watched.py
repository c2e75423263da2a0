"""A page in a real Chromium, watched: whatever goes wrong on it is remembered, and a test fails on it.

Wrong is: an error in the console (a broken Content-Security-Policy among them), an exception, a dialog, a request to
another host, and what axe-core calls serious or critical.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from axe_playwright_python.sync_playwright import Axe
from fastapi import FastAPI
from playwright.sync_api import Browser, ConsoleMessage, Locator, Page, Request

from tests.server.conftest import serving

FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
).split()
SCREENS: dict[str, dict[str, Any]] = {
    "light": {"color_scheme": "light"},
    "dark": {"color_scheme": "dark"},
    "narrow": {"viewport": {"width": 360, "height": 740}},
}
"""Options of `visiting` that every page is looked at with."""


@dataclass
class Watched:
    """A page, and what went wrong on it."""

    page: Page
    base: str
    errors: list[str] = field(default_factory=list)

    def note_console(self, message: ConsoleMessage) -> None:
        """Remembers what the console shows as an error, a broken content policy included."""
        if message.type == "error" or "Content Security Policy" in message.text:
            self.errors.append(message.text)

    def note_request(self, request: Request) -> None:
        """Remembers a request to another host."""
        if not request.url.startswith((self.base, "blob:" + self.base)):
            self.errors.append(f"foreign {request.url}")

    def open(self, path: str) -> Page:
        """Goes to an address of the server."""
        self.page.goto(self.base + path)
        return self.page

    def check_accessible(self) -> None:
        """Fails where axe-core finds anything serious or critical on the page as it is."""
        found = Axe().run(self.page).response["violations"]
        grave = [
            f"{one['id']}: {[node['html'][:200] for node in one['nodes']]}"
            for one in found
            if one["impact"] in ("serious", "critical")
        ]
        assert grave == []

    def check_fits(self) -> None:
        """Fails where the page scrolls sideways."""
        sizes = self.page.evaluate("[document.scrollingElement.scrollWidth, innerWidth]")
        assert sizes[0] <= sizes[1]


def cells_of(rows: Locator) -> list[list[str]]:
    """The text of every cell of some rows of a table."""
    found: list[list[str]] = rows.evaluate_all(
        "rows => rows.map((row) => [...row.cells].map((cell) => cell.textContent))"
    )
    return found


@contextmanager
def visiting(browser: Browser, app: FastAPI, **options: Any) -> Iterator[Watched]:
    """A fresh page at a real server; options are Playwright's of a new context."""
    with serving(app) as base:
        context = browser.new_context(locale="en-GB", **options)
        watched = Watched(context.new_page(), base)
        page = watched.page
        page.set_default_timeout(20_000)
        page.on("console", watched.note_console)
        page.on("request", watched.note_request)
        page.on("pageerror", lambda error: watched.errors.append(str(error)))
        page.on("dialog", lambda dialog: watched.errors.append(f"dialog {dialog.message}"))
        yield watched
        context.close()
