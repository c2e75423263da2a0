"""Writing loss slices: what is known of one before the database is asked, and several stored by the same statements.

Apart from the loss store's reading, because here is the path that every value of every training takes: hashing and
compressing hold no lock and no transaction, and a transaction stores the slices of many requests.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Final, NamedTuple
from uuid import UUID

import numpy as np
import numpy.typing as npt
from sqlalchemy import bindparam, insert, select
from sqlalchemy.orm import Session

from phasewatch.errors import Conflict, InvalidInput, NotFound, PhasewatchError, UnknownSlice
from phasewatch.storage.codecs import DEFAULT_CODEC, array_sha256, encode_blocks
from phasewatch.storage.database import insert_all_absent, tables_of
from phasewatch.storage.limits import checked_step
from phasewatch.storage.probe_sets import get_run_slice
from phasewatch.storage.runs import get_segment, note_step
from phasewatch.storage.schema import LossBlock, LossSlice, Run, Segment, SliceRow, utc_now

# Built once, and of tables instead of classes: to put a statement together costs several times what it takes to run
_RUNS, _SLICES, _SEGMENTS = tables_of(Run, SliceRow, Segment)
_HEADERS, _BLOCKS = tables_of(LossSlice, LossBlock)
# So that no probe set changes under us; in one order, so that two who write do not wait for one another
_RUNS_LOCKED: Final = (
    select(_RUNS.c.id, _RUNS.c.probe_set_id)
    .where(_RUNS.c.id.in_(bindparam("runs", expanding=True)))
    .order_by(_RUNS.c.id)
    .with_for_update(key_share=True)
)
_PARTS_OF: Final = select(
    _SLICES.c.probe_set_id, _SLICES.c.name, _SLICES.c.id, _SLICES.c.n_sequences, _SLICES.c.n_tokens
).where(_SLICES.c.probe_set_id.in_(bindparam("sets", expanding=True)))
_SEGMENTS_OF: Final = (
    select(_SEGMENTS.c.run_id, _SEGMENTS.c.number, _SEGMENTS.c.id, _SEGMENTS.c.from_step)
    .where(_SEGMENTS.c.run_id.in_(bindparam("runs", expanding=True)))
    .order_by(_SEGMENTS.c.number)
)
_NEW_BLOCKS: Final = insert(_BLOCKS)


@dataclass(frozen=True, eq=False)
class LossWrite:
    """A loss slice ready to be stored. shape: as it was given; segment: a number, None for the run's newest."""

    run_id: UUID
    slice_name: str
    step: int
    segment: int | None
    shape: tuple[int, ...]
    codec: str
    payloads: tuple[bytes, ...]
    sha256: str
    n_values: int
    mean_nats: float | None
    n_non_finite: int


def prepare_losses(
    run_id: UUID,
    slice_name: str,
    step: int,
    losses: npt.NDArray[np.floating],
    *,
    segment: int | None = None,
    codec: str = DEFAULT_CODEC,
) -> LossWrite:
    """Losses in nats of any shape, hashed and compressed; NaN and infinities are kept and counted.

    Raises InvalidInput for what is no array of float16, float32 or float64, and for a codec that is not known.
    """
    if losses.dtype.kind != "f" or losses.dtype.itemsize > 8:
        raise InvalidInput(
            f"losses of slice {slice_name!r} have dtype {losses.dtype}; expected float16, float32 or float64"
        )
    with np.errstate(
        over="ignore", invalid="ignore"
    ):  # a float64 beyond float32 becomes an infinity, which is kept and counted
        values = np.ascontiguousarray(losses.reshape(-1), np.float32)
        total = float(np.sum(values, dtype=np.float64))
    n_non_finite = 0
    if not np.isfinite(total):  # then some value is not
        finite = values[np.isfinite(values)]
        n_non_finite, total = values.size - finite.size, float(finite.sum(dtype=np.float64))
    n_finite = values.size - n_non_finite
    return LossWrite(
        run_id, slice_name, step, segment, losses.shape, codec, tuple(encode_blocks(values, codec)),
        array_sha256(values), values.size, total / n_finite if n_finite else None, n_non_finite,
    )  # fmt: skip


