"""The page of a run's tokens: colours by their pixels, the run played, histories, filters, search, and any text."""

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
from playwright.sync_api import Browser, Page, expect

from phasewatch.measures.groups import TokenGroup
from phasewatch.probes import Layout, ProbeSet, Slice
from phasewatch.storage.database import Database
from phasewatch.storage.losses import put_losses
from phasewatch.storage.phase_changes import list_phase_changes
from phasewatch.storage.runs import get_run
from server.measuring import define_group
from tests.browser.recorded_run import HIDDEN, N_SEQUENCES, N_TOKENS, STEPS, WORDS, losses_at, probe_set, record_step
from tests.browser.watched import SCREENS, Watched, cells_of, visiting
from tests.conftest import MakeRun

LEFT, CELL, ROW = 48, 12, 15  # of the cells on a wide screen
TOKENS = probe_set().slices["text"].tokens
Pixels = npt.NDArray[np.int64]


def open_tokens(visit: Watched, run: UUID, query: str = "") -> Page:
    """The page, drawn."""
    page = visit.open(f"/runs/{run}/tokens?{query}")
    expect(page.locator("#tokens")).to_have_attribute("data-step", re.compile(r"\d+"))
    expect(page.locator(".token-legend canvas")).to_be_visible()
    return page


def cells(page: Page) -> Pixels:
    """The colour of every cell, (n_sequences, n_tokens, 4), as red, green, blue and how opaque."""
    found = page.evaluate(
        """([left, cell, row, sequences, tokens]) => {
          const canvas = document.querySelector("#tokens canvas");
          const context = canvas.getContext("2d");
          const scale = devicePixelRatio;
          const answer = [];
          for (let s = 0; s < sequences; s += 1) for (let t = 0; t < tokens; t += 1) {
            const at = [left + cell * t + 5, 4 + row * s + 5].map((one) => Math.round(one * scale));
            answer.push(...context.getImageData(at[0], at[1], 1, 1).data);
          }
          return answer;
        }""",
        [LEFT, CELL, ROW, N_SEQUENCES, N_TOKENS],
    )
    return np.array(found).reshape(N_SEQUENCES, N_TOKENS, 4)


def legend(page: Page) -> tuple[Pixels, float, float]:
    """The colours of the legend from low to high, (192, 3), and the values at both ends in nats."""
    strip = page.locator(".token-legend canvas")
    colours = strip.evaluate("(strip) => [...strip.getContext('2d').getImageData(0, 0, 192, 1).data]")
    words = page.locator(".token-legend").inner_text().replace("−", "-").split("nats")[1]
    numbers = [float(one) for one in re.findall(r"-?[\d.]+", words)]
    return np.array(colours).reshape(192, 4)[:, :3], numbers[0], numbers[1]


def losses_over_tokens(step: int) -> npt.NDArray[np.float64]:
    """The losses at a step as the tokens stand, NaN for the first of each sequence."""
    return np.concatenate([np.full((N_SEQUENCES, 1), np.nan), losses_at(step)], axis=1)


def check_colours(page: Page, values: npt.NDArray[np.float64]) -> None:
    """Every cell has the colour that the legend gives its value; those without a value have none."""
    shown, (colours, low, high) = cells(page), legend(page)
    known = np.isfinite(values)
    assert (shown[~known][:, 3] == 0).all()
    places = np.clip((values[known] - low) / (high - low), 0, 1) * 191
    expected = colours[np.round(places).astype(int)]
    assert np.abs(shown[known][:, :3] - expected).max() <= 12
    assert np.ptp(shown[known][:, 2]) > 60  # not all alike


def test_loss_is_coloured_as_the_legend_says(visit: Watched, run: UUID) -> None:
    page = open_tokens(visit, run, "view=cells&step=100")
    assert page.locator("#tokens").get_attribute("data-step") == "100"
    check_colours(page, losses_over_tokens(100))


