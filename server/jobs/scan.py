"""Scans one run for phase changes: everything measured so far goes to the detector, and what it finds is stored.

A study's losses can be larger than memory; beyond `MAX_VALUES` a scan looks at evenly spread sequences, the same ones
every time, and says so in what it finds.
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

from phasewatch.detection import DETECTOR_VERSION, PhaseChange, find_run_changes
from phasewatch.detection.prepare import MIN_CHECKPOINTS
from phasewatch.errors import NotFound
from phasewatch.measures import registry
from phasewatch.probes import DRAWN, TEXT, ProbeSet
from phasewatch.storage.artifacts import Artifacts
from phasewatch.storage.database import Database
from phasewatch.storage.losses import list_loss_slices, loss_history
from phasewatch.storage.measurements import list_measures, load_measure
from phasewatch.storage.phase_changes import store_scan
from phasewatch.storage.probe_sets import load_probe_set
from phasewatch.storage.runs import get_run
from phasewatch.storage.schema import ENDED
from phasewatch.storage.series import load_series
from phasewatch.storage.token_groups import load_groups
from phasewatch.storage.trajectories import spread
from server.jobs.work import Progress, Store, Work, job

MAX_VALUES = 50_000_000  # of one slice: 200 MB of float32, and a few times that while it is looked at
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

    losses[slice]   (n_steps, n_tokens) nats, of sequences[slice], some of n_sequences[slice]; NaN where not recorded
    tokens[slice]   (n_sequences, n_tokens + 1) of the same sequences
    scores[measure] (n_steps, n_layers, n_heads); NaN where not measured; chance[measure] its level
    series[name]    (n_steps,); NaN where not measured
    groups[slice]   by name the losses that belong to a token group, (n_tokens,)
    """

    steps: IntArray
    losses: dict[str, FloatArray] = field(default_factory=dict)
    tokens: dict[str, npt.NDArray[np.int32]] = field(default_factory=dict)
    sequences: dict[str, IntArray] = field(default_factory=dict)
    n_sequences: dict[str, int] = field(default_factory=dict)
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
    """Looks at the run's visible history as it is now; too few checkpoints store nothing."""
    run_id, _, _ = work.checkpoint()
    tell = Progress(work, database)
    with database.reading() as session:
        inputs = load_inputs(session, run_id)
    if inputs is not None:
        tell(0.3, f"looking for changes at {len(inputs.steps)} checkpoints")
    changes = [] if inputs is None else find_changes(inputs)

    def store(session: Session) -> None:
        if inputs is None:
            return
        ended = bool(work.parameters.get("ended")) and get_run(session, run_id).status in ENDED
        store_scan(
            session,
            run_id,
            changes,
            inputs.steps.tolist(),
            detector_version=DETECTOR_VERSION,
            ended=ended,
            slice_name=inputs.main_slice,
        )

    return store


def find_changes(inputs: ScanInputs) -> list[PhaseChange]:
    """What the detector finds, its tokens as flat indices into the whole slice."""
    found = find_run_changes(
        inputs.steps,
        inputs.losses,
        inputs.scores,
        inputs.series,
        documents={name: documents(tokens) for name, tokens in inputs.tokens.items()},
        tokens=inputs.tokens,
        chance=inputs.chance,
        groups=inputs.groups,
    )
    main = inputs.main_slice
    if main is None:
        return list(found)
    sequences, n_positions = inputs.sequences[main], inputs.tokens[main].shape[1] - 1
    n_all = inputs.n_sequences[main]
    sample = f"Looked at {len(sequences)} of {n_all} sequences of {main}." if len(sequences) < n_all else ""
    return [_in_the_run(change, sequences, n_positions, sample) for change in found]


def _in_the_run(change: PhaseChange, sequences: IntArray, n_positions: int, remark: str) -> PhaseChange:
    if change.tokens is not None:
        change = change.evolve(tokens=in_whole_slice(change.tokens, sequences, n_positions))
    return change.evolve(remarks=(*change.remarks, remark)) if remark else change


def documents(tokens: npt.NDArray[np.int32]) -> IntArray:
    """The sequence of every loss of tokens (n_sequences, n_tokens), flat."""
    return np.repeat(np.arange(len(tokens)), tokens.shape[1] - 1)


def in_whole_slice(tokens: IntArray, sequences: IntArray, n_positions: int) -> IntArray:
    """Flat indices into the losses of some sequences, as flat indices into those of all."""
    row, column = np.divmod(tokens, n_positions)
    return sequences[row] * n_positions + column


def load_inputs(session: Session, run_id: UUID) -> ScanInputs | None:
    """What there is of a run to scan; None below `MIN_CHECKPOINTS` checkpoints with losses."""
    probe_set_id = get_run(session, run_id).probe_set_id
    if probe_set_id is None:
        return None
    probes = load_probe_set(session, probe_set_id)
    recorded = {name: {row.step for row in list_loss_slices(session, run_id, name)} for name in probes.slices}
    steps = sorted(set().union(*recorded.values()))
    if len(steps) < MIN_CHECKPOINTS:
        return None
    inputs = ScanInputs(np.array(steps, np.int64))
    for name in _text_first(name for name, found in recorded.items() if found):
        _load_losses(session, run_id, probes, name, inputs)
    for group in load_groups(session, probe_set_id):
        if group.slice in inputs.losses:
            members = group.members[inputs.sequences[group.slice]].reshape(-1)
            inputs.groups.setdefault(group.slice, {})[group.name] = members
    _load_measures(session, run_id, inputs)
    for name, (at, values) in load_series(session, run_id, LOGGED_SERIES).items():
        inputs.series[name] = _last_known(inputs.steps, at, values)
    return inputs


def _text_first(names: Iterable[str]) -> list[str]:
    return sorted(names, key=lambda name: (name != TEXT, name))


def _load_losses(session: Session, run_id: UUID, probes: ProbeSet, name: str, inputs: ScanInputs) -> None:
    tokens = probes.slices[name].tokens
    n_sequences, n_positions = tokens.shape[0], tokens.shape[1] - 1
    kept = spread(n_sequences, MAX_VALUES // (len(inputs.steps) * n_positions))
    columns = (kept[:, None] * n_positions + np.arange(n_positions)).reshape(-1)
    history = loss_history(session, run_id, name, tokens=None if len(kept) == n_sequences else columns)
    inputs.losses[name] = _aligned(inputs.steps, history.steps, history.values)
    inputs.tokens[name], inputs.sequences[name] = tokens[kept], kept
    inputs.n_sequences[name] = n_sequences


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
