"""The pages as they leave the server: shells without data, nothing inline, nothing from elsewhere."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from uuid import UUID, uuid4

import pytest
from fastapi.testclient import TestClient

from phasewatch.storage.database import Database
from server.headers import SECURITY_HEADERS
from server.routes.pages import WEB

ONE = UUID(int=7)
PAGES = (
    "/",
    f"/runs/{ONE}",
    f"/runs/{ONE}/tokens",
    f"/changes/{ONE}",
    "/compare",
    "/monitors",
    "/jobs",
    "/alerts",
    "/tokens",
    "/settings",
    "/docs",
)


class _Elements(HTMLParser):
    """Every element of a page with its attributes, and the text inside scripts and styles."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.inline = ""
        self._inside = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        self._inside = tag

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside in ("script", "style"):
            self.inline += data.strip()


@pytest.mark.parametrize("path", PAGES)
def test_a_page_has_nothing_inline_and_nothing_from_elsewhere(
    sqlite_database: Database, sqlite_client: TestClient, path: str
) -> None:
    answer = sqlite_client.get(path)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    page = _Elements(answer.text)
    assert page.inline == ""
    links = [attributes.get(name) for _, attributes in page.found for name in ("src", "href") if name in attributes]
    assert links
    for link in links:
        assert link is not None
        assert link.startswith(("/", "#"))
        assert link.startswith("#") or sqlite_client.get(link).status_code == 200
    for _, attributes in page.found:
        assert not any(name.startswith("on") or name == "style" for name in attributes)


@pytest.mark.parametrize("path", [*PAGES, "/static/pages/run.js", "/api/v1/runs", "/api/v1/nothing"])
def test_every_answer_carries_the_headers_that_keep_others_out(
    sqlite_database: Database, sqlite_client: TestClient, path: str
) -> None:
    headers = sqlite_client.get(path).headers
    assert {name: headers[name] for name in SECURITY_HEADERS} == SECURITY_HEADERS
    assert "unsafe" not in headers["Content-Security-Policy"]


def test_the_page_of_a_run_names_it_for_its_script(sqlite_database: Database, sqlite_client: TestClient) -> None:
    run = uuid4()
    assert f'data-run="{run}"' in sqlite_client.get(f"/runs/{run}").text
    assert sqlite_client.get('/runs/"><script>').status_code == 422


def test_the_shell_holds_no_data(sqlite_database: Database, sqlite_client: TestClient, run: UUID) -> None:
    run_name = sqlite_client.post("/api/v1/runs", json={"name": "a very particular name"}).json()["name"]
    assert run_name not in sqlite_client.get("/").text


def test_the_api_s_page_lists_every_route(sqlite_database: Database, sqlite_client: TestClient) -> None:
    text = sqlite_client.get("/docs").text
    for path, methods in sqlite_client.get("/openapi.json").json()["paths"].items():
        for method in methods:
            assert f"<code>{method.upper()} {path}</code>" in text


def test_files_beside_the_static_ones_are_not_served(sqlite_database: Database, sqlite_client: TestClient) -> None:
    for path in ("/static/../app.py", "/static/%2e%2e/app.py", "/static/..%2ftemplates/base.html", "/static/"):
        assert sqlite_client.get(path).status_code == 404


def test_the_scripts_write_text_and_never_markup() -> None:
    for script in (WEB / "static").rglob("*.js"):
        if "vendor" in script.parts:
            continue
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b", script.read_text())
