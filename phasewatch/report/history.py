"""One run as a report shows it, read over the REST API."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from phasewatch.client import Client
from phasewatch.detection.phase_change import PhaseChange
from phasewatch.errors import NotFound

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]

TEXT = "text"
CHANGE_FIELDS = (
    "start_step", "step", "end_step", "kind", "direction", "effect", "unit", "measure", "heads", "signs", "induction",
    "q_value", "n_checkpoints_inside",
)  # fmt: skip
INTERVALS = ("start_interval", "step_interval", "end_interval")


@dataclass(frozen=True)
class RunHistory:
    """A run: as the API describes it, its measures by name as (steps (n,), values (n, *shape)), and its changes.

    loss: mean loss on the slice `text` at each of its steps. raw_changes are the changes as the API gave them.
    """

    run: dict[str, Any]
    loss: tuple[IntArray, FloatArray]
    measures: dict[str, tuple[IntArray, FloatArray]]
    changes: list[PhaseChange]
    raw_changes: list[dict[str, Any]]

    @property
    def name(self) -> str:
        return str(self.run["name"])

    @property
    def induction(self) -> PhaseChange | None:
        """The first change with the induction verdict."""
        return next((change for change in self.changes if change.induction), None)


def load_history(client: Client, run_id: str, measures: Sequence[str]) -> RunHistory:
    """The run with those of `measures` that were measured; raises NotFound for an unknown run."""
    run = client.get(f"/runs/{run_id}")
    loss = list(client.items(f"/runs/{run_id}/losses/{TEXT}"))
    raw = list(client.items(f"/runs/{run_id}/phase-changes"))
    return RunHistory(
        run,
        (np.array([row["step"] for row in loss], np.int64), np.array([row["mean"] for row in loss], np.float64)),
        {name: found for name in measures if (found := _load_measure(client, run_id, name)) is not None},
        [phase_change(item) for item in raw],
        raw,
    )


def phase_change(item: Mapping[str, Any]) -> PhaseChange:
    """A change as the API gives it; an end that is open there (null) is infinite here."""
    found = {name: item[name] for name in CHANGE_FIELDS} | {name: _interval(item[name]) for name in INTERVALS}
    return PhaseChange.from_dict(found | {"effect": item["effect"] or 0.0})


def _interval(ends: Sequence[float | None] | None) -> tuple[float, float] | None:
    if ends is None:
        return None
    low, high = ends
    return -math.inf if low is None else low, math.inf if high is None else high


def _load_measure(client: Client, run_id: str, name: str) -> tuple[IntArray, FloatArray] | None:
    try:
        found = client.get(f"/runs/{run_id}/measures/{name}")
    except NotFound:
        return None
    return np.array(found["steps"], np.int64), np.array(found["values"], np.float64)


def load_gain(client: Client, history: RunHistory, change: PhaseChange) -> tuple[list[list[str]], FloatArray]:
    """Token texts (n_sequences, n_tokens) of the slice `text`, and what each gained across a change.

    The gain is the loss at the last checkpoint before the change minus that at the first one after it, in nats,
    (n_sequences, n_tokens − 1).
    """
    steps, _ = history.loss
    end = steps[-1] if change.end_step is None else change.end_step
    before, after = steps[steps <= change.start_step].max(), steps[steps >= end].min()
    texts = client.get(f"/probe-sets/{history.run['probe_set']}/slices/{TEXT}")["texts"]
    losses = [client.get(f"/runs/{history.run['id']}/losses/{TEXT}/{step}") for step in (before, after)]
    values = [np.array(found["values"], np.float64).reshape(found["shape"]) for found in losses]
    return texts, values[0] - values[1]
