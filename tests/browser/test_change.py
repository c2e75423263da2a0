"""The page of one change: every fact on it, the picture of attention by its pixels, and what a person makes of it."""

from __future__ import annotations

import csv
import re
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import numpy.typing as npt
import pytest
from fastapi import FastAPI
from playwright.sync_api import Browser, Locator, Page, expect

from phasewatch.measures.groups import TokenGroup
from phasewatch.storage.database import Database
from phasewatch.storage.phase_changes import get_phase_change, review_phase_change
from phasewatch.storage.runs import get_run
from server.measuring import define_group
from tests.browser.changed_run import AFTER, BACK, BEFORE, DURING, changes_of, pattern, record_ablation, record_patterns
from tests.browser.recorded_run import HIDDEN, INDUCTION, N_COPYING, N_TOKENS, STEPS, losses_at
from tests.browser.watched import SCREENS, Watched, cells_of, visiting


@pytest.fixture
def changes(database: Database, run: UUID) -> dict[str, str]:
    """The ids of the run's changes; of the induction change everything is measured."""
    with database.transaction() as session:
        record_patterns(session, run)
        record_ablation(session, run)
    with database.reading() as session:
        probe_set = str(get_run(session, run).probe_set_id)
        found = changes_of(session, run)
    define_group(database, probe_set, "after_self", TokenGroup(pattern=r"self(\.)"))
    return found


def open_change(visit: Watched, change: str) -> Page:
    """The page of a change, drawn."""
    page = visit.open(f"/changes/{change}")
    expect(page.locator("#title")).not_to_have_text("…")
    expect(page.locator("#groups")).to_be_visible()
    return page


def test_what_and_when_stand_at_the_top(visit: Watched, run: UUID, changes: dict[str, str]) -> None:
    page = open_change(visit, changes["induction"])
    expect(page.locator("h1")).to_have_text("Induction heads form")
    expect(page.locator("#lead")).to_contain_text(
        "starts at step 170, is half way at step 275, and is over at step 400"
    )
    expect(page.locator("#verdict")).to_contain_text("this is the formation of induction heads")
    rows = [row.split("\t") for row in page.locator("#times").inner_text().splitlines()]
    assert rows == [
        ["start (10 %)", "170", "150 to 190"],
        ["middle (50 %)", "275", "260 to 290"],
        ["end (90 %)", "400", "370 to 440"],
    ]
    expect(page.locator("#explanation")).to_contain_text(INDUCTION.explain()[:60])
    expect(page.locator("#run")).to_have_attribute("href", f"/runs/{run}")
    expect(page.locator("#coincides")).to_contain_text("No logged event")


def test_signs_are_present_absent_or_not_measured(visit: Watched, changes: dict[str, str]) -> None:
    page = open_change(visit, changes["induction"])
    items = page.locator("#signs li").all()
    found = {item.locator("span").nth(1).inner_text(): item.get_attribute("data-sign") for item in items}
    assert found == {"repeat gain": "present", "previous token": "present", "icl score": "absent"}


def test_the_course_is_shown_around_the_change_with_its_fit(visit: Watched, changes: dict[str, str]) -> None:
    page = open_change(visit, changes["hidden"])
    expect(page.locator("#course .legend")).to_contain_text(f"mean loss of its {N_COPYING} tokens")
    expect(page.locator("#course .legend")).to_contain_text("10, 50, 90 %")
    page.locator("#course details summary").click()
    expect(page.locator("#course tbody tr").first).to_be_visible()
    shown = {float(row[0]): float(row[1]) for row in cells_of(page.locator("#course tbody tr")) if row[1]}
    tokens = HIDDEN.tokens
    assert tokens is not None
    known = [step for step in STEPS if step in shown]
    assert len(known) > 3
    for step in known:
        assert shown[step] == pytest.approx(float(losses_at(step).reshape(-1)[tokens].mean()), abs=2e-3)


