"""Finds a Chromium for the browser tests, and installs one where it can.

    python tests/browser/chromium.py     prints the path; run by `make test` before pytest

An installed Chromium or Chrome is taken first; then Debian's package, as root on Debian; then Playwright's own build.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


def find_browser() -> str | None:
    """The path of an installed Chromium or Chrome, Playwright's own included."""
    for name in NAMES:
        if path := shutil.which(name):
            return path
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        own = playwright.chromium.executable_path
    return own if Path(own).exists() else None


def install_browser() -> None:
    """Debian's package where we may install it, else Playwright's own; raises CalledProcessError without either."""
    if shutil.which("apt-get") and os.geteuid() == 0:
        subprocess.run(["apt-get", "update", "-qq"], check=True)
        environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
        packages = ["chromium", "fonts-dejavu-core"]
        command = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *packages]
        subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)
    else:
        subprocess.run([sys.executable, "-m", "playwright", "install", "chromium"], check=True)


def main() -> int:
    if find_browser() is None:
        try:
            install_browser()
        except subprocess.CalledProcessError as error:
            sys.stderr.write(f"no browser for the browser tests: install the package chromium ({error})\n")
            return 1
    sys.stdout.write(f"browser: {find_browser()}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
