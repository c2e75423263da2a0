"""Curves and maps of a run over its steps, each change marked as a band from its start to its end.

Every function takes arrays and gives back a matplotlib Figure, with one panel a run; nothing here reads a file or knows
a server. Steps are on a symmetric log axis, because learning is quick at first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from phasewatch.detection.phase_change import PhaseChange

FloatArray = npt.NDArray[np.floating]
IntArray = npt.NDArray[np.integer]

Panels = Mapping[str, tuple[IntArray, FloatArray, Sequence[PhaseChange]]]
"""run name -> (steps (n,), one array over them, changes to mark)"""

CONTEXT_FREE = 4  # positions with hardly any context: their loss is far above the rest and would take all the colours
LINEAR_BELOW = 10  # steps; the axis is logarithmic above
DENSE_TICKS_UP_TO = 2_000  # steps; in longer runs the ticks at 2 and 5 times a power of ten would touch
COLOURS = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
)  # Okabe and Ito, safe for colour-blind eyes
INDUCTION_COLOUR = "#E69F00"
CHANGE_COLOUR = "#999999"


def loss_picture(runs: Panels) -> Figure:
    """Mean loss (n,) in nats over steps."""
    return score_picture(
        {name: (steps, {"mean loss": loss}, changes) for name, (steps, loss, changes) in runs.items()},
        "mean loss (nats)",
    )


def score_picture(
    runs: Mapping[str, tuple[IntArray, Mapping[str, FloatArray], Sequence[PhaseChange]]], unit: str
) -> Figure:
    """Named curves over steps: run name -> (steps (n,), label -> values (n,), changes)."""
    figure, panels = _panels(runs, height=3.6)
    for axes, (steps, curves, changes) in zip(panels, runs.values(), strict=True):
        for (label, values), colour in zip(curves.items(), cycle(COLOURS), strict=False):
            axes.plot(steps, values, color=colour, label=label, marker=".", markersize=3, linewidth=1.4)
        mark_changes(axes, changes, int(steps[-1]))
        step_axis(axes, int(steps[-1]))
        axes.grid(alpha=0.25)
        axes.legend(fontsize=8, framealpha=0.9)
    panels[0].set_ylabel(unit)
    return figure


def head_picture(runs: Panels, measure: str) -> Figure:
    """One row a head, one column a checkpoint: scores (n, n_layers, n_heads)."""
    figure, panels = _panels(runs, height=2.8, share_rows=False)
    highest = max(0.6, *(float(np.nanmax(scores)) for _, scores, _ in runs.values()))
    for axes, (steps, scores, changes) in zip(panels, runs.values(), strict=True):
        _, n_layers, n_heads = scores.shape
        names = [f"L{layer}H{head}" for layer in range(n_layers) for head in range(n_heads)]
        rows = scores.reshape(len(steps), -1).T
        image = axes.pcolormesh(
            step_edges(steps), np.arange(len(names) + 1) - 0.5, rows, cmap="cividis", vmin=0.0, vmax=highest
        )
        axes.set_yticks(range(len(names)), names)
        axes.invert_yaxis()
        mark_changes(axes, changes, int(steps[-1]), bands=False)
        step_axis(axes, int(steps[-1]))
    figure.colorbar(image, ax=panels, label=measure.replace("_", " "))
    return figure


def position_picture(runs: Panels) -> Figure:
    """Loss by position and step: mean loss by position (n, n_positions) in nats.

    The two-dimensional figure of Olsson et al. 2022: in-context learning is a loss that falls along the context.
    Drawn is the loss minus its checkpoint's mean, so that the fall of the whole does not hide it.
    """
    relative = {
        name: (steps, profile - profile.mean(axis=1, keepdims=True), changes)
        for name, (steps, profile, changes) in runs.items()
    }
    return _position_map(relative, "loss − checkpoint's mean (nats)")


def slope_picture(runs: Panels) -> Figure:
    """The log-derivative of the figure above: slopes (n, n_slopes) of the loss from position i to 2i, in nats per ln.

    Negative where context helps; a model without in-context learning is flat beyond the first positions.
    """
    return _position_map(runs, "slope from i to 2i (nats per ln token)")


def _position_map(runs: Panels, label: str) -> Figure:
    """Values (n, n_positions) around zero, averaged over bins that grow with the position: single ones are noisy."""
    figure, panels = _panels(runs, height=3.6)
    edges = [position_edges(values.shape[1]) for _, values, _ in runs.values()]
    binned = [_bin_means(values, at) for (_, values, _), at in zip(runs.values(), edges, strict=True)]
    later = [values[:, at[:-1] >= CONTEXT_FREE] for values, at in zip(binned, edges, strict=True)]
    limit = max(float(np.nanmax(np.abs(values), initial=0.01)) for values in later)
    for axes, at, values, (steps, _, changes) in zip(panels, edges, binned, runs.values(), strict=True):
        norm = TwoSlopeNorm(0.0, -limit, limit)
        image = axes.pcolormesh(step_edges(steps), at + 0.5, values.T, cmap="PuOr", norm=norm)
        axes.set_yscale("log", base=2)
        axes.set_yticks(ticks := [2**k for k in range(int(at[-1]).bit_length())], [f"{tick:,}" for tick in ticks])
        mark_changes(axes, changes, int(steps[-1]), bands=False)
        step_axis(axes, int(steps[-1]))
    panels[0].set_ylabel("position in the context (token)")
    figure.colorbar(image, ax=panels, label=label, extend="both")
    return figure


def position_edges(n_positions: int) -> IntArray:
    """Edges of bins over positions 1 … n_positions, each half as far again as the one before: 0, 1, 2, 3, 4, 6, 9 …

    A bin (a, b] holds the positions a + 1 … b.
    """
    edges = [0, 1]
    while edges[-1] < n_positions:
        edges.append(min(n_positions, max(edges[-1] + 1, edges[-1] * 3 // 2)))
    return np.array(edges)


def _bin_means(values: FloatArray, edges: IntArray) -> FloatArray:
    """(n, n_positions) to (n, n_bins): the mean of each bin."""
    means: FloatArray = np.add.reduceat(values, edges[:-1], axis=1) / np.diff(edges)
    return means


def _panels(runs: Mapping[str, object], *, height: float, share_rows: bool = True) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(5.2 * len(runs), height), layout="constrained")
    panels = list(figure.subplots(1, len(runs), sharey=share_rows, squeeze=False)[0])
    for axes, name in zip(panels, runs, strict=True):
        axes.set_title(name)
    return figure, panels


def mark_changes(axes: Axes, changes: Sequence[PhaseChange], last_step: int, *, bands: bool = True) -> None:
    """A band from start to end and a line at the middle of each change; the induction change in a colour of its own."""
    for change in changes:
        colour = INDUCTION_COLOUR if change.induction else CHANGE_COLOUR
        end = last_step if change.end_step is None else change.end_step
        name = "induction" if change.induction else f"{change.kind} {change.direction}"
        if bands:
            axes.axvspan(change.start_step, end, color=colour, alpha=0.22, linewidth=0)
        for step, style in ((change.start_step, ":"), (change.step, "-"), (end, ":")):
            label = f"{name}, step {change.step}" if style == "-" and bands else None
            line = axes.axvline(step, color=colour, linestyle=style, linewidth=1.2, label=label)
            if not bands:  # a map has every colour, the line's own too
                line.set_path_effects([withStroke(linewidth=2.6, foreground="white")])
        if bands:
            _mark_intervals(axes, change, last_step, colour)


def _mark_intervals(axes: Axes, change: PhaseChange, last_step: int, colour: str) -> None:
    """Bars below the panel's upper edge: how well start, middle and end are known, the middle's one lower."""
    for interval, height in (
        (change.start_interval, 0.985), (change.step_interval, 0.96), (change.end_interval, 0.985)
    ):  # fmt: skip
        if interval is not None:
            low, high = np.clip(interval, 0, last_step)
            axes.plot(
                [low, high], [height] * 2, color=colour, linewidth=3, alpha=0.9, solid_capstyle="butt",
                transform=axes.get_xaxis_transform(), label="_interval",
            )  # fmt: skip


def step_axis(axes: Axes, last_step: int) -> None:
    """The shared step axis: linear below ten, logarithmic above, ticks at 0 and at round numbers that have room."""
    axes.set_xscale("symlog", linthresh=LINEAR_BELOW)
    rounds = (1, 2, 5) if last_step <= DENSE_TICKS_UP_TO else (1,)
    ticks = [0, *(m * 10**k for k in range(1, 10) for m in rounds if m * 10**k <= last_step)]
    axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    axes.minorticks_off()
    axes.set_xlim(0, last_step)
    axes.set_xlabel("step (optimizer steps completed)")


def step_edges(steps: IntArray) -> FloatArray:
    """Cell edges (n + 1,) half-way between neighbouring checkpoints, for maps."""
    middles = (steps[1:] + steps[:-1]) / 2
    return np.concatenate([[steps[0]], middles, [steps[-1]]])
