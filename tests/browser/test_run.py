"""A run's page in a browser: its curves where the data is, one step axis for all, live, saved as PNG, SVG and CSV."""

from __future__ import annotations

import csv
import io
import math
import re
from pathlib import Path
from uuid import UUID
from xml.etree import ElementTree

import numpy as np
import pytest
from playwright.sync_api import Page, expect

from phasewatch.storage.database import Database
from phasewatch.storage.measurements import StoredMeasurement, put_measurements
from phasewatch.storage.phase_changes import store_scan
from phasewatch.storage.runs import get_run, open_segment
from tests.browser.plots import color_at, plot_box, step_to_x
from tests.browser.recorded_run import EARLY, INDUCTION, STEPS, icl_score, losses_at, record_step, training_loss
from tests.browser.watched import Watched

DRAWN = "body[data-drawn]"


def drawn(visit: Watched, run: UUID, query: str = "") -> Page:
    """The run's page, with everything on it."""
    page = visit.open(f"/runs/{run}{query}")
    page.wait_for_selector(DRAWN)
    return page


def test_the_changes_are_told_first_and_lead_to_their_pages(visit: Watched, run: UUID) -> None:
    page = drawn(visit, run)
    items = page.locator("#changes li")
    expect(items).to_have_count(3)
    expect(items.nth(0)).to_contain_text("Induction heads form")
    expect(items.nth(0)).to_contain_text("steps 170 to 400, L1H0")
    expect(items.nth(1)).to_contain_text("Mean loss falls")
    expect(page.locator("#facts")).to_contain_text("demo")
    change = items.nth(0).get_attribute("data-change")
    expect(items.nth(0).get_by_role("link")).to_have_attribute("href", f"/changes/{change}")
    expect(page.get_by_role("link", name="Tokens", exact=True)).to_have_attribute("href", f"/runs/{run}/tokens")


@pytest.mark.parametrize("scale", ["log", "linear"])
def test_the_bands_lie_where_the_changes_are(visit: Watched, run: UUID, scale: str) -> None:
    page = drawn(visit, run, f"?scale={scale}")
    figure = page.locator("#icl")
    _, top, _, height = plot_box(figure)
    low = top + height - 3  # below the curve and its interval

    def colors(step: float) -> tuple[int, int, int, int]:
        return color_at(figure, step_to_x(figure, step, STEPS, scale=scale), low)

    assert colors(120)[3] == 0  # nothing before the band and its interval
    assert colors(650)[3] == 0
    inside, fringe = colors(200), colors((INDUCTION.start_interval or (0, 0))[0] + 8)
    assert inside[0] - inside[1] > 20  # pink: more red than green
    assert 0 < fringe[3] < inside[3]  # paler over the interval of its start
    for edge, step in (("left", INDUCTION.start_step), ("right", INDUCTION.end_step)):
        assert step is not None
        x, out = step_to_x(figure, step, STEPS, scale=scale), -1 if edge == "left" else 1
        assert color_at(figure, x - 2 * out, low)[3] > color_at(figure, x + 2 * out, low)[3]
    grey = colors(30)
    assert grey[3] > 0
    assert abs(grey[0] - grey[1]) < 20
    assert EARLY.end_step is not None
    assert colors(EARLY.end_step + 20)[3] == 0


def test_a_heat_map_is_bright_where_the_head_scores_are_high(visit: Watched, run: UUID) -> None:
    page = drawn(visit, run)
    figure = page.locator("#heads")

    def brightness(step: int, row: int) -> int:
        _, top, _, height = plot_box(figure)
        red, green, *_ = color_at(figure, step_to_x(figure, step, STEPS), top + (row + 0.5) * height / 4)
        return red + green

    assert brightness(690, 2) > 300  # layer 1 head 0 after the change: yellow
    assert max(brightness(70, 2), brightness(690, 0), brightness(690, 3)) < 150  # purple elsewhere
    expect(figure.locator(".summary")).to_contain_text("at step 700 L1H0 is highest")
    page.get_by_label("head score", exact=True).select_option("previous_token")
    expect(figure).to_contain_text("chance 0.020")
    assert brightness(690, 0) > 300
    assert "heads=previous_token" in page.url


def test_a_click_on_a_head_draws_its_curve_and_a_link_shows_the_same(visit: Watched, run: UUID) -> None:
    page = drawn(visit, run)
    figure = page.locator("#heads")
    figure.scroll_into_view_if_needed()
    _, top, _, height = plot_box(figure)
    canvas = figure.locator("canvas").first.bounding_box()
    assert canvas is not None
    x = canvas["x"] + step_to_x(figure, 600, STEPS)
    page.mouse.click(x, canvas["y"] + top + 2.5 * height / 4)
    expect(page.locator("#head h3")).to_have_text("L1H0, natural prefix matching")
    expect(page.locator("#head .summary")).to_contain_text("L1H0 rises from 0.0505 at step 0 to 0.55 at step 700")
    assert page.url.endswith("?head=L1H0")
    page.reload()
    expect(page.locator("#head h3")).to_have_text("L1H0, natural prefix matching")
    page.locator("#head").get_by_role("button", name="Close").click()
    expect(page.locator("#head")).to_be_hidden()