def pixels(square: Locator) -> npt.NDArray[np.int64]:
    """The brightness of each cell's middle of an attention picture, (n, n)."""
    found: list[int] = square.evaluate(
        """(place, n) => {
          const canvas = place.querySelector("canvas");
          const scale = canvas.width / place.clientWidth;
          const cell = (place.clientWidth - 22) / n;
          const context = canvas.getContext("2d");
          const answer = [];
          for (let query = 0; query < n; query += 1) for (let key = 0; key < n; key += 1) {
            const at = [22 + (key + 0.5) * cell, 22 + (query + 0.5) * cell].map((one) => Math.floor(one * scale));
            const [red, green, blue] = context.getImageData(at[0], at[1], 1, 1).data;
            answer.push(red + green + blue);
          }
          return answer;
        }""",
        N_TOKENS,
    )
    return np.array(found).reshape(N_TOKENS, N_TOKENS)


def test_the_pictures_are_bright_where_the_head_attends(visit: Watched, changes: dict[str, str]) -> None:
    page = open_change(visit, changes["induction"])
    squares = page.locator(".attention-square")
    expect(squares).to_have_count(3)
    assert [square.get_attribute("data-step") for square in squares.all()] == [str(s) for s in (BEFORE, DURING, AFTER)]
    after, queries = pixels(squares.nth(2)), np.arange(BACK + 2, N_TOKENS)
    stripe = after[queries, queries - BACK]
    others = np.concatenate(
        [after[query, 1 : query - BACK] for query in queries] + [after[q, q - BACK + 1 : q] for q in queries]
    )
    assert stripe.min() > 3 * others.max() / 2
    before = pixels(squares.nth(0))
    assert before[queries, queries - BACK].max() < stripe.min() / 2
    # the same brightness everywhere that the pattern has the same value
    row = before[20, :21]
    assert row.max() - row.min() <= 3


def test_pointing_at_a_picture_names_query_and_key(visit: Watched, changes: dict[str, str]) -> None:
    page = open_change(visit, changes["induction"])
    square = page.locator(".attention-square").nth(2)
    expect(square).to_be_visible()
    square.scroll_into_view_if_needed()
    box = square.bounding_box()
    assert box is not None
    cell = (box["width"] - 22) / N_TOKENS
    page.mouse.move(box["x"] + 22 + (20 - BACK + 0.5) * cell, box["y"] + 22 + 20.5 * cell)
    readout = page.locator("#attention .readout")
    expect(readout).to_contain_text("query 20 “")
    expect(readout).to_contain_text(f"to key {20 - BACK} “")
    values = [f"{pattern(step)[20, 20 - BACK]:.3g}" for step in (BEFORE, DURING, AFTER)]
    expect(readout).to_contain_text(f"before {values[0]}, during {values[1]}, after {values[2]}")
    square.focus()
    page.keyboard.press("ArrowDown")
    expect(readout).to_contain_text("query 21 “")
    page.keyboard.press("Shift+ArrowRight")
    expect(readout).to_contain_text(f"to key {30 - BACK} “")


def test_pictures_and_values_can_be_kept(visit: Watched, changes: dict[str, str], tmp_path: Path) -> None:
    page = open_change(visit, changes["induction"])
    expect(page.locator(".attention-square")).to_have_count(3)
    for form in ("CSV", "SVG", "PNG"):
        with page.expect_download() as waiting:
            page.get_by_role("button", name=f"What the head attends to as {form}").click()
        waiting.value.save_as(tmp_path / f"attention.{form}")
    rows = list(csv.reader((tmp_path / "attention.CSV").read_text(encoding="utf-8").splitlines()))
    assert rows[0] == ["query", "query text", "key", "key text", "step 150", "step 275", "step 400"]
    assert len(rows) == 1 + N_TOKENS * (N_TOKENS + 1) // 2
    by_place = {(int(row[0]), int(row[2])): float(row[6]) for row in rows[1:]}
    assert by_place[20, 20 - BACK] == pytest.approx(pattern(AFTER)[20, 20 - BACK], rel=1e-5)
    assert (tmp_path / "attention.SVG").read_text(encoding="utf-8").count("<image") == 3
    assert (tmp_path / "attention.PNG").read_bytes().startswith(b"\x89PNG")


def test_without_weights_the_page_says_so(visit: Watched, database: Database, run: UUID) -> None:
    with database.reading() as session:
        change = changes_of(session, run)["induction"]
    page = visit.open(f"/changes/{change}")
    expect(page.locator("#no-patterns")).to_contain_text("weights were not recorded")
    expect(page.locator("#scores")).to_contain_text("L1H0")
    expect(page.locator("#evidence")).to_contain_text("Not measured yet")