def test_what_gained_is_purple_and_what_lost_is_orange(visit: Watched, run: UUID) -> None:
    page = open_tokens(visit, run, "view=cells&colour=gain&since=150&step=500")
    gain = losses_over_tokens(150) - losses_over_tokens(500)
    check_colours(page, gain)
    shown = cells(page)
    gained, lost = shown[gain > 1][:, :3], shown[gain < -1][:, :3]
    assert (gained[:, 2] > gained[:, 1]).all()
    assert (lost[:, 0] > lost[:, 2]).all()


def test_the_slider_goes_by_keys_and_the_url_keeps_up(visit: Watched, run: UUID) -> None:
    page = open_tokens(visit, run, "view=cells")
    slider = page.get_by_role("slider", name="Checkpoint")
    slider.focus()
    page.keyboard.press("ArrowLeft")
    expect(page.locator("#tokens")).to_have_attribute("data-step", "675")
    expect(page.locator("#step-words")).to_have_text(f"step 675 · {len(STEPS) - 1} of {len(STEPS)}")
    assert "step=675" in page.url
    page.keyboard.press("Home")
    expect(page.locator("#tokens")).to_have_attribute("data-step", "0")
    check_colours(page, losses_over_tokens(0))


def test_space_plays_the_run_and_pauses_it(visit: Watched, run: UUID) -> None:
    page = open_tokens(visit, run, "view=cells&step=0&speed=40")
    page.evaluate(
        """() => {
          window.seen = [];
          new MutationObserver(() => window.seen.push(document.querySelector("#tokens").dataset.step))
            .observe(document.querySelector("#tokens"), { attributes: true, attributeFilter: ["data-step"] });
        }"""
    )
    page.locator("h1").click()
    page.keyboard.press("Space")
    expect(page.locator("#play")).to_have_text("⏸ Pause")
    expect(page.locator("#tokens")).to_have_attribute("data-step", "700")
    expect(page.locator("#play")).to_have_text("▶ Play")
    seen = [int(step) for step in page.evaluate("window.seen")]
    assert seen == sorted(seen)
    assert len(set(seen)) > len(STEPS) / 2
    page.keyboard.press("Space")
    page.keyboard.press("Space")
    expect(page.locator("#play")).to_have_text("▶ Play")


def test_pointing_at_a_token_shows_its_history(visit: Watched, run: UUID) -> None:
    page = open_tokens(visit, run, "view=cells&step=400")
    box = page.locator("#tokens .token-scroll").bounding_box()
    assert box is not None
    sequence, position = 3, 20
    page.mouse.move(box["x"] + LEFT + CELL * position + 5, box["y"] + 4 + ROW * sequence + 5)
    facts = page.locator("#token-facts")
    expect(facts).to_contain_text(f"sequence {sequence}, token {position}")
    course = [float(losses_at(step)[sequence, position - 1]) for step in STEPS]
    expect(facts).to_contain_text(f"{float(f'{course[STEPS.index(400)]:.4g}'):g} nats"[:4])
    expect(page.locator("#history .summary")).to_contain_text(f"From {course[0]:.3g} to {course[-1]:.3g} nats")
    page.mouse.down()
    page.mouse.up()  # chosen, it stays when the pointer goes
    expect(page).to_have_url(re.compile(f"token={sequence}%3A{position}"))
    page.locator("#history details summary").click()
    rows = page.locator("#history tbody tr")
    expect(rows).to_have_count(len(STEPS))
    shown = [[float(cell) for cell in row] for row in cells_of(rows)]
    np.testing.assert_allclose(shown, list(zip(STEPS, course, strict=True)), rtol=2e-4)