def test_a_drag_zooms_every_plot_and_the_address_keeps_it(visit: Watched, run: UUID) -> None:
    page = drawn(visit, run)
    page.locator("#loss .u-over").scroll_into_view_if_needed()
    box = page.locator("#loss .u-over").bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 0.5 * box["width"], box["y"] + 50)
    page.mouse.down()
    page.mouse.move(box["x"] + 0.7 * box["width"], box["y"] + 50)
    page.mouse.move(box["x"] + 0.9 * box["width"], box["y"] + 50)
    page.mouse.up()
    expect(page.locator("#axis output")).to_contain_text("steps")
    found = re.search(r"steps=(\d+)\.\.(\d+)", page.url)
    assert found is not None
    expected = [math.expm1(share * math.log1p(STEPS[-1])) for share in (0.5, 0.9)]
    assert [int(one) for one in found.groups()] == pytest.approx(expected, rel=0.03)
    _, top, _, height = plot_box(page.locator("#heads"))
    x = (
        60
        + (math.log1p(300) - math.log1p(expected[0]))
        / (math.log1p(expected[1]) - math.log1p(expected[0]))
        * (plot_box(page.locator("#heads"))[2])
    )
    red, green, *_ = color_at(page.locator("#heads"), x, top + 2.5 * height / 4)
    assert red + green > 200  # step 300 of the head that forms, where the zoomed axis has it
    page.get_by_role("button", name="Show everything").click()
    assert "steps=" not in page.url
    page.go_back()
    expect(page.get_by_role("button", name="Show everything")).to_be_visible()


def test_the_pointer_reads_the_same_checkpoint_off_every_plot(visit: Watched, run: UUID) -> None:
    page = drawn(visit, run)
    figure = page.locator("#icl")
    figure.scroll_into_view_if_needed()
    canvas = figure.locator("canvas").first.bounding_box()
    assert canvas is not None
    page.mouse.move(canvas["x"] + step_to_x(figure, 400, STEPS), canvas["y"] + 60)
    expect(figure.locator(".readout")).to_have_text(f"step 400: {icl_score(400):.4f} nats".replace("0 nats", " nats"))
    expect(page.locator("#loss .readout")).to_contain_text("step 400: held out (text)")
    expect(page.locator("#heads .readout")).to_contain_text("step 400")
    expect(page.locator("#trajectory .readout")).to_contain_text("step 400")


def test_a_plot_is_read_and_zoomed_by_keyboard(visit: Watched, run: UUID) -> None:
    page = drawn(visit, run)
    page.locator("#loss .lines").focus()
    page.keyboard.press("End")
    expect(page.locator("#loss .readout")).to_contain_text("step 700")
    page.keyboard.press("ArrowLeft")
    expect(page.locator("#loss .readout")).to_contain_text("step 675")
    page.keyboard.press("+")
    expect(page.get_by_role("button", name="Show everything")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("button", name="Show everything")).to_be_hidden()
    page.locator("#heads .heat").focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    expect(page.locator("#head h3")).to_contain_text("L1H0")


def test_the_axis_counts_tokens_where_they_are_known(visit: Watched, run: UUID) -> None:
    page = drawn(visit, run)
    page.get_by_role("button", name="tokens seen").click()
    page.get_by_role("button", name="linear").click()
    assert "by=tokens" in page.url
    expect(page.get_by_role("button", name="tokens seen")).to_have_attribute("aria-pressed", "true")
    figure = page.locator("#icl")
    _, top, _, height = plot_box(figure)
    x = step_to_x(figure, 275, STEPS, scale="linear")  # as many tokens a step throughout
    assert color_at(figure, x + 12, top + height - 3)[3] > 0
    assert color_at(figure, step_to_x(figure, 120, STEPS, scale="linear"), top + height - 3)[3] == 0


def test_loss_by_place_its_slope_and_the_path_are_drawn(visit: Watched, run: UUID) -> None:
    page = drawn(visit, run)
    profile = losses_at(700).mean(0)
    with page.expect_download() as saved:
        page.get_by_role("button", name="Slope of the loss along the context as CSV").click()
    rows = list(csv.reader(io.StringIO(Path(saved.value.path()).read_text())))
    assert rows[0][1] == "1"
    assert float(rows[-1][1]) == pytest.approx((profile[1] - profile[0]) / math.log(2), rel=1e-4)
    expect(page.locator("#trajectory .summary")).to_contain_text("256 of 256 tokens")
    for figure in ("#position", "#slope", "#trajectory"):
        assert page.locator(figure).locator("canvas").first.evaluate("(canvas) => canvas.width") > 300


