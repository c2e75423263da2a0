"""Scores one checkpoint: head scores from its weights, everything that needs losses only from its losses.

What is measured already, by an earlier job or by the recorder in the training process, is not measured again. A run
recorded from outside usually has no weights here; then its losses alone are scored.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import safetensors.torch
from safetensors import SafetensorError
from sqlalchemy.orm import Session

from phasewatch.errors import ModelNotRebuilt, NotFound
from phasewatch.measures import Measurement, registry, score_heads, score_losses
from phasewatch.measures.registry import Measure, Needs
from phasewatch.probes import ProbeSet
from phasewatch.storage.artifacts import Artifacts
from phasewatch.storage.checkpoints import get_checkpoint
from phasewatch.storage.codecs import FloatArray
from phasewatch.storage.database import Database
from phasewatch.storage.events import emit
from phasewatch.storage.losses import loss_history
from phasewatch.storage.measurements import StoredMeasurement, measured, put_measurements
from phasewatch.storage.probe_sets import load_probe_set
from phasewatch.storage.runs import get_run, visible_stretches
from phasewatch.storage.schema import Checkpoint
from phasewatch.training import ModelConfig
from phasewatch.transformer import SPEC_KIND, Transformer, build_model
from server.jobs.work import Store, Work, job

MODEL_KIND = SPEC_KIND  # the only models that can be built here from a checkpoint


def scored_measures(needs: Needs) -> list[Measure]:
    """The measures of every checkpoint that need "losses" or "attention"."""
    return registry.select(needs=needs, cost="every_checkpoint")


def fingerprint(parameters: Mapping[str, Any]) -> str:
    """Twelve hex digits that change with the set of measures, the version of one, or the parameters."""
    measures = [(one.name, one.version) for needs in ("attention", "losses") for one in scored_measures(needs)]
    text = json.dumps([sorted(measures), dict(parameters)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


@dataclass(frozen=True)
class _Inputs:
    """A checkpoint as loaded: `losses` by slice (n_sequences, n_positions), `measured` as (measure, version)."""

    probes: ProbeSet
    checkpoint: Checkpoint | None
    losses: dict[str, FloatArray]
    measured: set[tuple[str, int]]

    def missing(self, needs: Needs) -> list[Measure]:
        """Measures of slices that the probe set has and that are not measured yet."""
        return [
            one
            for one in scored_measures(needs)
            if one.slice in self.probes.slices and (one.name, one.version) not in self.measured
        ]


@job("score")
def score(work: Work, database: Database, artifacts: Artifacts) -> Store:
    """Measures what is missing at one checkpoint; nothing where a resume has hidden it meanwhile."""
    run_id, segment, step = work.checkpoint()
    with database.reading() as session:
        inputs = _load(session, run_id, segment, step)
    found = {} if inputs is None else _measure(inputs, artifacts)

    def store(session: Session) -> None:
        new = put_measurements(session, run_id, step, found, segment=segment, source="job")
        if new:
            emit(session, "measurement", run_id, {"step": step, "segment": segment, "measures": sorted(found)})

    return store


def _load(session: Session, run_id: UUID, segment: int, step: int) -> _Inputs | None:
    probe_set_id = get_run(session, run_id).probe_set_id
    shown = any(s.number == segment and s.first <= step < s.end for s in visible_stretches(session, run_id))
    if probe_set_id is None or not shown:
        return None
    probes = load_probe_set(session, probe_set_id)
    losses = {}
    for name, part in probes.slices.items():
        history = loss_history(session, run_id, name, steps=[step])
        if history.steps.size:
            losses[name] = history.values.reshape(part.tokens.shape[0], -1)
    return _Inputs(probes, _find_checkpoint(session, run_id, step), losses, measured(session, run_id, step))


def _find_checkpoint(session: Session, run_id: UUID, step: int) -> Checkpoint | None:
    try:
        return get_checkpoint(session, run_id, step)
    except NotFound:
        return None


def _measure(inputs: _Inputs, artifacts: Artifacts) -> dict[str, StoredMeasurement]:
    found: dict[str, Measurement] = {}
    by_heads, by_losses = inputs.missing("attention"), inputs.missing("losses")
    if by_heads and inputs.checkpoint is not None and can_rebuild(inputs.checkpoint):
        model = rebuild_model(inputs.checkpoint, artifacts)
        found |= score_heads(model, inputs.probes, names=[one.name for one in by_heads])
    if by_losses:
        found |= score_losses(inputs.losses, inputs.probes)
    return {one.name: _stored(one, found[one.name]) for one in _known(by_heads, by_losses) if one.name in found}


def _known(*groups: Iterable[Measure]) -> list[Measure]:
    return [one for group in groups for one in group]


def _stored(one: Measure, found: Measurement) -> StoredMeasurement:
    return StoredMeasurement(one.version, found.values, found.chance, found.interval)


def can_rebuild(checkpoint: Checkpoint) -> bool:
    """True where the weights are here and belong to the reference transformer."""
    return checkpoint.artifact_url is not None and (checkpoint.model or {}).get("kind") == MODEL_KIND


def rebuild_model(checkpoint: Checkpoint, artifacts: Artifacts) -> Transformer:
    """The model of a checkpoint that `can_rebuild`, its weights checked by SHA-256.

    Raises ModelNotRebuilt where the weights do not fit the description, NotFound or Unavailable where they cannot be
    read.
    """
    _check_size(checkpoint)
    model = build_model(checkpoint.model or {})
    content = artifacts.get(str(checkpoint.artifact_url), checkpoint.sha256)
    try:
        model.load_state_dict(safetensors.torch.load(content))
    except (SafetensorError, RuntimeError) as error:
        raise ModelNotRebuilt(f"the weights at step {checkpoint.step} do not fit their description: {error}") from error
    return model.eval()


def _check_size(checkpoint: Checkpoint) -> None:
    """Raises ModelNotRebuilt before memory is taken for parameters that the weights cannot hold, a byte each."""
    spec = checkpoint.model or {}
    try:
        n_parameters = ModelConfig.model_validate(spec.get("model")).n_parameters(int(spec.get("vocabulary_size", 0)))
    except (TypeError, ValueError):
        return  # building it says what is wrong
    if n_parameters > (checkpoint.size_bytes or 0):
        raise ModelNotRebuilt(
            f"the model at step {checkpoint.step} has {n_parameters:,} parameters by its description, "
            f"but its weights have only {checkpoint.size_bytes:,} bytes"
        )
