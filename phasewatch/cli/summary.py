"""What `phasewatch show` says of a run, gathered from the API: numbers only, apart from how they are printed."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from phasewatch.client import Client


@dataclass(frozen=True)
class LastValue:
    """The newest value of a metric: a number, "Infinity", "-Infinity", or None for NaN."""

    name: str
    step: int
    value: float | str | None


@dataclass(frozen=True)
class Course:
    """A measure from its first checkpoint to its last; for a head score, the highest head's at each.

    `highest` is the highest value at any checkpoint and `head` its (layer, head); None where there are no heads. None
    also stands for a value that is not finite.
    """

    measure: str
    unit: str | None
    n_steps: int
    first: float | None
    last: float | None
    highest: float | None
    head: tuple[int, int] | None
    chance: float | None


@dataclass(frozen=True)
class RunSummary:
    """A run as the API gives it, and what is known of it."""

    run: dict[str, Any]
    series: list[LastValue]
    measures: list[Course]
    phase_changes: list[dict[str, Any]]
    notes: list[str]  # what the newest scan could not look at

    def to_dict(self) -> dict[str, Any]:
        """As JSON-able values."""
        return dataclasses.asdict(self)


def summarise(client: Client, run_id: str) -> RunSummary:
    """The summary of a run as it is now. Raises NotFound."""
    run = client.get(f"/runs/{run_id}")
    series = [
        LastValue(item["name"], item["steps"][-1], item["values"][-1])
        for item in client.items(f"/runs/{run_id}/series")
        if item["steps"]
    ]
    names = dict.fromkeys(item["measure"] for item in client.items(f"/runs/{run_id}/measures"))
    courses = [course(client.get(f"/runs/{run_id}/measures/{name}")) for name in names if name not in _PROFILES]
    notes = client.get(f"/runs/{run_id}/phase-changes")["notes"]
    return RunSummary(run, series, [found for found in courses if found], phase_changes(client, run_id), notes)


# Measures with a value for every position: many numbers, and no table to put them in
_PROFILES = ("position_profile", "position_slope")


def phase_changes(client: Client, run_id: str, *, withdrawn: bool = False) -> list[dict[str, Any]]:
    """The run's phase changes in the order of their steps: those that stand, or all that were ever reported."""
    found = client.items(f"/runs/{run_id}/phase-changes", withdrawn=str(withdrawn).lower())
    return sorted(found, key=lambda change: (change["step"], change["id"]))


def course(history: dict[str, Any]) -> Course | None:
    """The course of one measure's history; None for one that is neither a number nor a score of heads."""
    shape, values, steps = history["shape"], history["values"], history["steps"]
    if len(shape) not in (0, 2) or not steps or (shape and history.get("axes") not in (None, ["layers", "heads"])):
        return None
    if shape:
        tops = [_top(layers) for layers in values]
    else:
        tops = [(value, None) for value in values]
    reached = [top for top in tops if top[0] is not None]
    highest = max(reached, key=lambda top: top[0] or 0.0) if shape and reached else (None, None)
    return Course(
        history["measure"], history["unit"], len(steps), tops[0][0], tops[-1][0], highest[0], highest[1],
        history["chance"],
    )  # fmt: skip


def _top(layers: Sequence[Iterable[float | None]]) -> tuple[float | None, tuple[int, int] | None]:
    """The highest head of scores (n_layers, n_heads), and which it is."""
    scores = [
        (score, (layer, head))
        for layer, heads in enumerate(layers)
        for head, score in enumerate(heads)
        if score is not None
    ]
    return max(scores) if scores else (None, None)
