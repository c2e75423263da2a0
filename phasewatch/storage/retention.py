"""What of an old run is still kept: which weights, and in which precision its losses. Rules, plan, and carrying it out.

Like deletion.py it has transactions of its own, small ones. A row lets go of its file before the file is removed: what
is cut short leaves a file that nobody names, which the next time removes, and never a row without its file.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated, Any
from uuid import UUID

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from sqlalchemy import Select, func, select, update
from sqlalchemy.orm import Session

from phasewatch.storage.artifacts import Artifacts
from phasewatch.storage.codecs import SMALL_CODEC, decode_block, encode_block
from phasewatch.storage.database import Database, free_disk
from phasewatch.storage.limits import whole_number
from phasewatch.storage.phase_changes import list_phase_changes
from phasewatch.storage.runs import get_run, list_segments, visible_stretches
from phasewatch.storage.schema import Checkpoint, Job, LossBlock, LossSlice, Run, Segment, utc_now

WEIGHTS_AT_ONCE = 100
BLOCKS_AT_ONCE = 200  # some 4 MB
LEFT_OVER = timedelta(days=1)  # how old a file that no row names must be: a younger one may be about to be named
_WEIGHTS = re.compile(r"(\d+-\d{10,}|uploaded-\d{10,}-[0-9a-f]{16}|watched-\d{10,}-[0-9a-f]{16})\.safetensors")

Tell = Callable[[float, str], None]
Interval = tuple[int, int | None]
_Count = Annotated[int, Field(ge=1, le=10**6, strict=True), BeforeValidator(whole_number)]


class RetentionRules(BaseModel):
    """What is kept. Weights are removed only where `keep_every` or `keep_last` is given; any rule may keep them."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    keep_every: _Count | None = Field(None, description="keep the weights of every k-th checkpoint, from the first on")
    keep_last: _Count | None = Field(None, description="keep the weights of the last n checkpoints that have any")
    keep_around_changes: bool = Field(
        True, strict=True, description="keep the weights from before each phase change until after it"
    )
    losses_float16_after_days: float | None = Field(
        None, ge=0, le=36_500, strict=True, allow_inf_nan=False,
        description="losses older than this keep 11 significant bits (float16-shuffle-zstd), in place of 13",
    )  # fmt: skip

    @property
    def removes_weights(self) -> bool:
        return self.keep_every is not None or self.keep_last is not None


@dataclass(frozen=True)
class OldWeights:
    """Weights that no rule keeps: whose they are, the file's name, and its size by the row."""

    segment_id: int
    step: int
    name: str
    n_bytes: int


@dataclass(frozen=True)
class Plan:
    """What retention would do to a run. `loss_bytes`: what the losses to be stored smaller take now."""

    weights: tuple[OldWeights, ...]
    n_kept: int
    n_loss_slices: int
    loss_bytes: int

    @property
    def weights_bytes(self) -> int:
        return sum(one.n_bytes for one in self.weights)


@dataclass(frozen=True)
class Retained:
    """What retention did to a run: bytes of files as they were on the disk, bytes of losses by which they shrank."""

    n_weights: int = 0
    artifacts_bytes: int = 0
    n_loss_slices: int = 0
    database_bytes: int = 0

    def __add__(self, other: Retained) -> Retained:
        return Retained(
            self.n_weights + other.n_weights,
            self.artifacts_bytes + other.artifacts_bytes,
            self.n_loss_slices + other.n_loss_slices,
            self.database_bytes + other.database_bytes,
        )


def kept_steps(
    steps: Sequence[int], with_weights: Collection[int], changes: Sequence[Interval], rules: RetentionRules
) -> set[int]:
    """The steps whose weights some rule keeps.

    steps: of all visible checkpoints, ascending, those included whose weights are gone, so that every k-th stays the
    same. changes: (start, end) of each phase change, end None where it is not over.
    """
    there = [step for step in steps if step in with_weights]
    if not rules.removes_weights:
        return set(there)
    kept = set(steps[:: rules.keep_every]) if rules.keep_every else set()
    kept |= set(there[-rules.keep_last :]) if rules.keep_last else set()
    for start, end in changes if rules.keep_around_changes else ():
        first = max((step for step in there if step <= start), default=start)
        last = min((step for step in there if end is not None and step >= end), default=None)
        kept |= {step for step in there if first <= step and (last is None or step <= last)}
    return kept & set(there)