def store_losses(session: Session, writes: Sequence[LossWrite]) -> list[tuple[LossSlice, bool] | PhasewatchError]:
    """Stores loss slices; of each its row and whether it was stored now, or the error that is its answer.

    The same values again change nothing. An error is a NotFound or UnknownSlice, an InvalidInput for another shape than
    the slice's or a step before its segment, or a Conflict where other values stand at this step.
    """
    answers: dict[int, tuple[LossSlice, bool] | PhasewatchError] = {}
    wanted: dict[_Key, list[int]] = {}  # numbers of the writes of one key, in order
    places = _Places(session, writes)
    for number, write in enumerate(writes):
        try:
            wanted.setdefault(places.key_of(write), []).append(number)
        except PhasewatchError as error:
            answers[number] = error
    firsts = {key: writes[numbers[0]] for key, numbers in sorted(wanted.items())}
    stored = _insert(session, firsts) if firsts else {}
    new = set(stored)
    stored |= _find(session, firsts.keys() - new)
    for key, numbers in wanted.items():
        for number in numbers:
            same = stored[key].sha256 == writes[number].sha256
            answers[number] = (stored[key], key in new) if same else _conflict(writes[number], stored[key])
            new.discard(key)  # whoever else wrote the same was second
    return [answers[number] for number in range(len(writes))]


class _Key(NamedTuple):
    """Of a loss slice."""

    segment_id: int
    slice_id: int
    step: int


class _Part(NamedTuple):
    """What a loss slice must fit."""

    id: int
    n_sequences: int
    n_positions: int


class _Places:
    """The runs of some writes, locked, with their slices and segments."""

    def __init__(self, session: Session, writes: Iterable[LossWrite]) -> None:
        self._session = session
        ids, connection = sorted({write.run_id for write in writes}), session.connection()
        locked = connection.execute(_RUNS_LOCKED, {"runs": ids})
        self._sets: dict[UUID, str | None] = dict(tuple(row) for row in locked)
        chosen = connection.execute(_PARTS_OF, {"sets": sorted({found for found in self._sets.values() if found})})
        self._parts = {(of, name): _Part(id, rows, tokens - 1) for of, name, id, rows, tokens in chosen}
        self._segments: dict[tuple[UUID, int | None], tuple[int, int, int]] = {}
        for run_id, number, id, from_step in connection.execute(_SEGMENTS_OF, {"runs": ids}):
            self._segments[run_id, number] = self._segments[run_id, None] = id, number, from_step

    def key_of(self, write: LossWrite) -> _Key:
        """Where the write belongs. Raises what `store_losses` says."""
        part = self._parts.get((self._sets.get(write.run_id) or "", write.slice_name))
        if part is None:
            raise self._no_slice(write)
        if write.shape not in (part[1:], (part.n_sequences * part.n_positions,)):
            raise InvalidInput(
                f"losses of slice {write.slice_name!r} have shape {write.shape}; "
                f"expected {tuple(part[1:])} or flat ({part.n_sequences * part.n_positions},)"
            )
        if (write.run_id, write.segment) not in self._segments:
            get_segment(self._session, write.run_id, write.segment)  # raises
        segment_id, number, from_step = self._segments[write.run_id, write.segment]
        return _Key(segment_id, part.id, checked_step(write.step, from_step, number))

    def _no_slice(self, write: LossWrite) -> PhasewatchError:
        if write.run_id in self._sets:
            try:
                get_run_slice(self._session, write.run_id, write.slice_name)
            except NotFound as error:
                return UnknownSlice(str(error))
        return NotFound(f"run {write.run_id} does not exist; GET /api/v1/runs lists those that do")


def _insert(session: Session, writes: Mapping[_Key, LossWrite]) -> dict[_Key, LossSlice]:
    """Inserts what has a free key, with its blocks; the rows by key."""
    now = utc_now()
    headers = {
        key: key._asdict()
        | {
            "codec": write.codec,
            "n_values": write.n_values,
            "mean_nats": write.mean_nats,
            "n_non_finite": write.n_non_finite,
            "sha256": write.sha256,
            "created_at": now,
        }
        for key, write in writes.items()
    }
    new = [_Key(*key) for key in insert_all_absent(session, _HEADERS, list(headers.values()))]
    blocks = [
        key._asdict() | {"block": number, "payload": payload}
        for key in new
        for number, payload in enumerate(writes[key].payloads)
    ]
    if blocks:
        session.connection().execute(_NEW_BLOCKS, blocks)
    newest: dict[UUID, int] = {}
    for key in new:
        run_id = writes[key].run_id
        newest[run_id] = max(key.step, newest.get(run_id, 0))
    for run_id, step in sorted(newest.items()):
        note_step(session, run_id, step)
    return {key: LossSlice(**headers[key]) for key in new}


def _find(session: Session, keys: Set[_Key]) -> dict[_Key, LossSlice]:
    return {key: session.get_one(LossSlice, tuple(key)) for key in sorted(keys)}


def _conflict(write: LossWrite, stored: LossSlice) -> Conflict:
    return Conflict(
        f"run {write.run_id} has other losses for slice {write.slice_name!r} at step {write.step} "
        f"(SHA-256 {stored.sha256[:12]}…, yours {write.sha256[:12]}…); open a segment to record a resumed run"
    )
