"""The page that sets runs beside one another: choosing them, its pictures and its tables, against what the API says."""

from __future__ import annotations

from uuid import UUID

import pytest
from fastapi import FastAPI
from playwright.sync_api import Browser, Locator, expect

from phasewatch.storage.database import Database
from tests.browser.watched import SCREENS, Watched, visiting
from tests.compared_runs import TOKENS_PER_STEP, add_run, change_at
from tests.conftest import make_probes

TWO, ONE = {"model": {"sublayers": "aa"}}, {"model": {"sublayers": "a"}}


@pytest.fixture
def runs(database: Database) -> list[UUID]:
    """Two seeds with two layers that changed at steps 120 and 160, and one with one layer that did not."""
    probes, pair = make_probes(2, 9), ("pair",)
    one, other = change_at(120, tokens=(1, 2, 3)), change_at(160, tokens=(2, 3, 9))
    second = TWO | {"seed": 1}
    return [
        add_run(database, [one], training=TWO, probes=probes, name="first", tags=pair),
        add_run(database, [other], training=second, probes=probes, name="second", tags=pair, after=-0.6),
        add_run(database, training=ONE, probes=probes, name="control"),
    ]


def walk_to_the_end(plot: Locator) -> None:
    """Goes to the last checkpoint by keyboard."""
    expect(plot.locator("canvas")).to_be_visible()
    plot.focus()
    plot.press("Home")
    plot.press("End")


def row(table: Locator, name: str) -> Locator:
    """The row of a table that begins with a name."""
    return table.locator("tbody tr", has_text=name)


def test_what_is_chosen_lies_in_the_address_and_comes_back_from_it(visit: Watched, runs: list[UUID]) -> None:
    page = visit.open("/compare")
    expect(page.locator("#hint")).to_be_visible()
    page.get_by_label("first").check()
    expect(page.locator("#comparison")).to_be_hidden()
    page.get_by_label("control").check()
    expect(row(page.locator("#runs-table"), "first")).to_contain_text("120")
    expect(row(page.locator("#runs-table"), "control")).to_contain_text("none up to 400")
    assert set(page.url.partition("runs=")[2].split("%2C")) == {str(runs[0]), str(runs[2])}
    page.get_by_label("Horizontal axis").select_option("tokens")
    page.locator("#measure").select_option("natural_prefix_matching")
    expect(page.locator("#overlay h3")).to_have_text("natural prefix matching of the highest head")
    page.reload()
    expect(page.locator("#overlay h3")).to_have_text("natural prefix matching of the highest head")
    expect(page.get_by_label("Horizontal axis")).to_have_value("tokens")
    expect(page.get_by_label("first")).to_be_checked()
    page.go_back()
    expect(page.locator("#measure")).to_have_value("icl_score")
    page.get_by_role("button", name="None", exact=True).click()
    expect(page.locator("#hint")).to_be_visible()


def test_a_search_and_a_tag_choose_many_at_once(visit: Watched, runs: list[UUID]) -> None:
    page = visit.open("/compare")
    page.get_by_label("Search").fill("PAIR")
    expect(page.locator("#choices label")).to_have_count(2)
    page.get_by_role("button", name="All shown").click()
    expect(page.locator("#chosen")).to_contain_text("2 runs chosen")
    page.get_by_role("button", name="None", exact=True).click()
    page.get_by_label("Choose").select_option("pair")
    expect(page.locator("#chosen")).to_contain_text("2 runs chosen")
    assert page.url.endswith("?tag=pair")


def test_before_and_after_with_intervals_by_run_and_by_treatment(visit: Watched, runs: list[UUID]) -> None:
    page = visit.open(f"/compare?runs={','.join(map(str, runs))}")
    first = row(page.locator("#runs-table"), "first").locator("td")
    expect(first).to_have_text(
        ["first seed 0", "sublayers aa, positions relative none", "98,336", "2", "120", "246k",
         "0 [-0.1, 0.1]", "-0.4 [-0.5, -0.3]", "-0.4 [-0.5, -0.3]"]
    )  # fmt: skip
    groups = page.locator("#groups tbody tr")
    expect(groups).to_have_count(2)
    two = row(page.locator("#groups"), "sublayers aa")
    expect(two).to_contain_text("2 of 2")
    expect(two).to_contain_text("-0.5 [")
    one = row(page.locator("#groups"), "sublayers a,")
    expect(one).to_contain_text("0 of 1")
    expect(one).to_contain_text("≥ 400")


