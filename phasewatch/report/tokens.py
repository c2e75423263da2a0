"""A page of probe text in which each token is coloured by how much its loss fell or rose across a change."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

FloatArray = npt.NDArray[np.floating]

COLUMNS = 100  # characters a line
LINE_INCHES = 0.17
PALETTE = colormaps["PuOr"]


def token_picture(texts: Sequence[Sequence[str]], gain: FloatArray, title: str, *, sequences: int = 5) -> Figure:
    """Probe sequences as running text; purple tokens gained (their loss fell), orange ones lost.

    texts: for each sequence the text of each token, (n_sequences, n_tokens).
    gain: loss before minus loss after in nats, (n_sequences, n_tokens − 1); the first token of a sequence has none.
    Shown are the `sequences` in which the mean gain is largest.
    """
    chosen = np.argsort(-np.nanmean(gain, axis=1))[:sequences]
    limit = float(np.nanpercentile(np.abs(gain[chosen]), 97)) or 1.0
    pages = [_lines(texts[i], np.concatenate([[np.nan], gain[i]])) for i in chosen]
    n_lines = sum(len(lines) + 1 for lines in pages)
    figure = Figure(figsize=(0.082 * COLUMNS + 0.6, LINE_INCHES * n_lines + 1.0), layout="constrained")
    axes = figure.subplots()
    axes.set_xlim(0, COLUMNS)
    axes.set_ylim(n_lines, 0)
    axes.set_axis_off()
    norm = Normalize(-limit, limit)
    row = 0
    for lines in pages:
        for line in lines:
            _draw_line(axes, row, line, norm)
            row += 1
        row += 1
    axes.set_title(title, fontsize=10)
    bar = ScalarMappable(norm, PALETTE)
    figure.colorbar(bar, ax=axes, location="bottom", label="gain: loss before − after (nats)", shrink=0.5, aspect=40)
    return figure


def _lines(texts: Sequence[str], gain: FloatArray) -> list[list[tuple[int, str, float]]]:
    """The tokens as (column, text, gain), broken at line ends and at the page's width."""
    lines: list[list[tuple[int, str, float]]] = [[]]
    column = 0
    for text, value in zip(texts, gain.tolist(), strict=True):
        shown = visible(text)
        if column + len(shown) > COLUMNS and column:
            lines.append([])
            column = 0
        lines[-1].append((column, shown, value))
        column += len(shown)
        if "\n" in text:
            lines.append([])
            column = 0
    return [line for line in lines if line]


def visible(text: str) -> str:
    """A token's text as it is shown: line ends and tabs as signs, so that every token has a place to be coloured."""
    return text.replace("\n", "⏎").replace("\t", "→").replace("\r", "␍")


def _draw_line(axes: Axes, row: int, line: list[tuple[int, str, float]], norm: Normalize) -> None:
    for column, text, value in line:
        if np.isfinite(value):
            axes.add_patch(Rectangle((column, row), len(text), 1.0, color=PALETTE(norm(value)), linewidth=0))
        red, green, blue, _ = PALETTE(norm(value)) if np.isfinite(value) else (1.0, 1.0, 1.0, 1.0)
        ink = "black" if 0.3 * red + 0.6 * green + 0.1 * blue > 0.45 else "white"
        # One text a character: fonts differ in width, the grid does not.
        for offset, letter in enumerate(text):
            if letter != " ":
                place = (column + offset + 0.5, row + 0.55)
                axes.text(*place, letter, family="DejaVu Sans Mono", fontsize=7, color=ink, ha="center", va="center")
