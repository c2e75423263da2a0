"""Checkpoints: rows in the database, weights and resume states in the artifacts folder."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from phasewatch.errors import Conflict, InvalidInput, NotFound, PhasewatchError
from phasewatch.storage.artifacts import Artifact, Artifacts
from phasewatch.storage.database import insert_if_absent
from phasewatch.storage.events import emit
from phasewatch.storage.limits import MAX_STEP, checked_json, checked_step
from phasewatch.storage.runs import get_run, get_segment, is_visible, note_step, visible_stretches
from phasewatch.storage.schema import Checkpoint, Segment, utc_now


@dataclass(frozen=True)
class NewCheckpoint:
    """What is known of a checkpoint when it is written; `model` says how to rebuild it (phasewatch.transformer)."""

    step: int
    tokens_seen: int | None = None
    model: dict[str, Any] | None = None
    weights: Artifact | None = None
    state: Artifact | None = None


def weights_name(run_id: UUID, segment: int, step: int) -> str:
    """Where the weights of a checkpoint lie below the artifacts folder."""
    return f"{run_id}/{segment}-{step:010d}.safetensors"


def state_name(run_id: UUID, segment: int, step: int) -> str:
    """Where the resume state of a checkpoint lies below the artifacts folder."""
    return f"{run_id}/{segment}-{step:010d}.state.safetensors"


def put_checkpoint(
    session: Session, run_id: UUID, new: NewCheckpoint, *, segment: int | None = None
) -> tuple[Checkpoint, bool]:
    """The checkpoint and whether it is new; raises Conflict where a different one stands at its step."""
    get_run(session, run_id, lock=True)
    row = get_segment(session, run_id, segment)
    step = checked_step(new.step, row.from_step, row.number)
    if new.tokens_seen is not None and not 0 <= new.tokens_seen < 2**63:
        raise InvalidInput(f"tokens_seen is {new.tokens_seen}; give a number from 0 to 2**63 - 1")
    model = None if new.model is None else checked_json("model", new.model)
    values: dict[str, Any] = {"tokens_seen": new.tokens_seen, "model": model}
    if new.weights is not None:
        values |= {"artifact_url": new.weights.name, "size_bytes": new.weights.size_bytes, "sha256": new.weights.sha256}
    if new.state is not None:
        values |= {"state_url": new.state.name, "state_sha256": new.state.sha256}
    key = {"segment_id": row.id, "step": step}
    created = insert_if_absent(session, Checkpoint, key | values | {"created_at": utc_now()})
    checkpoint = session.get_one(Checkpoint, (row.id, step))
    if not created:
        different = [name for name, value in values.items() if getattr(checkpoint, name) != value]
        if different:
            raise Conflict(f"run {run_id} has another checkpoint at step {step} ({', '.join(different)} differ)")
        return checkpoint, False
    note_step(session, run_id, step)
    emit(session, "checkpoint", run_id, {"step": step, "segment": row.number})
    return checkpoint, True


def put_weights(
    session: Session, run_id: UUID, step: int, weights: Artifact, *, segment: int | None = None
) -> tuple[Checkpoint, bool]:
    """The checkpoint, now with these weights, and whether they are new; raises Conflict where it has others.

    segment: its segment, which a later one may hide; by default the visible checkpoint at the step.
    """
    get_run(session, run_id, lock=True)
    checkpoint = get_checkpoint(session, run_id, step, segment=segment)
    if checkpoint.sha256 is not None:
        if checkpoint.sha256 != weights.sha256:
            raise Conflict(
                f"run {run_id} has other weights at step {step} "
                f"(SHA-256 {checkpoint.sha256[:12]}…, yours {weights.sha256[:12]}…)"
            )
        return checkpoint, False
    checkpoint.artifact_url, checkpoint.size_bytes, checkpoint.sha256 = weights.name, weights.size_bytes, weights.sha256
    session.flush()
    emit(session, "checkpoint", run_id, {"step": step, "weights": True})
    return checkpoint, True


def store_weights(
    session: Session, artifacts: Artifacts, run_id: UUID, step: int, content: bytes, *, segment: int | None = None
) -> tuple[Checkpoint, bool]:
    """As `put_weights`, with the weights themselves.

    Every upload has a file of its own, so that none ever replaces or removes what another checkpoint names; it is
    written before the row is locked.
    """
    name = f"{run_id}/uploaded-{step:010d}-{secrets.token_hex(8)}.safetensors"
    weights = artifacts.put(name, content)
    try:
        checkpoint, created = put_weights(session, run_id, step, weights, segment=segment)
    except PhasewatchError:
        artifacts.delete(name)
        raise
    if not created:
        artifacts.delete(name)
    return checkpoint, created


def list_checkpoints(
    session: Session, run_id: UUID, *, after: int | None = None, limit: int | None = None
) -> Sequence[Checkpoint]:
    """The visible checkpoints by step; `after` is the step the previous page ended with."""
    visible = is_visible(visible_stretches(session, run_id), Checkpoint.segment_id, Checkpoint.step)
    query = select(Checkpoint).where(visible).order_by(Checkpoint.step).limit(limit)
    return session.scalars(query if after is None else query.where(Checkpoint.step > after)).all()


def get_checkpoint(session: Session, run_id: UUID, step: int, *, segment: int | None = None) -> Checkpoint:
    """The visible checkpoint at a step, or that of a segment, hidden or not; raises NotFound."""
    if segment is None:
        wanted = is_visible(visible_stretches(session, run_id), Checkpoint.segment_id, Checkpoint.step)
    else:
        wanted = Checkpoint.segment_id == get_segment(session, run_id, segment).id
    checkpoint = session.scalars(select(Checkpoint).where(wanted, Checkpoint.step == min(step, MAX_STEP))).first()
    if checkpoint is None:
        place = "" if segment is None else f" in segment {segment}"
        raise NotFound(
            f"run {run_id} has no checkpoint at step {step}{place}; GET /api/v1/runs/{run_id}/checkpoints lists them"
        )
    return checkpoint


def resumable_checkpoints(session: Session, run_id: UUID) -> Sequence[Checkpoint]:
    """The visible checkpoints from which training can go on bit for bit, newest first."""
    visible = is_visible(visible_stretches(session, run_id), Checkpoint.segment_id, Checkpoint.step)
    query = select(Checkpoint).where(visible, Checkpoint.state_url.is_not(None))
    return session.scalars(query.order_by(Checkpoint.step.desc())).all()


def drop_older_states(session: Session, run_id: UUID, keep: int = 2) -> list[str]:
    """Forgets every resume state of a run but the newest visible ones; the files to delete after the commit."""
    kept = {(row.segment_id, row.step) for row in resumable_checkpoints(session, run_id)[:keep]}
    query = select(Checkpoint).join(Segment).where(Segment.run_id == run_id, Checkpoint.state_url.is_not(None))
    names = []
    for row in session.scalars(query):
        if (row.segment_id, row.step) not in kept:
            names.append(str(row.state_url))
            row.state_url = row.state_sha256 = None
    return names
