"""The pages in a real Chromium against a real server: what they show lies where the data says, and nothing else loads.

Every test fails on an error in the console and on a request to another host.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from uuid import UUID

import numpy as np
import pytest
from fastapi import FastAPI
from playwright.sync_api import Browser, Locator, expect

from phasewatch.storage.artifacts import Artifacts
from phasewatch.storage.database import Database
from phasewatch.storage.measurements import StoredMeasurement, put_measurements
from phasewatch.storage.phase_changes import store_scan
from tests.browser.recorded_run import CHANGES, EARLY, INDUCTION, STEPS, record_step
from tests.browser.watched import Watched, visiting
from tests.conftest import MakeRun
from tests.server.conftest import make_app

HOSTILE = "<img src=x onerror=\"throw 'markup'\"> & \u202ename"


def step_to_x(figure: Locator) -> Callable[[int], float]:
    """Where a step lies on the screen, read off the first and the last tick of a plot's axis."""
    ticks = figure.locator("path[data-step]")
    found = []
    for tick in (ticks.first, ticks.last):
        box = tick.bounding_box()
        step = tick.get_attribute("data-step")
        assert box is not None
        assert step is not None
        found.append((math.log(1 + int(step)), box["x"] + box["width"] / 2))
    (u0, x0), (u1, x1) = found
    return lambda step: x0 + (math.log(1 + step) - u0) / (u1 - u0) * (x1 - x0)


def test_the_list_links_each_run_by_its_name(visit: Watched, run: UUID, make_run: MakeRun) -> None:
    make_run(name=HOSTILE)
    page = visit.open("/")
    expect(page.locator("#runs tbody tr")).to_have_count(2)
    expect(page.locator("#runs img")).to_have_count(0)
    expect(page.get_by_role("link", name=HOSTILE, exact=True)).to_be_visible()
    row = page.locator("#runs tr", has=page.get_by_role("link", name="two layers"))
    expect(row).to_contain_text("running")
    expect(row).to_contain_text("700")
    expect(row).to_contain_text("induction at step 275, 2 more")
    page.get_by_role("link", name="two layers").click()
    expect(page.locator("h1")).to_have_text("two layers")
    assert page.url == f"{visit.base}/runs/{run}"


def test_an_empty_list_says_what_to_do(visit: Watched) -> None:
    page = visit.open("/")
    expect(page.locator("#empty")).to_contain_text("phasewatch train")
    expect(page.locator("#runs")).to_be_hidden()


@pytest.mark.parametrize("figure", ["#loss", "#icl", "#heads"])
def test_the_bands_lie_where_the_changes_are(visit: Watched, run: UUID, figure: str) -> None:
    page = visit.open(f"/runs/{run}")
    plot = page.locator(figure)
    bands = plot.locator("rect.band")
    expect(bands).to_have_count(3)
    x = step_to_x(plot)
    for band, change in zip(bands.all(), sorted(CHANGES, key=lambda one: one.step), strict=True):
        box = band.bounding_box()
        assert box is not None
        assert change.end_step is not None
        assert box["x"] == pytest.approx(x(change.start_step), abs=1.5)
        assert box["x"] + box["width"] == pytest.approx(x(change.end_step), abs=1.5)
        assert box["height"] > 50
    assert "induction" in str(bands.nth(2).get_attribute("class"))
    middle = plot.locator("line.middle").nth(2).bounding_box()
    assert middle is not None
    assert middle["x"] == pytest.approx(x(INDUCTION.step), abs=1.5)


def test_the_changes_are_told_in_sentences(visit: Watched, run: UUID) -> None:
    page = visit.open(f"/runs/{run}")
    items = page.locator("#changes li")
    expect(items).to_have_count(3)
    expect(items.nth(0)).to_contain_text("mean_loss:text falls by 2 nats")
    expect(items.nth(2)).to_contain_text("Induction heads form.")
    expect(items.nth(2)).to_contain_text("layer 1 head 0")
    expect(page.locator("#facts")).to_contain_text("#demo")


def test_the_heat_map_is_bright_where_the_head_scores_are_high(visit: Watched, run: UUID) -> None:
    page = visit.open(f"/runs/{run}")
    page.locator("#heads canvas").wait_for()

    def brightness(step: int, row: int) -> int:
        share = math.log(1 + step) / math.log(1 + STEPS[-1])
        return int(
            page.evaluate(
                """([share, row]) => {
                  const canvas = document.querySelector("#heads canvas");
                  const at = Math.min(Math.floor(share * canvas.width), canvas.width - 1);
                  const [red, green] = canvas.getContext("2d").getImageData(at, row, 1, 1).data;
                  return red + green;
                }""",
                [share, row],
            )
        )

    assert brightness(650, 2) > 300  # layer 1 head 0 after the change: yellow
    assert max(brightness(64, 2), brightness(650, 0), brightness(650, 3)) < 150  # purple elsewhere
    page.locator("#measure").select_option("previous_token")
    expect(page.locator("#heads")).to_contain_text("chance 0.020")
    assert brightness(650, 0) > 300