def test_arrow_keys_walk_over_tokens_and_the_url_names_the_one(visit: Watched, run: UUID) -> None:
    page = open_tokens(visit, run, "token=2:5")
    expect(page.locator("#token-now mark")).to_have_text(shown_word(2, 5))
    page.locator("#tokens .token-scroll").focus()
    page.keyboard.press("ArrowRight")
    expect(page.locator("#token-facts")).to_contain_text("sequence 2, token 6")
    expect(page).to_have_url(re.compile("token=2%3A6"))
    page.keyboard.press("End")
    expect(page.locator("#token-facts")).to_contain_text(f"sequence 2, token {N_TOKENS - 1}")
    page.keyboard.press("ArrowDown")
    expect(page.locator("#token-facts")).to_contain_text("sequence 3")
    page.keyboard.press("Home")
    expect(page.locator("#token-facts")).to_contain_text("the first token of a sequence is not predicted")
    expect(page.locator("#history")).to_be_hidden()


def shown_word(sequence: int, position: int) -> str:
    """A token of the recorded run as it is shown, its hidden characters named."""
    text = WORDS[TOKENS[sequence, position]]
    return {"\n": "⏎ (U+000A)"}.get(text, text.replace(" ", "·"))


def test_a_group_leaves_its_members_coloured(visit: Watched, database: Database, run: UUID) -> None:
    with database.reading() as session:
        probes = str(get_run(session, run).probe_set_id)
    define_group(database, probes, "dots", TokenGroup(ids=(1, 3)))
    page = open_tokens(visit, run, "view=cells")
    page.locator("#only").select_option("group:dots")
    expect(page.locator("#members")).to_be_visible()
    members = np.isin(TOKENS, (1, 3))
    members[:, 0] = False
    expect_opaque(page, members)
    assert "only=group%3Adots" in page.url
    places = [f"{s}:{t}" for s, t in np.argwhere(members)]
    page.locator("#member-next").click()
    expect(page).to_have_url(re.compile(f"token={places[0].replace(':', '%3A')}(&|$)"))
    page.locator("#member-next").click()
    expect(page).to_have_url(re.compile(f"token={places[1].replace(':', '%3A')}(&|$)"))
    page.locator("#member-before").click()
    expect(page).to_have_url(re.compile(f"token={places[0].replace(':', '%3A')}(&|$)"))
    page.locator("#member-before").click()
    expect(page.locator("#said")).to_contain_text("none further")


def expect_opaque(page: Page, expected: npt.NDArray[np.bool_]) -> None:
    """Waits until exactly these cells are coloured."""
    for _ in range(100):
        if ((cells(page)[:, :, 3] > 0) == expected).all():
            return
        page.wait_for_timeout(100)
    raise AssertionError(np.argwhere((cells(page)[:, :, 3] > 0) != expected).tolist())


def test_a_change_leaves_the_tokens_that_moved_with_it(visit: Watched, database: Database, run: UUID) -> None:
    with database.reading() as session:
        change = next(str(row.id) for row in list_phase_changes(session, run) if row.kind == "hidden")
    page = open_tokens(visit, run, f"view=cells&only=change:{change}")
    assert HIDDEN.tokens is not None
    moved = np.zeros(N_SEQUENCES * (N_TOKENS - 1), bool)
    moved[HIDDEN.tokens] = True
    whole = np.zeros((N_SEQUENCES, N_TOKENS), bool)
    whole[:, 1:] = moved.reshape(N_SEQUENCES, -1)
    expect_opaque(page, whole)
    expect(page.locator("#only option:checked")).to_contain_text("hidden: 20 tokens")


def test_search_finds_text_across_tokens_and_walks_over_it(visit: Watched, run: UUID) -> None:
    page = open_tokens(visit, run)
    texts = ["".join(WORDS[token] for token in row) for row in TOKENS]
    n_hits = sum(text.count("self.") for text in texts)
    assert n_hits > 1
    page.locator("#query").fill("self.")
    page.keyboard.press("Enter")
    expect(page.locator("#hit-words")).to_have_text(f"1 of {n_hits}")
    row, column = next((s, t) for s, t in np.argwhere(TOKENS == 0) if t + 1 < N_TOKENS and TOKENS[s, t + 1] == 1)
    expect(page).to_have_url(re.compile(rf"q=self\..*token={row}%3A{column}|token={row}%3A{column}.*q=self\."))
    page.locator("#hit-next").click()
    expect(page.locator("#hit-words")).to_have_text(f"2 of {n_hits}")
    page.locator("#hit-before").click()
    page.locator("#hit-before").click()
    expect(page.locator("#hit-words")).to_have_text(f"{n_hits} of {n_hits}")
    page.locator("#query").fill("<img src=x onerror=alert(1)>")
    page.keyboard.press("Enter")
    expect(page.locator("#hit-words")).to_have_text("not found")


