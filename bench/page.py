"""What the page costs with a run of 1,000 checkpoints × 144 heads × 1,000,000 tokens, in a real Chromium.

    .venv/bin/python -m bench.page [--tokens 1000000] [--checkpoints 1000] [--rounds 5] [--minutes 0] [--folder FOLDER]

The run is made up: losses of four checkpoints of a gamma distribution that falls with the step, rounded to 1/16 nat so
that the file stays small, stored in turn under every checkpoint; head scores, in-context learning score, loss by place,
a loss at each of 100,000 steps, three changes. Server and browser share the machine. Printed: first contentful paint
and the moment everything is drawn (medians over rounds, each in a fresh browser context), the weight of each page as
sent, frames a second of the tokens' slider, and with --minutes the memory of the tab while a checkpoint comes every
second.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import UUID

import numpy as np
from playwright.sync_api import Browser, Page, sync_playwright
from sqlalchemy import insert
from sqlalchemy.orm import Session

from phasewatch.detection.phase_change import PhaseChange
from phasewatch.probes import Layout, ProbeSet, Slice
from phasewatch.storage.artifacts import Artifacts
from phasewatch.storage.checkpoints import NewCheckpoint, put_checkpoint
from phasewatch.storage.codecs import DEFAULT_CODEC, encode_blocks
from phasewatch.storage.database import Database
from phasewatch.storage.measurements import StoredMeasurement, put_measurements
from phasewatch.storage.phase_changes import store_scan
from phasewatch.storage.probe_sets import get_run_slice, put_probe_set
from phasewatch.storage.runs import NewRun, create_run, get_segment, set_probe_set
from phasewatch.storage.schema import LossBlock, LossSlice
from phasewatch.storage.series import put_series
from server.app import create_app
from server.migrations import upgrade
from server.service import HttpServer
from server.settings import Settings

LAYERS, HEADS = 12, 12
N_POSITIONS = 512
LAST_STEP = 100_000
PATTERNS = 4
VIEW = {"width": 1920, "height": 1080}
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
PLAY_S = 8.0

_FPS = """async (seconds) => {
  const place = document.querySelector("#tokens");
  let [frames, paints] = [0, 0];
  const seen = new MutationObserver(() => { paints += 1; });
  seen.observe(place, { attributes: true, attributeFilter: ["data-step"] });
  const end = performance.now() + seconds * 1000;
  await new Promise((done) => {
    const tick = (now) => { frames += 1; now < end ? requestAnimationFrame(tick) : done(); };
    requestAnimationFrame(tick);
  });
  seen.disconnect();
  return [frames / seconds, paints / seconds];
}"""
_WEIGHT = """() => [...performance.getEntriesByType("navigation"), ...performance.getEntriesByType("resource")]
  .filter((one) => !one.name.includes("/api/v1/")).reduce((sum, one) => sum + one.encodedBodySize, 0)"""


def checkpoint_steps(n: int) -> list[int]:
    """n steps from 0, ever wider apart."""
    wanted = np.expm1(np.linspace(0, np.log1p(LAST_STEP), n))
    found: list[int] = np.unique(np.maximum(np.round(wanted), np.arange(n))).astype(int).tolist()
    return found


def make_run(database: Database, n_tokens: int, n_checkpoints: int) -> UUID:
    """The run described above; its id."""
    n_sequences = max(1, n_tokens // N_POSITIONS)
    tokens = np.random.default_rng(0).integers(0, 500, (n_sequences, N_POSITIONS + 1), dtype=np.int32)
    pieces = tuple(f" w{number}" for number in range(500))
    probes = ProbeSet(slices={"text": Slice(tokens, Layout("text"))}, vocab_size=500, pieces=pieces)
    steps = checkpoint_steps(n_checkpoints)
    with database.transaction() as session:
        run = create_run(session, NewRun("a thousand checkpoints", tags=("bench",)))[0].id
        put_probe_set(session, probes)
        set_probe_set(session, run, probes.sha256)
    patterns = [encoded_losses(number, n_sequences) for number in range(PATTERNS)]
    for first in range(0, len(steps), 50):
        with database.transaction() as session:
            for index in range(first, min(first + 50, len(steps))):
                record(session, run, steps[index])
                store_losses(session, run, steps[index], n_sequences * N_POSITIONS, patterns[index % PATTERNS])
    rng = np.random.default_rng(1)
    with database.transaction() as session:
        logged = range(0, LAST_STEP, 1)
        put_series(session, run, {step: {"loss": 8 - np.log1p(step) / 2 + rng.normal() / 10} for step in logged})
        store_scan(session, run, changes(), steps, detector_version=2, ended=True, slice_name="text")
    return run


def changes() -> list[PhaseChange]:
    """Three changes, the formation of induction heads among them."""
    heads = ((4, 2), (5, 7))
    return [
        PhaseChange(90, 200, 400, "level", "drop", 2.0, "nats", "mean_loss:text"),
        PhaseChange(2_000, 3_000, 4_500, "level", "rise", 0.5, "probability", "icl_score", heads=heads, induction=True),
        PhaseChange(20_000, 30_000, 40_000, "hidden", "drop", 1.0, "nats", "token_losses:text", tokens=np.arange(300)),
    ]


def encoded_losses(number: int, n_sequences: int) -> list[bytes]:
    """Blocks of the losses of one made-up checkpoint."""
    rng = np.random.default_rng(number)
    values = rng.gamma(2, 3 / (2 + number), n_sequences * N_POSITIONS).astype(np.float32)
    return list(encode_blocks((np.round(values * 16) / 16).astype(np.float32), DEFAULT_CODEC))


def store_losses(session: Session, run: UUID, step: int, n_values: int, blocks: list[bytes]) -> None:
    """Stores the blocks as the losses of a step, without reading them again."""
    key = {"segment_id": get_segment(session, run).id, "slice_id": get_run_slice(session, run, "text").id, "step": step}
    mean = 8 - np.log1p(step) / 2
    header = {
        "codec": DEFAULT_CODEC,
        "n_values": n_values,
        "mean_nats": mean,
        "n_non_finite": 0,
        "sha256": f"{step:064x}",
    }
    session.execute(insert(LossSlice), [key | header])
    session.execute(insert(LossBlock), [key | {"block": at, "payload": one} for at, one in enumerate(blocks)])


def record(session: Session, run: UUID, step: int) -> None:
    """Checkpoint and measures of a step."""
    rng = np.random.default_rng(step)
    late = 1 / (1 + np.exp(-(np.log1p(step) - np.log1p(3_000)) * 6))
    heads = rng.gamma(2, 0.02, (LAYERS, HEADS))
    heads[4, 2] += 0.6 * late
    heads[5, 7] += 0.4 * late
    place = np.log(np.arange(1, N_POSITIONS + 1))
    profile = 8 - np.log1p(step) / 2 - 0.2 * late * place + rng.normal(0, 0.05, N_POSITIONS)
    icl = np.array(-0.6 * late)
    put_checkpoint(session, run, NewCheckpoint(step, tokens_seen=step * 65_536))
    measured = {
        "natural_prefix_matching": StoredMeasurement(1, heads, 0.04),
        "previous_token": StoredMeasurement(1, heads[::-1], 0.02),
        "icl_score": StoredMeasurement(1, icl, None, np.array([icl - 0.05, icl + 0.05])),
        "repeat_gain": StoredMeasurement(1, np.array(2.0 * late), 0.0),
        "position_profile": StoredMeasurement(1, profile),
    }
    put_measurements(session, run, step, measured, source="recorder")


@contextmanager
def opened(browser: Browser, address: str) -> Iterator[Page]:
    """A page in a fresh context, so with an empty cache."""
    context = browser.new_context(viewport=VIEW)  # type: ignore[arg-type]  # two whole numbers by name
    page = context.new_page()
    page.set_default_timeout(60_000)
    page.goto(address)
    yield page
    context.close()


def first_paint_ms(page: Page) -> float:
    """First contentful paint, ms after the navigation began."""
    return float(page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime"))


def measure_drawing(browser: Browser, url: str, run: UUID, rounds: int) -> None:
    """Prints first paint, everything drawn, and weight, of the list and of the run."""
    for name, path, ready, mark in (
        ("runs", "/", "#runs tbody tr", "runs-drawn"),
        ("run", f"/runs/{run}", "body[data-drawn]", "run-drawn"),
    ):
        paints, drawn, weight = [], [], 0.0
        for _ in range(rounds):
            with opened(browser, url + path) as page:
                page.wait_for_selector(ready)
                paints.append(first_paint_ms(page))
                drawn.append(float(page.evaluate(f"performance.getEntriesByName('{mark}')[0].startTime")))
                weight = float(page.evaluate(_WEIGHT))
        middle = [
            f"{statistics.median(found):6.0f} ms ({min(found):.0f}–{max(found):.0f})" for found in (paints, drawn)
        ]
        print(f"{name:8} first paint {middle[0]}   fully drawn {middle[1]}   weight {weight / 1_000:.0f} kB")


def measure_slider(browser: Browser, url: str, run: UUID) -> None:
    """Prints frames and checkpoints painted a second while the run plays in cells, as many as the page shows."""
    with opened(browser, f"{url}/runs/{run}/tokens?view=cells&step=0&speed=40") as page:
        page.wait_for_selector("#tokens[data-step]")
        page.wait_for_timeout(3_000)
        page.locator("#play").click()
        frames, paints = page.evaluate(_FPS, PLAY_S)
        words = page.locator("#page-words").inner_text()
        print(f"tokens   {words}: {frames:.0f} frames a second, {paints:.0f} checkpoints a second painted")


def measure_memory(browser: Browser, url: str, run: UUID, database: Database, minutes: float) -> None:
    """Prints the memory of the tab's process at the start and after live updates, one a second."""
    ended = threading.Event()

    def go_on() -> None:
        step = LAST_STEP
        while not ended.wait(1.0):
            step += 100
            with database.transaction() as session:
                record(session, run, step)

    with opened(browser, f"{url}/runs/{run}") as page:
        page.wait_for_selector("body[data-drawn]")
        before = tab_mb(browser)
        writer = threading.Thread(target=go_on)
        writer.start()
        deadline = time.monotonic() + minutes * 60
        peak = before
        while time.monotonic() < deadline:
            page.wait_for_timeout(5_000)
            peak = max(peak, tab_mb(browser))
        ended.set()
        writer.join()
        facts = page.locator("#facts").inner_text()
        told = f"{before:.0f} MB drawn, {tab_mb(browser):.0f} MB after {minutes:g} min, {peak:.0f} MB at most"
        print(f"memory   {told} ({facts})")


