"""What a report of one run is made of, read over the REST API: numbers and what the API says of them, no words yet.

More than history.py reads for the demo's pictures: intervals, chance levels, versions, tokens, and what was looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt

from phasewatch.client import Client
from phasewatch.report.history import TEXT

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]
Tell = Callable[[int, int], None]
"""told how many of how many requests are done"""

MOST_TOKENS = 1_000  # of a change, the most certain first
AROUND = 5  # checkpoints on either side of a change that before and after are means of, as GET /compare has it
_DRAWN = ("repeats", "random")
_SCANS = 20
HEAD_AXES = ["layers", "heads"]
_OF_CHANGES = ("ablation:", "attention_pattern:", "natural_attention_pattern:")  # what the changes carry


@dataclass(frozen=True)
class Course:
    """A measure along a run: steps (n,), values (n, *shape), interval (n, 2, *shape) or None, in `unit`."""

    name: str
    version: int
    unit: str
    steps: IntArray
    values: FloatArray
    interval: FloatArray | None
    chance: float | None
    of_heads: bool

    def head(self, layer: int, head: int) -> Course | None:
        """The course of one head; None where the model has no such head."""
        _, n_layers, n_heads = self.values.shape
        if layer >= n_layers or head >= n_heads:
            return None
        interval = None if self.interval is None else self.interval[:, :, layer, head]
        name = f"{self.name}, L{layer}H{head}"
        values = self.values[:, layer, head]
        return Course(name, self.version, self.unit, self.steps, values, interval, self.chance, False)

    def highest_head(self) -> tuple[int, int] | None:
        """(layer, head) of the highest score at the last checkpoint; None where no score is finite."""
        last = self.values[-1]
        if not np.isfinite(last).any():
            return None
        layer, head = np.unravel_index(np.nanargmax(last), last.shape)
        return int(layer), int(head)


@dataclass(frozen=True)
class RunFacts:
    """A run as a report shows it.

    slice, loss_steps, loss   the slice whose mean losses (n,) these are, nats; None where the run has none
    non_finite                losses on that slice that are NaN or infinite, over all checkpoints
    changes, withdrawn        phase changes that stand, and those that later scans no longer saw, by step
    tokens                    by change the tokens that move with it, at most MOST_TOKENS
    definitions               what the server says of each measure, by name
    scans                     the newest scan jobs, the newest first
    """

    run: dict[str, Any]
    probe_set: dict[str, Any] | None
    slice: str | None
    loss_steps: IntArray
    loss: FloatArray
    non_finite: int
    measures: dict[str, Course]
    definitions: dict[str, dict[str, Any]]
    changes: list[dict[str, Any]]
    withdrawn: list[dict[str, Any]]
    tokens: dict[str, list[dict[str, Any]]]
    scans: list[dict[str, Any]]

    @property
    def main_change(self) -> dict[str, Any] | None:
        """The first induction change, else the first change that is no spike; None without any."""
        found = [change for change in self.changes if change["kind"] != "spike"]
        return next((change for change in found if change["induction"]), found[0] if found else None)


def read_run(client: Client, run_id: str, tell: Tell = lambda done, total: None) -> RunFacts:
    """Everything a report needs of a run. Raises NotFound."""
    run = client.get(f"/runs/{run_id}")
    names = [item["measure"] for item in client.items(f"/runs/{run_id}/measures")]
    names = [name for name in dict.fromkeys(names) if not name.startswith(_OF_CHANGES)]
    found = list(client.items(f"/runs/{run_id}/phase-changes", withdrawn="true"))
    changes = sorted(found, key=lambda change: (change["step"], change["id"]))
    standing = [change for change in changes if change["state"] != "withdrawn"]
    total, done, measures, tokens = len(names) + len(standing), 0, {}, {}
    for name in names:
        measures[name] = _course(client.get(f"/runs/{run_id}/measures/{name}"))
        tell(done := done + 1, total)
    for change in standing:
        tokens[change["id"]] = list(islice(client.items(f"/phase-changes/{change['id']}/tokens"), MOST_TOKENS))
        tell(done := done + 1, total)
    probe_set = client.get(f"/probe-sets/{run['probe_set']}") if run["probe_set"] else None
    part = None if probe_set is None else _main_slice(probe_set)
    losses = [] if part is None else list(client.items(f"/runs/{run_id}/losses/{part}"))
    return RunFacts(
        run, probe_set, part,
        np.array([row["step"] for row in losses], np.int64),
        np.array([row["mean"] for row in losses], np.float64),
        sum(row["n_non_finite"] for row in losses),
        measures,
        {one["name"]: one for one in client.items("/measures")},
        standing,
        [change for change in changes if change["state"] == "withdrawn"],
        tokens,
        client.get("/jobs", run=run_id, kind="scan", limit=_SCANS)["items"],
    )  # fmt: skip


def _main_slice(probe_set: Mapping[str, Any]) -> str | None:
    """The slice of real text: `text`, else the first that was not drawn at random."""
    slices = probe_set["slices"]
    own = [name for name, part in slices.items() if part["layout"]["kind"] not in _DRAWN]
    return TEXT if TEXT in own else next(iter(own), None)


def _course(found: Mapping[str, Any]) -> Course:
    interval = None if found["interval"] is None else np.array(found["interval"], np.float64)
    values = np.array(found["values"], np.float64)
    of_heads = values.ndim == 3 and found.get("axes") in (None, HEAD_AXES)
    unit, steps = found["unit"] or "", np.array(found["steps"], np.int64)
    return Course(found["measure"], found["version"], unit, steps, values, interval, found["chance"], of_heads)


def around(course: Course, change: Mapping[str, Any]) -> tuple[float, float]:
    """Means of a number's course over up to five checkpoints before a change's start and after its end; else NaN."""
    before = course.steps <= change["start_step"]
    end = change["step"] if change["end_step"] is None else change["end_step"]
    return _mean(course.values[before][-AROUND:]), _mean(course.values[course.steps >= end][:AROUND])


def _mean(values: FloatArray) -> float:
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if finite.size else float("nan")