def test_a_link_shows_what_i_see_and_back_goes_back(visit: Watched, run: UUID) -> None:
    page = open_tokens(visit, run)
    page.get_by_role("button", name="gain", exact=True).click()
    page.locator("#since").select_option("150")
    page.get_by_role("button", name="cells", exact=True).click()
    expect(page.locator(".token-legend")).to_contain_text("gain since step 150")
    gain = losses_over_tokens(150) - losses_over_tokens(700)
    expect_opaque(page, np.isfinite(gain))
    page.reload()
    expect(page.locator(".token-legend")).to_contain_text("gain since step 150")
    expect(page.get_by_role("button", name="cells", exact=True)).to_have_attribute("aria-pressed", "true")
    expect_opaque(page, np.isfinite(gain))
    check_colours(page, gain)
    page.go_back()
    expect(page.get_by_role("button", name="text", exact=True)).to_have_attribute("aria-pressed", "true")
    page.go_back()
    page.go_back()
    expect(page.locator(".token-legend")).to_contain_text("loss, nats")
    expect(page.locator("#since-label")).to_be_hidden()


STRANGE = (
    "<script>alert('x')</script>",
    "\u202eturned",
    "שלום",
    "👩\u200d🚀",
    "\x07",
    "\u200b",
    "\n    ",
    "",
    "&amp;",
)
SEEN = (
    STRANGE[0],
    "[U+202E]turned (U+202E)",
    "שלום",
    "👩\u200d🚀",
    "␇ (U+0007)",
    "[U+200B] (U+200B)",
    "⏎···· (U+000A)",
    "∅",
    "&amp;",
)


def small_text(database: Database, make_run: MakeRun, pieces: tuple[str, ...] | None) -> UUID:
    """A run with one sequence of one token a piece, and losses at two steps."""
    tokens = np.arange(len(STRANGE) + 1, dtype=np.int32)[None] % len(STRANGE)
    probes = ProbeSet(slices={"text": Slice(tokens, Layout("text"))}, vocab_size=len(STRANGE), pieces=pieces)
    run = make_run(probes=probes)
    with database.transaction() as session:
        for step in (0, 10):
            put_losses(session, run, "text", step, np.linspace(1, 4, len(STRANGE)).astype(np.float32))
    return run


def test_any_text_is_shown_and_never_interpreted(visit: Watched, database: Database, make_run: MakeRun) -> None:
    run = small_text(database, make_run, STRANGE)
    page = open_tokens(visit, run)
    page.locator("#tokens .token-scroll").focus()
    for position, expected in enumerate(SEEN[1:], start=1):
        page.evaluate("(place) => history.replaceState(null, '', `?token=0:${place}`)", position)
        page.evaluate("() => dispatchEvent(new PopStateEvent('popstate'))")
        expect(page.locator("#token-now mark")).to_have_text(expected)
    page.keyboard.press("End")
    expect(page.locator("#token-now mark")).to_have_text(SEEN[0])


def test_without_pieces_tokens_are_their_ids(visit: Watched, database: Database, make_run: MakeRun) -> None:
    page = open_tokens(visit, small_text(database, make_run, None), "token=0:3")
    expect(page.locator("#token-now mark")).to_have_text("⟨3⟩")


def test_a_run_without_probes_or_losses_says_so(visit: Watched, make_run: MakeRun) -> None:
    page = visit.open(f"/runs/{make_run()}/tokens")
    expect(page.locator("#empty")).to_contain_text("no probe set yet")
    page = visit.open(f"/runs/{make_run(probes=probe_set())}/tokens")
    expect(page.locator("#empty")).to_contain_text("No losses of slice text")


