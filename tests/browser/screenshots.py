"""Screenshots of every page from what `make demo` left, as README and docs/ show them.

    make screenshots                                    writes docs/pictures/page_*.png
    python -m tests.browser.screenshots run run_phone   those alone

The service runs on a copy of demo/phasewatch-data, so that the demo's data stays what it is. Each page is taken on a
desktop; those that people open first on a phone of 360 pixels, too, and one in dark.
"""

from __future__ import annotations

import io
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import Browser, sync_playwright

from phasewatch.client import Client
from phasewatch.errors import PhasewatchError
from phasewatch.report.run import read_run
from phasewatch.report.run_files import write_report
from tests.browser.chromium import find_browser
from tests.browser.watched import FLAGS

ROOT = Path(__file__).resolve().parent.parent.parent
DATA = ROOT / "demo" / "phasewatch-data"
PICTURES = ROOT / "docs" / "pictures"
DESKTOP, PHONE = (1280, 900), (360, 740)
TALLEST = {DESKTOP: 1500, PHONE: 1500}  # pixels kept of a long page
COLOURS = 128  # of the palette: pages are flat, and the pictures lie in git
SETTLED_MS = 5_000
READY_S = 300.0


@dataclass(frozen=True)
class Shot:
    """A picture: its file, the address, the screen, and light or dark."""

    name: str
    address: str
    screen: tuple[int, int] = DESKTOP
    scheme: str = "light"


def shots(two: dict[str, Any], change: str, report: Path) -> list[Shot]:
    """Every page; `two` is the run that learned induction, with its change."""
    run = f"/runs/{two['id']}"
    found = [
        Shot("runs", "/"),
        Shot("run", run),
        Shot("run_dark", run, scheme="dark"),
        Shot("run_phone", run, PHONE),
        Shot("change", f"/changes/{change}"),
        Shot("change_phone", f"/changes/{change}", PHONE),
        Shot("tokens", f"{run}/tokens"),
        Shot("tokens_phone", f"{run}/tokens", PHONE),
        Shot("compare", "/compare?tag=demo"),
        Shot("compare_phone", "/compare?tag=demo", PHONE),
        Shot("monitors", "/monitors?monitor=1"),
        Shot("jobs", "/jobs"),
        Shot("jobs_phone", "/jobs", PHONE),
        Shot("alerts", "/alerts"),
        Shot("api_tokens", "/tokens"),
        Shot("settings", "/settings"),
        Shot("report", report.as_uri()),
        Shot("report_phone", report.as_uri(), PHONE, "dark"),
    ]
    return found


@contextmanager
def service() -> Iterator[str]:
    """The service on a copy of the demo's data; its address."""
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "phasewatch-data"
        shutil.copytree(DATA, data)
        port = free_port()
        own = {name: value for name, value in os.environ.items() if not name.startswith("PHASEWATCH_")}
        child = subprocess.Popen(
            [sys.executable, "-m", "server", "--port", str(port)], cwd=ROOT, stdout=subprocess.DEVNULL,
            env=own | {"PHASEWATCH_DATA": str(data), "PHASEWATCH_EXECUTOR": "thread"},
        )  # fmt: skip
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            child.terminate()
            child.wait(timeout=30)


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_until_quiet(client: Client) -> None:
    """Returns once the service answers and has nothing left to do."""
    deadline = time.monotonic() + READY_S
    while time.monotonic() < deadline:
        try:
            states = {job["state"] for state in ("waiting", "running") for job in client.items("/jobs", state=state)}
            if client.get("/ready")["last_tick"] is not None and not states:
                return
        except PhasewatchError:
            pass
        time.sleep(1.0)
    raise SystemExit(f"the service was not ready after {READY_S:.0f} s")


def take(browser: Browser, base: str, shot: Shot) -> Image.Image:
    """The page as it is once it has settled, cut where it is longer than a picture should be."""
    width, height = shot.screen
    context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=shot.scheme, locale="en-GB")  # type: ignore[arg-type]  # light or dark
    page = context.new_page()
    page.goto(shot.address if "://" in shot.address else base + shot.address)
    if shot.name == "settings":
        page.get_by_role("button", name="Look it over").click()
    page.wait_for_timeout(SETTLED_MS)
    image = Image.open(io.BytesIO(page.screenshot(full_page=True)))
    context.close()
    return image.crop((0, 0, image.width, min(image.height, TALLEST[shot.screen])))


def main() -> int:
    wanted = sys.argv[1:]
    if not DATA.exists():
        raise SystemExit(f"{DATA} does not exist; `make demo` makes it")
    with service() as base, Client(base, token="") as client, tempfile.TemporaryDirectory() as folder:
        wait_until_quiet(client)
        [two] = [run for run in client.items("/runs", tag="demo") if run["name"] == "two layers"]
        [change] = [one for one in client.items(f"/runs/{two['id']}/phase-changes") if one["induction"]]
        report = Path(folder) / "report.html"
        write_report(read_run(client, two["id"]), report)
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=find_browser(), args=FLAGS)
            for shot in shots(two, change["id"], report):
                if wanted and shot.name not in wanted:
                    continue
                path = PICTURES / f"page_{shot.name}.png"
                take(browser, base, shot).convert("RGB").quantize(COLOURS).save(path, optimize=True)
                sys.stdout.write(f"{path.relative_to(ROOT)}  {path.stat().st_size:,} bytes\n")
            browser.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