def test_any_measure_can_be_chosen(visit: Watched, run: UUID, database: Database) -> None:
    page = drawn(visit, run)
    expect(page.locator("#measure")).to_be_hidden()
    with database.transaction() as session:
        for step in STEPS:
            values = {
                name: StoredMeasurement(1, np.array(level), None, np.array([level - 0.1, level + 0.1]))
                for name, level in (("token_group:closing", 3 - step / 1_000), ("token_group:after_self", 2.0))
            }
            put_measurements(session, run, step, values, source="recorder")
    expect(page.locator("#measure canvas").first).to_be_visible()
    page.get_by_label("measure", exact=True).select_option("token_group:closing")
    expect(page.locator("#measure .summary")).to_contain_text("falls from 3 at step 0 to 2.3 at step 700")
    assert "measure=token_group%3Aclosing" in page.url


def test_every_plot_is_saved_as_png_svg_and_csv(visit: Watched, run: UUID) -> None:
    page = drawn(visit, run, "?head=L1H0")
    figures = page.locator(".figure:visible")
    assert figures.count() == 7
    for figure in figures.all():
        saved = {}
        for form in ("PNG", "SVG", "CSV"):
            with page.expect_download() as download:
                figure.get_by_role("button", name=f"as {form}").click()
            saved[form] = Path(download.value.path()).read_bytes()
            assert download.value.suggested_filename.endswith(f".{form.lower()}")
        assert saved["PNG"].startswith(b"\x89PNG")
        picture = ElementTree.fromstring(saved["SVG"])
        words = [text.text for text in picture.iter("{http://www.w3.org/2000/svg}text")]
        assert figure.locator("h3").inner_text() in words
        rows = list(csv.reader(io.StringIO(saved["CSV"].decode())))
        assert rows[0][0] == "step"
        assert [int(row[0]) for row in rows[1:]] == STEPS


def test_the_csv_holds_what_was_recorded_and_gaps_stay_gaps(visit: Watched, run: UUID) -> None:
    page = drawn(visit, run)
    with page.expect_download() as download:
        page.get_by_role("button", name="Loss as CSV", exact=True).click()
    rows = list(csv.DictReader(io.StringIO(Path(download.value.path()).read_text())))
    assert [float(row["held out (text)"]) for row in rows] == pytest.approx([float(losses_at(s).mean()) for s in STEPS])
    assert rows[STEPS.index(4)]["training batch"] == ""
    assert float(rows[-1]["training batch"]) == pytest.approx(training_loss(700))
    page.locator("#loss summary").click()
    expect(page.locator("#loss table tbody tr")).to_have_count(len(STEPS))


def test_what_happens_appears_and_only_what_is_new_is_asked_for(visit: Watched, run: UUID, database: Database) -> None:
    page = drawn(visit, run)
    expect(page.locator("#live")).to_have_text("live")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    with database.transaction() as session:
        record_step(session, run, 800)
    expect(page.locator("#facts")).to_contain_text("step 800")
    expect(page.locator("#loss .summary")).to_contain_text("at step 800")
    expect(page.locator("#heads .summary")).to_contain_text("at step 800")
    expect(page.locator("#events li").first).to_contain_text("step 800")
    histories = [url for url in asked if re.search(r"/measures/|/means|/series", url)]
    assert histories
    assert all("after=7" in url for url in histories)
    with database.transaction() as session:
        store_scan(session, run, [EARLY], [*STEPS, 800], detector_version=2, ended=True, slice_name="text")
    expect(page.locator("#changes li")).to_have_count(1)


def test_a_resumed_run_is_asked_for_anew(visit: Watched, run: UUID, database: Database) -> None:
    page = drawn(visit, run)
    with database.transaction() as session:
        open_segment(session, run, 300)
        put_measurements(session, run, 300, {"icl_score": StoredMeasurement(1, np.array(0.25))}, source="recorder")
    expect(page.locator("#icl .summary")).to_contain_text("to 0.25 at step 300")


def test_without_the_event_stream_the_page_asks_every_ten_seconds(
    visit: Watched, run: UUID, database: Database
) -> None:
    visit.page.clock.install()
    visit.page.route("**/api/v1/events*", lambda route: route.fulfill(status=200, body=""))
    page = visit.open(f"/runs/{run}")
    expect(page.locator("#facts")).to_contain_text("step 700")
    with database.transaction() as session:
        record_step(session, run, 900)
    page.clock.run_for(12_000)
    expect(page.locator("#facts")).to_contain_text("step 900")


def test_a_run_is_paused_resumed_cancelled_and_tagged(visit: Watched, run: UUID, database: Database) -> None:
    page = drawn(visit, run)
    for action, status in (("Pause", "paused"), ("Resume", "running"), ("Cancel", "cancelled")):
        page.get_by_role("button", name=action).click()
        expect(page.locator("#facts .status")).to_have_text(status)
    expect(page.get_by_role("button", name="Pause")).to_be_hidden()
    page.get_by_placeholder("tags").fill("demo, Nice one ,demo")
    page.get_by_role("button", name="Tag", exact=True).click()
    expect(page.locator("#facts .tag")).to_have_text(["demo", "Nice one"])
    with database.reading() as session:
        found = get_run(session, run)
        assert (found.status, found.tags) == ("cancelled", ["demo", "Nice one"])
