"""The list of runs in a browser: what it shows of each, searched and sorted, live, and what to do without any."""

from __future__ import annotations

from uuid import UUID

from playwright.sync_api import Request, expect

from phasewatch.storage.database import Database
from phasewatch.storage.runs import edit_run
from tests.browser.recorded_run import STEPS, icl_score, losses_at, record_step
from tests.browser.watched import Watched
from tests.conftest import MakeRun

HOSTILE = "<img src=x onerror=\"throw 'markup'\"> & \u202ename"
ROWS = "#runs tbody tr"


def test_a_row_says_what_a_run_is_and_what_was_found(visit: Watched, run: UUID, make_run: MakeRun) -> None:
    make_run(name=HOSTILE)
    asked: list[str] = []
    visit.page.on("request", lambda request: note_api(asked, request))
    page = visit.open("/")
    expect(page.locator(ROWS)).to_have_count(2)
    expect(page.locator("#runs img")).to_have_count(0)
    expect(page.get_by_role("link", name=HOSTILE, exact=True)).to_be_visible()
    row = page.locator(ROWS, has=page.get_by_role("link", name="two layers"))
    loss = losses_at(STEPS[-1]).mean()
    for words in ("running", "700", "induction at step 275, 2 more", "demo", f"{icl_score(700):.1f}", f"{loss:.2f}"):
        expect(row).to_contain_text(words)
    expect(row.get_by_role("img", name="loss of two layers from step 0 to 700")).to_be_visible()
    assert sum("/api/v1/runs" in one for one in asked) == 1  # however many rows there are
    page.get_by_role("link", name="two layers").click()
    expect(page.locator("h1")).to_have_text("two layers")
    assert page.url == f"{visit.base}/runs/{run}"


def note_api(asked: list[str], request: Request) -> None:
    """Remembers what was asked of the API."""
    if "/api/v1/" in request.url:
        asked.append(request.url)


def test_an_empty_list_says_what_to_do(visit: Watched) -> None:
    page = visit.open("/")
    expect(page.locator("#empty")).to_contain_text("phasewatch train")
    expect(page.locator("#empty")).to_contain_text(visit.base)
    expect(page.locator("#runs")).to_be_hidden()
    expect(page.locator("#tools")).to_be_hidden()
    visit.check_accessible()


def test_a_search_a_tag_and_a_sort_lie_in_the_address(visit: Watched, run: UUID, make_run: MakeRun) -> None:
    make_run(name="another", tags=("first",))
    make_run(name="zebra", tags=("first",))
    page = visit.open("/")
    names = page.locator(f"{ROWS} td:first-child > a")
    expect(names).to_have_text(["zebra", "another", "two layers"])
    page.get_by_label("sorted by").select_option("name")
    expect(names).to_have_text(["another", "two layers", "zebra"])
    page.get_by_placeholder("Search").fill("LAYER")
    expect(names).to_have_text(["two layers"])
    assert page.url == f"{visit.base}/?sort=name&q=LAYER"
    page.get_by_placeholder("Search").fill("nothing like this")
    expect(page.locator("#none")).to_be_visible()
    page.get_by_role("link", name="Show all runs").click()
    page.get_by_role("link", name="first").first.click()
    expect(names).to_have_text(["zebra", "another"])
    page.get_by_label("Status", exact=True).select_option("failed")
    expect(names).to_have_count(0)
    page.go_back()
    expect(names).to_have_text(["zebra", "another"])
    page.reload()
    expect(page.get_by_label("Tag", exact=True)).to_have_value("first")
    expect(names).to_have_text(["zebra", "another"])


def test_what_happens_appears_without_a_reload(
    visit: Watched, run: UUID, database: Database, make_run: MakeRun
) -> None:
    page = visit.open("/")
    expect(page.locator("#live")).to_have_text("live")
    expect(page.locator(ROWS)).to_have_count(1)
    page.evaluate("window.untouched = document.querySelector('#runs tbody tr')")
    make_run(name="newcomer")
    expect(page.locator(ROWS)).to_have_count(2)
    assert page.evaluate("untouched.isConnected")  # a row that says the same is left alone
    with database.transaction() as session:
        record_step(session, run, 800)
        edit_run(session, run, status="failed", failure="out of memory")
    row = page.locator(ROWS, has=page.get_by_role("link", name="two layers"))
    expect(row).to_contain_text("800")
    expect(row).to_contain_text("failed")


def test_older_runs_come_when_asked_for(visit: Watched, run: UUID, make_run: MakeRun) -> None:
    for number in range(51):
        make_run(name=f"run {number}")
    page = visit.open("/")
    expect(page.locator(ROWS)).to_have_count(50)
    page.get_by_role("button", name="Older runs").click()
    expect(page.locator(ROWS)).to_have_count(52)
    expect(page.get_by_role("button", name="Older runs")).to_be_hidden()
