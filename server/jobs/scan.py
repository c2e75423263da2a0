"""Scans one run for phase changes: everything measured so far goes to the detector, and what it finds is stored.

A study's losses can be larger than memory: the detectors read them from the store block by block.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import numpy as np
import numpy.typing as npt
from sqlalchemy.orm import Session

from phasewatch.detection import DETECTOR_VERSION, Changes, find_run_changes
from phasewatch.errors import NotFound
from phasewatch.measures import registry
from phasewatch.probes import DRAWN, TEXT
from phasewatch.storage.artifacts import Artifacts
from phasewatch.storage.database import Database
from phasewatch.storage.loss_columns import StoredLosses
from phasewatch.storage.losses import list_loss_slices
from phasewatch.storage.measurements import list_measures, load_measure
from phasewatch.storage.phase_changes import store_scan
from phasewatch.storage.probe_sets import load_probe_set
from phasewatch.storage.runs import get_run
from phasewatch.storage.schema import ENDED
from phasewatch.storage.series import load_series
from phasewatch.storage.token_groups import load_groups
from server.jobs.work import Progress, Store, Work, job

HEADS = ("layers", "heads")
MEASURED_SERIES = ("icl_score", "repeat_gain")
TOKEN_GROUP = "token_group"
LOGGED_SERIES = ("learning_rate", "lr", "batch_size")  # a change that coincides with a turn of these says so

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.floating[Any]]


def fingerprint(parameters: Mapping[str, Any]) -> str:
    """Twelve hex digits that change with the detector's version or the parameters."""
    text = json.dumps([DETECTOR_VERSION, dict(parameters)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def ignored_measures() -> list[str]:
    """Measures that are no reason to look again: those of a few checkpoints.

    Not the losses of token groups: a new group's members are news to the detector, and they come with its losses.
    """
    return [one.name for one in registry.select() if one.cost != "every_checkpoint" and one.name != TOKEN_GROUP]


@dataclass
class ScanInputs:
    """What a detector is given of a run; rows are the checkpoints at `steps` (n_steps,), ascending.

    losses[slice]   (n_steps, n_tokens) nats, read when they are asked for; NaN where not recorded
    tokens[slice]   (n_sequences, n_tokens + 1)
    scores[measure] (n_steps, n_layers, n_heads); NaN where not measured; chance[measure] its level
    series[name]    (n_steps,); NaN where not measured
    groups[slice]   by name the losses that belong to a token group, (n_tokens,)
    """

    steps: IntArray
    losses: dict[str, StoredLosses] = field(default_factory=dict)
    tokens: dict[str, npt.NDArray[np.int32]] = field(default_factory=dict)
    scores: dict[str, FloatArray] = field(default_factory=dict)
    chance: dict[str, float] = field(default_factory=dict)
    series: dict[str, FloatArray] = field(default_factory=dict)
    groups: dict[str, dict[str, npt.NDArray[np.bool_]]] = field(default_factory=dict)

    @property
    def main_slice(self) -> str | None:
        """The slice that tokens of a change index: the first that was not drawn at random."""
        return next((name for name in self.losses if name not in DRAWN), None)


@job("scan")
def scan(work: Work, database: Database, artifacts: Artifacts) -> Store:
    """Looks at the run's visible history as it is now; where nothing can be said, the scan's notes say why."""
    run_id, _, _ = work.checkpoint()
    tell = Progress(work, database)
    with database.reading() as session:
        inputs = load_inputs(database, session, run_id)
    tell(0.1, f"looking for changes at {len(inputs.steps)} checkpoints")
    found = find_changes(inputs)

    def store(session: Session) -> None:
        ended = bool(work.parameters.get("ended")) and get_run(session, run_id).status in ENDED
        store_scan(
            session,
            run_id,
            found,
            inputs.steps.tolist(),
            detector_version=DETECTOR_VERSION,
            ended=ended,
            slice_name=inputs.main_slice,
            notes=found.notes,
        )

    return store


def find_changes(inputs: ScanInputs) -> Changes:
    """What the detector finds, and its notes."""
    return find_run_changes(
        inputs.steps,
        inputs.losses,
        inputs.scores,
        inputs.series,
        documents={name: documents(tokens) for name, tokens in inputs.tokens.items()},
        tokens=inputs.tokens,
        chance=inputs.chance,
        groups=inputs.groups,
    )


def documents(tokens: npt.NDArray[np.int32]) -> IntArray:
    """The sequence of every loss of tokens (n_sequences, n_tokens), flat."""
    return np.repeat(np.arange(len(tokens)), tokens.shape[1] - 1)


def load_inputs(database: Database, session: Session, run_id: UUID) -> ScanInputs:
    """What there is of a run to scan; losses are read from the database later, as they are needed."""
    probe_set_id = get_run(session, run_id).probe_set_id
    if probe_set_id is None:
        return ScanInputs(np.array([], np.int64))
    probes = load_probe_set(session, probe_set_id)
    recorded = {name: {row.step for row in list_loss_slices(session, run_id, name)} for name in probes.slices}
    inputs = ScanInputs(np.array(sorted(set().union(*recorded.values())), np.int64))
    for name in _text_first(name for name, found in recorded.items() if found):
        inputs.losses[name] = StoredLosses(database, run_id, name, inputs.steps)
        inputs.tokens[name] = probes.slices[name].tokens
    for group in load_groups(session, probe_set_id):
        if group.slice in inputs.losses:
            inputs.groups.setdefault(group.slice, {})[group.name] = group.members.reshape(-1)
    _load_measures(session, run_id, inputs)
    for name, (at, values) in load_series(session, run_id, LOGGED_SERIES).items():
        inputs.series[name] = _last_known(inputs.steps, at, values)
    return inputs


def _text_first(names: Iterable[str]) -> list[str]:
    return sorted(names, key=lambda name: (name != TEXT, name))


def _load_measures(session: Session, run_id: UUID, inputs: ScanInputs) -> None:
    for name in sorted({name for name, *_ in list_measures(session, run_id)}):
        of_heads = _is_of_heads(name)
        if not (of_heads or name in MEASURED_SERIES):
            continue
        history = load_measure(session, run_id, name)
        if of_heads and history.values.ndim == 3:
            inputs.scores[name] = _aligned(inputs.steps, history.steps, history.values)
            known = history.chance[np.isfinite(history.chance)]
            if known.size:
                inputs.chance[name] = float(known.mean())
        elif not of_heads and history.values.ndim == 1:
            inputs.series[name] = _aligned(inputs.steps, history.steps, history.values)


def _is_of_heads(name: str) -> bool:
    try:
        found = registry.get(name)
    except NotFound:
        return False
    return found.shape == HEADS and found.cost == "every_checkpoint"


def _aligned(steps: IntArray, at: IntArray, values: FloatArray) -> FloatArray:
    """Rows of values (len(at), …) at each of `steps`, NaN where there is none."""
    if np.array_equal(steps, at):
        return values
    rows = np.full((len(steps), *values.shape[1:]), np.nan, values.dtype)
    shared = np.isin(at, steps)
    rows[np.searchsorted(steps, at[shared])] = values[shared]
    return rows


def _last_known(steps: IntArray, at: Sequence[int], values: Sequence[float]) -> FloatArray:
    """A logged series at the checkpoints: its newest value at or before each, NaN before the first."""
    places = np.searchsorted(np.asarray(at), steps, side="right") - 1
    return np.where(places < 0, np.nan, np.asarray(values, np.float64)[np.maximum(places, 0)])