def test_a_large_probe_set_comes_in_windows(visit: Watched, database: Database, make_run: MakeRun) -> None:
    tokens = np.random.default_rng(0).integers(0, len(WORDS), (90, 512), dtype=np.int32)
    run = make_run(probes=ProbeSet(slices={"text": Slice(tokens, Layout("text"))}, vocab_size=16, pieces=WORDS))
    with database.transaction() as session:
        for step in (0, 10):
            put_losses(session, run, "text", step, np.full((90, 511), 3.0 - step / 10, np.float32))
    asked: list[str] = []
    visit.page.on("request", lambda request: asked.append(request.url))
    page = open_tokens(visit, run)
    expect(page.locator("#page-words")).to_have_text("to 38 of 90")
    assert any(f"tokens=0-{39 * 511 - 1}&" in url for url in asked)
    page.locator("#page-next").click()
    expect(page.locator("#page-words")).to_have_text("to 77 of 90")
    assert any(f"tokens={39 * 511}-{78 * 511 - 1}&" in url for url in asked)
    page.locator("#first").fill("85")
    page.keyboard.press("Enter")
    expect(page.locator("#page-words")).to_have_text("to 89 of 90")
    page.goto(f"{visit.base}/runs/{run}/tokens?token=80:100")
    expect(page.locator("#token-facts")).to_contain_text("sequence 80, token 100")
    expect(page.locator("#token-facts")).to_contain_text("2 nats")
    expect(page.locator("#page-words")).to_have_text("to 89 of 90")


def test_checkpoints_that_come_are_shown(visit: Watched, database: Database, run: UUID) -> None:
    page = open_tokens(visit, run, "view=cells")
    with database.transaction() as session:
        record_step(session, run, 725)
    expect(page.locator("#tokens")).to_have_attribute("data-step", "725")
    expect(page.locator("#step-words")).to_have_text(f"step 725 · {len(STEPS) + 1} of {len(STEPS) + 1}")


def test_pictures_and_values_can_be_kept(visit: Watched, run: UUID, tmp_path: Path) -> None:
    page = open_tokens(visit, run, "colour=gain&since=150&step=500")
    for form in ("CSV", "SVG", "PNG"):
        with page.expect_download() as waiting:
            page.get_by_role("button", name=f"Probe text as {form}").click()
        waiting.value.save_as(tmp_path / f"tokens.{form}")
    rows = list(csv.reader((tmp_path / "tokens.CSV").read_text(encoding="utf-8").splitlines(keepends=True)))
    assert rows[0] == ["sequence", "position", "token id", "text", "loss at step 500", "gain since step 150"]
    assert len(rows) == 1 + TOKENS.size
    at = {(int(row[0]), int(row[1])): row for row in rows[1:]}
    assert at[2, 0][4:] == ["", ""]
    assert at[2, 7][3] == WORDS[TOKENS[2, 7]]
    assert float(at[2, 7][4]) == pytest.approx(float(losses_at(500)[2, 6]), rel=2e-4)
    svg = (tmp_path / "tokens.SVG").read_text(encoding="utf-8")
    assert "two layers, step 500: gain since step 150" in svg
    assert svg.count("<rect") > 200
    assert "<b>" not in svg
    assert (tmp_path / "tokens.PNG").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("screen", SCREENS)
def test_every_screen_is_accessible_and_fits(browser: Browser, app: FastAPI, run: UUID, screen: str) -> None:
    options: dict[str, Any] = SCREENS[screen]
    with visiting(browser, app, **options) as watched:
        page = open_tokens(watched, run, "colour=gain&since=150&token=1:9&q=self")
        expect(page.locator("#history .summary")).to_contain_text("nats")
        watched.check_accessible()
        watched.check_fits()
        assert watched.errors == []
