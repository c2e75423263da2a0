"""What the browser tests read off a plot: where steps lie on the screen, and the colours painted there."""

from __future__ import annotations

import math
from collections.abc import Sequence

from playwright.sync_api import Locator

Color = tuple[int, int, int, int]

_COLOR = """(canvas, [x, y]) => {
  const scale = canvas.width / canvas.getBoundingClientRect().width;
  return [...canvas.getContext("2d").getImageData(Math.round(x * scale), Math.round(y * scale), 1, 1).data];
}"""


def canvas_of(figure: Locator) -> Locator:
    """The canvas that a figure is drawn on."""
    return figure.locator("canvas").first


def plot_box(figure: Locator) -> tuple[float, float, float, float]:
    """(left, top, width, height) of the plotting area, in pixels of the canvas's own corner."""
    over = figure.locator(".u-over")
    canvas = canvas_of(figure).bounding_box()
    assert canvas is not None
    if over.count():
        area = over.bounding_box()
        assert area is not None
        return area["x"] - canvas["x"], area["y"] - canvas["y"], area["width"], area["height"]
    return 60.0, 8.0, canvas["width"] - 70.0, canvas["height"] - 42.0  # plots/heat.js


def step_to_x(figure: Locator, step: float, steps: Sequence[int], *, scale: str = "log") -> float:
    """Where a step lies, in pixels of the canvas, when everything of `steps` is in sight."""
    left, _, width, _ = plot_box(figure)
    first, last, at = (math.log1p(one) if scale == "log" else one for one in (steps[0], steps[-1], step))
    return left + (at - first) / (last - first) * width


def color_at(figure: Locator, x: float, y: float) -> Color:
    """Red, green, blue and alpha of the pixel there."""
    red, green, blue, alpha = canvas_of(figure).evaluate(_COLOR, [x, y])
    return red, green, blue, alpha
