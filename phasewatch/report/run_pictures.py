"""The pictures of one run's report, as SVG that follows the page's colours, and as PNG.

Apart from pictures.py, which draws: here stands which pictures a run gets, what is said under them, and how a figure
becomes markup without script, style sheet, address or clock.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.collections import QuadMesh
from matplotlib.figure import Figure

from phasewatch.detection.phase_change import PhaseChange
from phasewatch.report.history import phase_change
from phasewatch.report.markup import Markup
from phasewatch.report.pictures import (
    Panels,
    head_picture,
    loss_picture,
    position_picture,
    score_picture,
    slope_picture,
)
from phasewatch.report.run import Course, RunFacts

DPI = 150  # of what is an image inside the page
PRINT_DPI = 300
_INK = "#010203"  # stands for the page's own colour of text until the markup is made
_INKED = (
    "text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color", "grid.color", "legend.edgecolor",
)  # fmt: skip
_CHANCE_COLOUR = "#ff4040"
_ROW_INCHES, _TALLEST = 0.17, 9.0
_NAMED_ROWS = 48  # heads; with more, not every row has a name


_BANDS = " Bands: changes from start to end; bars above them: 95 % intervals of start, middle and end."
_MAPS: dict[str, tuple[str, str, Callable[[Panels], Figure], str]] = {
    "position_profile": (
        "position", "Loss by position and step", position_picture,
        "At each checkpoint the loss by position minus the mean over positions, the two-dimensional figure of Olsson "
        "et al. 2022. Where later positions turn below the mean, the model has begun to learn in context.",
    ),
    "position_slope": (
        "position_slope", "Slope of the loss along the context", slope_picture,
        "The derivative of the figure of loss by position with respect to the logarithm of the position. Orange: "
        "tokens further on are predicted better. Without in-context learning only the first positions are coloured.",
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Picture:
    """A picture: its name, its title, what a reader should know, and how it is drawn."""

    name: str
    title: str
    caption: str
    draw: Callable[[], Figure]


def pictures(facts: RunFacts) -> list[Picture]:
    """Those pictures for which the run has at least two checkpoints with a finite value."""
    return list(_pictures(facts))


def _pictures(facts: RunFacts) -> Iterator[Picture]:
    # The run's name stays out of the figures, where it could be read as a formula
    changes = [phase_change(change) for change in facts.changes]
    if _is_drawn(facts.loss_steps, facts.loss):
        caption = f"Mean over the probe tokens of slice {facts.slice}, at {len(facts.loss_steps)} checkpoints."
        caption += _BANDS if changes else ""
        panels = {"": (facts.loss_steps, facts.loss, changes)}
        yield Picture("loss", "Mean loss", caption, lambda: loss_picture(panels))
    for name, title in (("icl_score", "ICL score"), ("repeat_gain", "Repeat gain")):
        course = facts.measures.get(name)
        if course is not None and course.values.ndim == 1 and _is_drawn(course.steps, course.values):
            yield Picture(name, title, _summary(facts, course), _curve(course, title, changes))
    for name in ("natural_prefix_matching", "prefix_matching"):
        course = facts.measures.get(name)
        if course is not None and course.of_heads and _is_drawn(course.steps, course.values):
            yield Picture(name, _title(name), _heads_caption(facts, course), _heads(course, changes))
    for name, (file, title, draw, caption) in _MAPS.items():
        course = facts.measures.get(name)
        if course is not None and course.values.ndim == 2 and _is_drawn(course.steps, course.values):
            yield Picture(file, title, caption, partial(draw, {"": (course.steps, course.values, changes)}))


def _is_drawn(steps: Any, values: Any) -> bool:
    return len(steps) > 1 and bool(np.isfinite(values).any())


def _title(name: str) -> str:
    return name.replace("_", " ").capitalize()


def _summary(facts: RunFacts, course: Course) -> str:
    return str(facts.definitions.get(course.name, {}).get("summary", ""))


def _curve(course: Course, title: str, changes: list[PhaseChange]) -> Callable[[], Figure]:
    unit = f" ({course.unit})" if course.unit else ""
    return lambda: score_picture({"": (course.steps, {title: course.values}, changes)}, title + unit)


def _heads_caption(facts: RunFacts, course: Course) -> str:
    if course.chance is None:
        return f"{_summary(facts, course)} No chance level was recorded."
    return (
        f"{_summary(facts, course)} Chance, under uniform attention over what came before: {course.chance:.4f} (line "
        "on the colour bar). Lines: start, middle and end of changes."
    )


def _heads(course: Course, changes: list[PhaseChange]) -> Callable[[], Figure]:
    def draw() -> Figure:
        figure = head_picture({"": (course.steps, course.values, changes)}, course.name)
        axes, bar = figure.axes[0], figure.axes[-1]
        names = [label.get_text() for label in axes.get_yticklabels()]
        figure.set_size_inches(figure.get_figwidth(), min(_TALLEST, max(2.8, 1.0 + _ROW_INCHES * len(names))))
        if len(names) > _NAMED_ROWS:
            every = -(-len(names) // _NAMED_ROWS)
            axes.set_yticks(range(0, len(names), every), names[::every])
        if course.chance is not None:
            bar.axhline(course.chance, color=_CHANCE_COLOUR, linewidth=1.5)
        return figure

    return draw


def to_png(picture: Picture) -> bytes:
    """The picture as PNG at 300 dots an inch, as journals ask for; the same bytes for the same data."""
    out = BytesIO()
    picture.draw().savefig(out, format="png", dpi=PRINT_DPI, metadata={"Software": None})
    return out.getvalue()


def to_svg_file(picture: Picture) -> bytes:
    """The picture as an SVG file of its own, black on white, its letters as outlines; the same bytes again."""
    return _svg(picture, {}).encode()


def to_svg(picture: Picture) -> Markup:
    """The picture as an inline SVG whose ink is the text's colour; its ids begin with the picture's name."""
    style = {**dict.fromkeys(_INKED, _INK), "axes.facecolor": "none", "figure.facecolor": "none"}
    return _inline(_svg(picture, style), picture)


def _svg(picture: Picture, style: dict[str, str]) -> str:
    out = BytesIO()
    always: Any = {"svg.hashsalt": picture.name, "svg.fonttype": "path", **style}
    with rc_context(always):
        figure = picture.draw()
        for mesh in figure.findobj(QuadMesh):
            mesh.set_rasterized(True)  # one image, however many checkpoints and heads
        figure.savefig(out, format="svg", dpi=DPI, metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    return out.getvalue().decode()


def _inline(svg: str, picture: Picture) -> Markup:
    """What matplotlib wrote, without what only a file of its own needs."""
    svg = svg[svg.index("<svg") :]
    for gone in (r"<metadata>.*?</metadata>", r"<defs>\s*<style.*?</style>\s*</defs>", r"<!--.*?-->"):
        svg = re.sub(gone, "", svg, flags=re.DOTALL)
    box = re.search(r'viewBox="[^"]*"', svg)
    start = f'<svg {box[0] if box else ""} role="img" aria-label="{picture.title}">'
    svg = start + svg[svg.index(">") + 1 :]
    svg = re.sub(r'\bid="', f'id="{picture.name}-', svg)
    svg = svg.replace("xlink:href=", "href=").replace('href="#', f'href="#{picture.name}-')
    svg = svg.replace("url(#", f"url(#{picture.name}-")
    return Markup(re.sub(r"\s*\n\s*", "\n", svg.replace(_INK, "currentColor")).strip())