def tab_mb(browser: Browser) -> float:
    """Resident memory of the largest renderer process that is not shared with a file, MB."""
    session = browser.new_browser_cdp_session()
    processes = session.send("SystemInfo.getProcessInfo")["processInfo"]
    session.detach()
    sizes = [anonymous_kb(one["id"]) for one in processes if one["type"] == "renderer"]
    return max(sizes) / 1_000


def anonymous_kb(process: int) -> int:
    """RssAnon of a process, kB."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=1_000_000)
    parser.add_argument("--checkpoints", type=int, default=1_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--minutes", type=float, default=0.0, help="of live updates, for the memory of the tab")
    parser.add_argument("--folder", type=Path, help="keep the database here and take it from here the next time")
    parser.add_argument("--browser", help="path of a Chromium; default: the one installed, or Playwright's")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.folder or Path(scratch)
        file = folder / "page.db"
        known = folder / "run.txt"
        database = Database(f"sqlite:///{file}")
        upgrade(database)
        if not known.exists():
            known.write_text(str(make_run(database, arguments.tokens, arguments.checkpoints)))
        run = UUID(known.read_text())
        shape = f"{arguments.checkpoints} checkpoints, {LAYERS * HEADS} heads, {arguments.tokens} tokens"
        print(f"{shape}: {file.stat().st_size / 1e9:.2f} GB")
        settings = Settings(port=0)
        server = HttpServer(settings, create_app(settings, database, Artifacts(str(folder / "artifacts"))))
        server.start()
        with sync_playwright() as playwright:
            path = arguments.browser or shutil.which("chromium") or playwright.chromium.executable_path
            browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
            measure_drawing(browser, server.url, run, arguments.rounds)
            measure_slider(browser, server.url, run)
            if arguments.minutes:
                measure_memory(browser, server.url, run, database, arguments.minutes)
            browser.close()
        server.stop()
        database.close()


if __name__ == "__main__":
    main()
