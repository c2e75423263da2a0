"""The stored losses of a slice as columns that a detector reads block by block: they never lie in memory as a whole.

Separate from the loss store because it is a view for one reader: `phasewatch.detection.loss_source.LossSource`.
"""

from __future__ import annotations

from uuid import UUID

import numpy as np

from phasewatch.storage.codecs import FloatArray
from phasewatch.storage.database import Database
from phasewatch.storage.losses import IntArray, StoredStep, read_losses, visible_losses
from phasewatch.storage.probe_sets import get_run_slice

_KEPT_VALUES = 1 << 23  # 32 MB of float32: so much of what was read stays, and a small run is read once


class StoredLosses:
    """A slice's losses along the visible history of a run, (n_steps, n_tokens) in nats; `steps` (n_steps,) ascending.

    `stored[a:b, c:d]` reads the blocks that hold tokens c to d − 1, in a short transaction of its own: a scan of many
    minutes holds none open. What is recorded after it was made is not part of it; NaN where a slice has no losses.

    steps  the rows; by default the steps that have losses
    """

    def __init__(self, database: Database, run_id: UUID, slice_name: str, steps: IntArray | None = None) -> None:
        self._database = database
        with database.reading() as session:
            part = get_run_slice(session, run_id, slice_name)
            self._slice_id, n_tokens = part.id, part.n_sequences * (part.n_tokens - 1)
            found = visible_losses(session, run_id, part.id)
        self.steps: IntArray = np.array([one.step for one in found], np.int64) if steps is None else steps
        by_step = {one.step: one for one in found}
        self._stored = [by_step.get(step) for step in self.steps.tolist()]
        self.shape = (len(self.steps), n_tokens)
        self._kept: dict[tuple[int, int], FloatArray] = {}

    def __getitem__(self, at: tuple[slice, slice]) -> FloatArray:
        rows, (begin, end, _) = at[0], at[1].indices(self.shape[1])
        values = self._kept.get((begin, end))
        if values is not None:
            return values[rows]
        values = self._read(self._stored[rows], np.arange(begin, end))
        kept = sum(block.size for block in self._kept.values())
        if len(values) == len(self.steps) and kept + values.size <= _KEPT_VALUES:
            values.flags.writeable = False
            self._kept[begin, end] = values
        return values

    def _read(self, stored: list[StoredStep | None], tokens: IntArray) -> FloatArray:
        there = [row for row, one in enumerate(stored) if one is not None]
        with self._database.reading() as session:
            found = read_losses(session, self._slice_id, [one for one in stored if one is not None], tokens)
        if len(there) == len(stored):
            return found
        values = np.full((len(stored), len(tokens)), np.nan, np.float32)
        values[there] = found
        return values