def test_the_overlay_reads_values_along_steps_tokens_and_size(visit: Watched, runs: list[UUID]) -> None:
    page = visit.open(f"/compare?runs={runs[0]},{runs[2]}")
    plot = page.locator("#overlay .lines")
    walk_to_the_end(plot)
    readout = page.locator("#overlay .readout")
    expect(readout).to_have_text("step 400: control, seed 0 0, first, seed 0 -0.4 nats")
    page.get_by_label("Horizontal axis").select_option("tokens")
    walk_to_the_end(plot)
    assert 400 * TOKENS_PER_STEP == 819_200
    expect(readout).to_have_text("819k tokens: control, seed 0 0, first, seed 0 -0.4 nats")
    page.get_by_label("Horizontal axis").select_option("parameters")
    dots = page.locator("#overlay .dots")
    dots.focus()
    dots.press("ArrowLeft")
    expect(readout).to_have_text("first, seed 0: 98,336 parameters, -0.4 nats at the end")
    with page.expect_download() as download:
        page.get_by_role("button", name="Overlay as CSV").click()
    assert download.value.path().read_text().splitlines()[0] == "run,nats,parameters,low,high,a bound"
    with page.expect_download() as download:
        page.get_by_role("button", name="When each changed as SVG").click()
    assert download.value.path().read_text().startswith("<svg")


def test_when_each_changed_lies_where_the_change_is(visit: Watched, runs: list[UUID]) -> None:
    page = visit.open(f"/compare?runs={','.join(map(str, runs))}")
    expect(page.locator("#when .summary")).to_contain_text("2 of 3 runs changed")
    dots = page.locator("#when .dots")
    dots.focus()
    for words in (
        "control, seed 0: none up to 400 steps",
        "second, seed 1: half way after 160 steps",
        "first, seed 0: half way after 120 steps",
    ):
        dots.press("ArrowRight")
        expect(page.locator("#when .readout")).to_have_text(words)
    page.locator("#against").select_option("depth")
    expect(page.locator("#when .unit")).to_have_text("step of the middle of the change")
    expect(page.locator("#when .summary")).to_contain_text("2 of 3 runs changed")


def test_two_runs_say_which_tokens_changed_in_both(visit: Watched, runs: list[UUID]) -> None:
    page = visit.open(f"/compare?runs={runs[0]},{runs[1]}")
    cells = row(page.locator("#overlap"), "all together").locator("td")
    expect(cells).to_contain_text(["all together", "3", "3", "2"])
    page.get_by_label("second").uncheck()
    page.get_by_label("control").check()
    expect(row(page.locator("#runs-table"), "control")).to_be_visible()
    expect(page.locator("#overlap-part")).to_be_hidden()


def test_a_run_that_joins_a_tag_appears_without_a_reload(visit: Watched, runs: list[UUID], database: Database) -> None:
    page = visit.open("/compare?tag=pair")
    expect(page.locator("#runs-table tbody tr")).to_have_count(2)
    add_run(database, [change_at(200)], training=TWO | {"seed": 2}, name="third", tags=("pair",))
    expect(row(page.locator("#runs-table"), "third")).to_contain_text("200")


@pytest.mark.parametrize("screen", SCREENS)
def test_it_is_accessible_and_fits(browser: Browser, app: FastAPI, runs: list[UUID], screen: str) -> None:
    with visiting(browser, app, **SCREENS[screen]) as watched:
        page = watched.open(f"/compare?runs={','.join(map(str, runs))}")
        expect(row(page.locator("#runs-table"), "first")).to_be_visible()
        expect(page.locator("#overlay canvas")).to_be_visible()
        watched.check_accessible()
        watched.check_fits()
    assert watched.errors == []
