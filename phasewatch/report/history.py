"""One run as a report shows it, read over the REST API."""

from __future__ import annotations

from collections.abc import Sequence
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
        [PhaseChange.from_dict({name: item[name] for name in CHANGE_FIELDS}) for item in raw],
        raw,
    )


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