def plan_retention(session: Session, run_id: UUID, rules: RetentionRules, now: datetime) -> Plan:
    """What the rules would do to a run now. Raises NotFound.

    Weights stay where training may go on from them, and where a job that waits or runs is to read them.
    """
    run = get_run(session, run_id)
    rows = _checkpoints(session, run_id)
    weights = _old_weights(session, run, rows, rules) if rules.removes_weights else []
    n_there = sum(row.artifact_url is not None for row in rows)
    sizes = select(func.count(), func.sum(func.length(LossBlock.payload))).select_from(LossBlock)
    old = _old_losses(run_id, rules, now)
    n_slices, n_bytes = 0, 0
    if old is not None:
        n_slices = session.scalar(select(func.count()).select_from(old.subquery())) or 0
        key = old.with_only_columns(LossSlice.segment_id, LossSlice.slice_id, LossSlice.step).subquery()
        of_slice = (
            (LossBlock.segment_id == key.c.segment_id)
            & (LossBlock.slice_id == key.c.slice_id)
            & (LossBlock.step == key.c.step)
        )
        n_bytes = session.execute(sizes.join(key, of_slice)).one()[1] or 0
    return Plan(tuple(weights), n_there - len(weights), n_slices, int(n_bytes))


def _checkpoints(session: Session, run_id: UUID) -> Sequence[Checkpoint]:
    """Every checkpoint of a run, hidden ones included."""
    query = select(Checkpoint).join(Segment, Segment.id == Checkpoint.segment_id).where(Segment.run_id == run_id)
    return session.scalars(query.order_by(Checkpoint.step, Checkpoint.segment_id)).all()


def _old_weights(session: Session, run: Run, rows: Sequence[Checkpoint], rules: RetentionRules) -> list[OldWeights]:
    shown = {
        (stretch.segment_id, row.step)
        for stretch in visible_stretches(session, run.id)
        for row in rows
        if row.segment_id == stretch.segment_id and stretch.first <= row.step < stretch.end
    }
    visible = [row for row in rows if (row.segment_id, row.step) in shown]
    changes = [(row.start_step, row.end_step) for row in list_phase_changes(session, run.id)]
    there = {row.step for row in visible if row.artifact_url is not None}
    kept = kept_steps([row.step for row in visible], there, changes, rules)
    open_jobs = select(Job.step).where(Job.run_id == run.id, Job.state.in_(("waiting", "running")))
    awaited = set(session.scalars(open_jobs))
    return [
        OldWeights(row.segment_id, row.step, row.artifact_url, row.size_bytes or 0)
        for row in rows
        if row.artifact_url is not None
        and not ((row.segment_id, row.step) in shown and (row.step in kept or row.step in awaited))
        and (row.state_url is None or run.status == "completed")
    ]


def _old_losses(run_id: UUID, rules: RetentionRules, now: datetime) -> Select[LossSlice] | None:
    """Loss slices that are to be stored smaller; None where no rule says so."""
    if rules.losses_float16_after_days is None:
        return None
    before = now - timedelta(days=rules.losses_float16_after_days)
    query = select(LossSlice).join(Segment, Segment.id == LossSlice.segment_id)
    return query.where(Segment.run_id == run_id, LossSlice.codec != SMALL_CODEC, LossSlice.created_at <= before)


# Carrying it out.


def apply_retention(
    database: Database, artifacts: Artifacts, run_id: UUID, rules: RetentionRules, tell: Tell | None = None
) -> Retained:
    """Does to a run what the rules say; doing it again changes nothing more. Raises NotFound, Unavailable.

    `tell` hears how much of it is done, from 0 to 1.
    """
    with database.reading() as session:
        plan = plan_retention(session, run_id, rules, utc_now())
    steps = len(plan.weights) + plan.n_loss_slices
    done = Retained()
    for part in _remove_weights(database, artifacts, run_id, plan.weights):
        done += part
        _say(tell, done, steps)
    for part in _shrink_losses(database, run_id, rules):
        done += part
        _say(tell, done, steps)
    if rules.removes_weights:
        done += Retained(artifacts_bytes=_remove_left_over(database, artifacts, run_id))
    if done.n_loss_slices:
        database.give_back_space()
    return done