def test_a_token_group_is_drawn_once_there_is_one(visit: Watched, run: UUID, database: Database) -> None:
    page = visit.open(f"/runs/{run}")
    expect(page.locator("#icl svg")).to_be_visible()
    expect(page.locator("#groups")).to_be_hidden()
    with database.transaction() as session:
        for step in STEPS:
            values = {
                name: StoredMeasurement(1, np.array(level), None, np.array([level - 0.1, level + 0.1]))
                for name, level in (("token_group:closing", 3 - step / 1_000), ("token_group:after_self", 2.0))
            }
            put_measurements(session, run, step, values, source="recorder")
    expect(page.locator("#groups svg")).to_be_visible()
    expect(page.locator("#group option")).to_have_text(["after self", "closing"])
    page.locator("#group").select_option("token_group:closing")
    expect(page.locator("#groups path.line.first")).to_have_count(1)
    expect(page.locator("#group")).to_have_value("token_group:closing")


def test_a_curve_has_a_gap_where_a_value_is_not_finite(visit: Watched, run: UUID) -> None:
    page = visit.open(f"/runs/{run}")
    curve = page.locator('#loss path[data-line="training batch"]').get_attribute("d")
    held_out = page.locator('#loss path[data-line="held out (text)"]').get_attribute("d")
    assert str(curve).count("M") == 2
    assert str(held_out).count("M") == 1
    assert "NaN" not in str(curve)


def test_the_pointer_reads_values_off_a_curve(visit: Watched, run: UUID) -> None:
    page = visit.open(f"/runs/{run}")
    plot = page.locator("#icl svg")
    plot.scroll_into_view_if_needed()
    box = plot.bounding_box()
    assert box is not None
    page.mouse.move(step_to_x(page.locator("#icl"))(400), box["y"] + 50)
    value = -0.4 / (1 + math.exp(-(400 - 275) / 40))
    expect(page.locator("#icl .readout")).to_have_text(f"step 400: score {value:.3f} nats")
    page.locator("#measure").dispatch_event("change")  # a redraw, as every event brings one
    page.wait_for_timeout(300)
    expect(page.locator("#icl .readout")).to_have_text(f"step 400: score {value:.3f} nats")


def test_what_happens_appears_without_a_reload(
    visit: Watched, run: UUID, database: Database, make_run: MakeRun
) -> None:
    page = visit.open(f"/runs/{run}")
    expect(page.locator("#changes li")).to_have_count(3)
    expect(page.locator("#live")).to_have_text("live")
    page.evaluate("window.untouched = true")
    with database.transaction() as session:
        record_step(session, run, 800)
    expect(page.locator("#facts")).to_contain_text("step 800")
    with database.transaction() as session:
        store_scan(session, run, [EARLY], [*STEPS, 800], detector_version=1, ended=True, slice_name="text")
    expect(page.locator("#changes li")).to_have_count(1)
    expect(page.locator("#loss rect.band")).to_have_count(1)
    assert page.evaluate("window.untouched")


def test_without_the_event_stream_the_page_asks_every_ten_seconds(
    visit: Watched, run: UUID, database: Database
) -> None:
    visit.page.clock.install()
    visit.page.route("**/api/v1/events*", lambda route: route.fulfill(status=200, body=""))
    page = visit.open(f"/runs/{run}")
    expect(page.locator("#facts")).to_contain_text("step 700")
    with database.transaction() as session:
        record_step(session, run, 900)
    page.clock.run_for(11_000)
    expect(page.locator("#facts")).to_contain_text("step 900")


def test_a_narrow_dark_screen_shows_everything_without_scrolling_sideways(
    browser: Browser, app: FastAPI, run: UUID
) -> None:
    with visiting(browser, app, viewport={"width": 360, "height": 700}, color_scheme="dark") as watched:
        page = watched.open(f"/runs/{run}")
        page.locator("#heads canvas").wait_for()
        assert page.evaluate("document.scrollingElement.scrollWidth") <= 360
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(15, 20, 26)"
        box = page.locator("#loss svg").bounding_box()
        assert box is not None
        assert box["width"] > 300
    assert watched.errors == []


def test_an_unknown_run_is_told_in_words(browser: Browser, app: FastAPI) -> None:
    with visiting(browser, app) as watched:
        page = watched.open(f"/runs/{UUID(int=7)}")
        expect(page.locator("#problem")).to_contain_text("does not exist")
    assert watched.errors
    assert all("404" in error for error in watched.errors)


def test_a_server_with_tokens_asks_for_one_and_keeps_it_for_the_visit(
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
    assert all("401" in error for error in watched.errors)


def test_the_api_s_page_opens(visit: Watched) -> None:
    page = visit.open("/docs")
    expect(page.locator("h1")).to_contain_text("API")
    assert page.locator("tbody tr").count() > 30