def test_tokens_that_gained_and_lost_stand_in_their_text(visit: Watched, run: UUID, changes: dict[str, str]) -> None:
    page = open_change(visit, changes["hidden"])
    gains = [float(cell.replace("−", "-")) for cell in page.locator("#gained td:nth-child(2)").all_inner_texts()]
    assert len(gains) == 12
    assert gains == sorted(gains, reverse=True)
    assert gains[-1] > 1
    tokens = HIDDEN.tokens
    assert tokens is not None
    shown = [int(row.get_attribute("data-token") or -1) for row in page.locator("#gained tbody tr").all()]
    assert set(shown) <= set(tokens.tolist())
    expect(page.locator("#gained img")).to_have_count(0)
    link = page.locator("#gained a").first
    sequence, position = shown[0] // (N_TOKENS - 1), shown[0] % (N_TOKENS - 1) + 1
    href = str(link.get_attribute("href"))
    assert href.startswith(f"/runs/{run}/tokens?")
    assert f"token={sequence}%3A{position}" in href
    expect(page.locator("#all-tokens")).to_have_attribute("href", re.compile(f"only=change%3A{changes['hidden']}"))


def test_groups_and_causes(visit: Watched, changes: dict[str, str]) -> None:
    page = open_change(visit, changes["induction"])
    expect(page.locator("#groups")).to_contain_text("after self")
    row = page.locator("#ablations tbody tr")
    expect(row).to_contain_text("L1H0")
    expect(row).to_contain_text("80 % [70, 90]")
    expect(row).to_contain_text("90 % [83, 94]")
    expect(row).to_contain_text("matched heads 5 %")
    expect(page.locator("#evidence li")).to_contain_text("Zeroing L1H0 at step 400 takes away 80 % of the ICL score")


def test_acknowledge_dismiss_and_note(visit: Watched, database: Database, changes: dict[str, str]) -> None:
    page = open_change(visit, changes["induction"])

    def stored() -> tuple[Any, Any]:
        with database.reading() as session:
            row = get_phase_change(session, UUID(changes["induction"]))
            return row.review, row.note

    acknowledge, dismiss = page.locator("#acknowledged"), page.locator("#dismissed")
    acknowledge.click()
    expect(acknowledge).to_have_attribute("aria-pressed", "true")
    expect(page.locator("#tags")).to_contain_text("acknowledged")
    assert stored() == ("acknowledged", None)
    dismiss.click()
    expect(acknowledge).to_have_attribute("aria-pressed", "false")
    expect(dismiss).to_have_attribute("aria-pressed", "true")
    page.locator("#note").fill("<b>real</b> & seen in two seeds")
    page.locator("#save-note").click()
    expect(page.locator("#said")).to_have_text("Note saved.")
    assert stored() == ("dismissed", "<b>real</b> & seen in two seeds")
    dismiss.click()
    expect(dismiss).to_have_attribute("aria-pressed", "false")
    assert stored()[0] is None
    page.reload()
    expect(page.locator("#note")).to_have_value("<b>real</b> & seen in two seeds")


def test_what_others_decide_comes_by_itself(visit: Watched, database: Database, changes: dict[str, str]) -> None:
    page = open_change(visit, changes["induction"])
    with database.transaction() as session:
        review_phase_change(session, UUID(changes["induction"]), "acknowledged", None)
    expect(page.locator("#tags")).to_contain_text("acknowledged")


def test_an_unknown_change_is_told(browser: Browser, app: FastAPI, run: UUID) -> None:
    with visiting(browser, app) as watched:
        page = watched.open("/changes/00000000-0000-7000-8000-000000000000")
        expect(page.locator("#problem")).to_contain_text("does not exist")


@pytest.mark.parametrize("screen", SCREENS)
def test_every_screen_is_accessible_and_fits(
    browser: Browser, app: FastAPI, changes: dict[str, str], screen: str
) -> None:
    with visiting(browser, app, **SCREENS[screen]) as watched:
        page = open_change(watched, changes["induction"])
        expect(page.locator(".attention-square")).to_have_count(3)
        watched.check_accessible()
        watched.check_fits()
        assert watched.errors == []