def _say(tell: Tell | None, done: Retained, steps: int) -> None:
    if tell is not None and steps:
        count = done.n_weights + done.n_loss_slices
        tell(
            min(count / steps, 1.0), f"{done.n_weights} weights removed, {done.n_loss_slices} loss slices made smaller"
        )


def _remove_weights(
    database: Database, artifacts: Artifacts, run_id: UUID, weights: Sequence[OldWeights]
) -> Iterator[Retained]:
    for first in range(0, len(weights), WEIGHTS_AT_ONCE):
        with database.transaction() as session:
            get_run(session, run_id, lock=True)  # whoever names weights holds it, too
            gone = [one.name for one in weights[first : first + WEIGHTS_AT_ONCE] if _let_go(session, one)]
            gone = _unnamed(session, run_id, gone)  # another segment may have the same file
        yield Retained(n_weights=len(gone), artifacts_bytes=sum(artifacts.delete(name) for name in gone))


def _let_go(session: Session, one: OldWeights) -> bool:
    """True where the row named this file and does not any more."""
    still = (Checkpoint.segment_id == one.segment_id, Checkpoint.step == one.step, Checkpoint.artifact_url == one.name)
    nothing: dict[str, Any] = {"artifact_url": None, "sha256": None}  # the size stays: there were weights once
    return session.scalar(update(Checkpoint).where(*still).values(nothing).returning(Checkpoint.step)) is not None


def _remove_left_over(database: Database, artifacts: Artifacts, run_id: UUID) -> int:
    """Removes weights that no row names, of a removal or an upload that was cut short; bytes."""
    before = utc_now() - LEFT_OVER
    old = [one.name for one in artifacts.list_folder(str(run_id)) if one.modified_at < before]
    weights = [name for name in old if _WEIGHTS.fullmatch(name.rpartition("/")[2])]
    with database.transaction() as session:
        get_run(session, run_id, lock=True)
        return sum(artifacts.delete(name) for name in _unnamed(session, run_id, weights))


def _unnamed(session: Session, run_id: UUID, names: Sequence[str]) -> list[str]:
    """Those of a run's files that none of its checkpoints names."""
    session.flush()
    named = {row.artifact_url for row in _checkpoints(session, run_id)}
    return [name for name in names if name not in named]


def _shrink_losses(database: Database, run_id: UUID, rules: RetentionRules) -> Iterator[Retained]:
    """A transaction a batch of loss slices."""
    with database.reading() as session:
        segments = list_segments(session, run_id)
        old = _old_losses(run_id, rules, utc_now()) if segments else None
        keys = [] if old is None else [(row.segment_id, row.slice_id, row.step) for row in session.scalars(old)]
    at_once = 1
    while keys:
        batch, keys = keys[:at_once], keys[at_once:]
        with database.transaction() as session:
            n_blocks, saved = _shrink(session, batch)
            freed = free_disk(session) if database.is_sqlite else saved
        yield Retained(n_loss_slices=len(batch), database_bytes=freed)
        at_once = max(1, BLOCKS_AT_ONCE * len(batch) // max(n_blocks, 1))


def _shrink(session: Session, keys: Sequence[tuple[int, int, int]]) -> tuple[int, int]:
    """(blocks, bytes saved) of loss slices stored anew; one that is so already, or gone, is left."""
    n_blocks, saved = 0, 0
    for segment_id, slice_id, step in keys:
        row = session.get(LossSlice, (segment_id, slice_id, step), with_for_update=True)
        if row is None or row.codec == SMALL_CODEC:
            continue
        key = (LossBlock.segment_id == segment_id, LossBlock.slice_id == slice_id, LossBlock.step == step)
        for block, payload in session.execute(select(LossBlock.block, LossBlock.payload).where(*key)).all():
            smaller = encode_block(decode_block(payload, row.codec), SMALL_CODEC)
            session.execute(update(LossBlock).where(*key, LossBlock.block == block).values(payload=smaller))
            n_blocks, saved = n_blocks + 1, saved + len(payload) - len(smaller)
        row.codec = SMALL_CODEC
    session.flush()
    return n_blocks, saved
