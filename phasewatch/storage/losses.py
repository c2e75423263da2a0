"""The loss store: per-token losses in blocks of 8,192 tokens, idempotent to write, quick to read along steps.

A value of a history costs one block, so a token's history over many steps never decodes a whole slice.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple
from uuid import UUID

import numpy as np
import numpy.typing as npt
from sqlalchemy import select
from sqlalchemy.orm import Session

from phasewatch.errors import InvalidInput, NotFound, PhasewatchError
from phasewatch.storage.codecs import BLOCK_TOKENS, DEFAULT_CODEC, FloatArray, decode_block
from phasewatch.storage.limits import MAX_STEP
from phasewatch.storage.loss_writes import prepare_losses, store_losses
from phasewatch.storage.probe_sets import get_run_slice
from phasewatch.storage.runs import is_visible, visible_stretches
from phasewatch.storage.schema import LossBlock, LossSlice

IntArray = npt.NDArray[np.int64]

_PAYLOADS_TOGETHER = 2_000
_STEPS_NAMED = 100  # more are asked for as a range, and those between that are not wanted are passed over


@dataclass(frozen=True)
class LossHistory:
    """Losses of some tokens along the visible history: values (n_steps, n_tokens) in nats, steps ascending."""

    steps: IntArray
    tokens: IntArray
    values: FloatArray


def put_losses(
    session: Session,
    run_id: UUID,
    slice_name: str,
    step: int,
    losses: npt.NDArray[np.floating],
    *,
    segment: int | None = None,
    codec: str = DEFAULT_CODEC,
) -> bool:
    """Stores a loss slice; True when it is new, False when the same values were there.

    losses: flat or (n_sequences, n_positions), nats. Raises what `store_losses` and `prepare_losses` say.
    """
    write = prepare_losses(run_id, slice_name, step, losses, segment=segment, codec=codec)
    [answer] = store_losses(session, [write])
    if isinstance(answer, PhasewatchError):
        raise answer
    return answer[1]


def list_loss_slices(
    session: Session, run_id: UUID, slice_name: str, *, after: int | None = None, limit: int | None = None
) -> Sequence[LossSlice]:
    """The visible loss slices of one slice, by step, values not loaded; those beyond step `after`, so many at most."""
    part = get_run_slice(session, run_id, slice_name)
    visible = is_visible(visible_stretches(session, run_id), LossSlice.segment_id, LossSlice.step)
    query = select(LossSlice).where(LossSlice.slice_id == part.id, visible).order_by(LossSlice.step).limit(limit)
    return session.scalars(query if after is None else query.where(LossSlice.step > after)).all()


def mean_losses(
    session: Session, run_id: UUID, slice_name: str, *, first: int = 0, last: int = MAX_STEP
) -> tuple[list[int], list[float]]:
    """(steps ascending, means in nats) of visible loss slices from step `first` to `last`; NaN where none is finite."""
    part = get_run_slice(session, run_id, slice_name)
    visible = is_visible(visible_stretches(session, run_id), LossSlice.segment_id, LossSlice.step)
    query = select(LossSlice.step, LossSlice.mean_nats).where(
        LossSlice.slice_id == part.id, visible, LossSlice.step.between(first, last)
    )
    found = session.execute(query.order_by(LossSlice.step)).all()
    return [step for step, _ in found], [np.nan if mean is None else mean for _, mean in found]


def get_losses(session: Session, run_id: UUID, slice_name: str, step: int) -> FloatArray:
    """The visible losses at one step, (n_sequences, n_positions) in nats; raises NotFound."""
    part = get_run_slice(session, run_id, slice_name)
    history = loss_history(session, run_id, slice_name, steps=[step])
    if not history.steps.size:
        raise NotFound(f"run {run_id} has no losses of slice {slice_name!r} at step {step}")
    return history.values.reshape(part.n_sequences, part.n_tokens - 1)


def loss_history(
    session: Session,
    run_id: UUID,
    slice_name: str,
    *,
    tokens: npt.ArrayLike | None = None,
    steps: npt.ArrayLike | None = None,
) -> LossHistory:
    """Losses along the visible history of the tokens (flat indices; default all) at the steps (default all).

    Reads only the blocks that hold the tokens. Raises InvalidInput for a token the slice does not have.
    """
    part = get_run_slice(session, run_id, slice_name)
    n_values = part.n_sequences * (part.n_tokens - 1)
    wanted = np.arange(n_values) if tokens is None else _checked_tokens(tokens, n_values, slice_name)
    chosen = None if steps is None else set(np.asarray(steps).reshape(-1).tolist())
    headers = visible_losses(session, run_id, part.id, chosen)
    values = read_losses(session, part.id, headers, wanted)
    return LossHistory(np.array([header.step for header in headers], np.int64), wanted, values)


def read_losses(session: Session, slice_id: int, stored: Sequence[StoredStep], tokens: IntArray) -> FloatArray:
    """(len(stored), len(tokens)) nats: the losses of these tokens at steps of one slice; NaN where they are gone."""
    values = np.full((len(stored), tokens.size), np.nan, np.float32)
    columns = dict(_columns_by_block(tokens))
    in_order = bool((np.diff(tokens) == 1).all())
    for row, block, payload in _payloads(session, slice_id, stored, list(columns)):
        offsets = tokens[columns[block]] - block * BLOCK_TOKENS
        whole = in_order and len(offsets) == BLOCK_TOKENS
        values[row, columns[block]] = decode_block(payload, stored[row].codec, None if whole else offsets)
    return values


class StoredStep(NamedTuple):
    """Where the blocks of one step lie, and how to read them."""

    segment_id: int
    step: int
    codec: str


def visible_losses(session: Session, run_id: UUID, slice_id: int, chosen: set[int] | None = None) -> list[StoredStep]:
    """Of every visible loss slice, by step; of the `chosen` steps where these are given."""
    visible = is_visible(visible_stretches(session, run_id), LossSlice.segment_id, LossSlice.step)
    query = select(LossSlice.segment_id, LossSlice.step, LossSlice.codec).where(LossSlice.slice_id == slice_id, visible)
    if chosen is not None and len(chosen) <= _STEPS_NAMED:
        query = query.where(LossSlice.step.in_([step for step in chosen if 0 <= step <= MAX_STEP]))
    found = (StoredStep(*row) for row in session.execute(query.order_by(LossSlice.step)))
    return [header for header in found if chosen is None or header.step in chosen]


def _checked_tokens(tokens: npt.ArrayLike, n_values: int, slice_name: str) -> IntArray:
    wanted = np.asarray(tokens).reshape(-1)
    if wanted.size and (wanted.min() < 0 or wanted.max() >= n_values):
        raise InvalidInput(
            f"slice {slice_name!r} has tokens 0 to {n_values - 1}; {wanted.min()} to {wanted.max()} were asked for"
        )
    return wanted.astype(np.int64)


def _columns_by_block(wanted: IntArray) -> Iterator[tuple[int, slice | IntArray]]:
    """(block, where in `wanted` its tokens stand); a slice where these lie side by side, which is quicker to fill."""
    blocks = wanted // BLOCK_TOKENS
    rising = bool((blocks[1:] >= blocks[:-1]).all())
    order = np.arange(wanted.size) if rising else np.argsort(blocks, kind="stable")
    for columns in np.split(order, np.flatnonzero(np.diff(blocks[order])) + 1):
        if columns.size:
            yield int(blocks[columns[0]]), slice(int(columns[0]), int(columns[-1]) + 1) if rising else columns


def _payloads(
    session: Session, slice_id: int, headers: Sequence[StoredStep], blocks: Sequence[int]
) -> Iterator[tuple[int, int, bytes]]:
    """(row, block, payload) of these blocks at every header's step, rows numbered as the headers are.

    A statement brings some 40 MB at most: blocks are asked for together, as many as that allows.
    """
    rows = {(header.segment_id, header.step): row for row, header in enumerate(headers)}
    for segment_id in sorted({header.segment_id for header in headers}):
        steps = [header.step for header in headers if header.segment_id == segment_id]
        at_steps = LossBlock.step.between(steps[0], steps[-1])
        if len(steps) <= _STEPS_NAMED:
            at_steps = LossBlock.step.in_(steps)
        n_together = max(1, _PAYLOADS_TOGETHER // len(steps))
        for first in range(0, len(blocks), n_together):
            query = select(LossBlock.step, LossBlock.block, LossBlock.payload).where(
                LossBlock.segment_id == segment_id,
                LossBlock.slice_id == slice_id,
                LossBlock.block.in_(blocks[first : first + n_together]),
                at_steps,
            )
            for step, block, payload in session.execute(query):
                if (segment_id, step) in rows:
                    yield rows[segment_id, step], block, payload
