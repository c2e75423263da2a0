"""A loss matrix read a block of tokens at a time: an array, a file mapped into memory, or anything that gives columns.

Separate so that a scan never asks how large the matrix is or where it lies: a study's losses do not fit into memory
beside what is computed from them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from phasewatch.detection.phase_change import IntArray
from phasewatch.detection.prepare import check_matrix
from phasewatch.detection.transition import FloatArray
from phasewatch.errors import InvalidInput

Rows = npt.NDArray[np.float32]  # (n_tokens, n_steps): a token's course lies in one piece

_BLOCK_VALUES = 1 << 22  # read at a time: sixteen megabytes, and a few times that while they are looked at
_SAMPLE = 16_384  # tokens kept in memory, evenly spread
_ABSURD = 1e6  # nats, beyond which a loss is no use to a fit


@runtime_checkable
class LossSource(Protocol):
    """Losses (n_steps, n_tokens) in nats that need not be in memory: `source[:, begin:end]` gives the columns."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __getitem__(self, at: tuple[slice, slice], /) -> npt.NDArray[np.floating]: ...


class LossBlocks:
    """The usable checkpoints of a source, read once to know them.

    mean    (n_steps,) over the finite losses of each checkpoint, NaN where there is none
    usable  (n_steps,) whether a checkpoint has any
    n_bad   losses that are not finite
    sample  (n, n usable steps) courses of evenly spread tokens, in memory
    """

    def __init__(self, source: LossSource) -> None:
        self._source = source
        n_steps, self.n_tokens = source.shape
        total, count = np.zeros(n_steps), np.zeros(n_steps, dtype=np.int64)
        every = max(1, -(-self.n_tokens // _SAMPLE))
        sample = []
        for part in self.parts():
            block = np.asarray(source[:, part])
            finite = np.isfinite(block)
            count += finite.sum(axis=1)
            total += np.where(finite, block, 0).sum(axis=1, dtype=np.float64)
            sample.append(block[:, -part.start % every :: every].copy())  # not a view, which would keep the block
        self.usable = count > 0
        self.mean: FloatArray = np.where(self.usable, total / np.maximum(count, 1), np.nan)
        self.n_bad = n_steps * self.n_tokens - int(count.sum())
        self._rows = slice(None) if self.usable.all() else np.flatnonzero(self.usable)
        self.sample = self._filled(np.concatenate(sample, axis=1)) if sample else np.empty((0, n_steps), np.float32)

    @property
    def size(self) -> int:
        return self.n_tokens * len(self.usable)

    def parts(self) -> Iterator[slice]:
        """Ranges of tokens that cover all."""
        width = max(256, 1 << (_BLOCK_VALUES // max(self._source.shape[0], 1)).bit_length() - 1)  # as blocks are stored
        for begin in range(0, self.n_tokens, width):
            yield slice(begin, min(begin + width, self.n_tokens))

    def courses(self, part: slice) -> Rows:
        """(n, n usable steps): courses of a range of tokens, with their own mean where a loss is not finite."""
        return self._filled(np.asarray(self._source[:, part]))

    def courses_of(self, tokens: IntArray) -> Rows:
        """(n, n usable steps): courses of some tokens, in their order."""
        answer = np.empty((len(tokens), int(self.usable.sum())), np.float32)
        order = np.argsort(tokens, kind="stable")
        ordered = tokens[order]
        for part in self.parts():
            low, high = np.searchsorted(ordered, [part.start, part.stop])
            if high > low:
                block = np.asarray(self._source[:, part])[:, ordered[low:high] - part.start]
                answer[order[low:high]] = self._filled(block)
        return answer

    def mean_of(self, tokens: IntArray) -> FloatArray:
        """The mean course (n usable steps,) of some tokens."""
        return np.asarray(self.courses_of(tokens).mean(axis=0, dtype=np.float64))

    def _filled(self, block: npt.NDArray[np.floating]) -> Rows:
        rows = np.ascontiguousarray(block[self._rows].T, dtype=np.float32)
        bad = ~(np.abs(rows) <= _ABSURD)
        if bad.any():
            rows[bad] = 0.0
            own = rows.sum(axis=1) / np.maximum((~bad).sum(axis=1), 1)
            rows = np.where(bad, own[:, None], rows)
        return rows


def as_source(losses: npt.ArrayLike | LossSource, steps: IntArray, name: str) -> LossSource:
    """`losses` as (n_steps, n_tokens); what is not an array but gives columns stays where it is. Else InvalidInput."""
    if isinstance(losses, LossSource) and not hasattr(losses, "__array__"):
        if len(losses.shape) != 2 or losses.shape[0] != len(steps):
            raise InvalidInput(f"{name} has shape {losses.shape}, must be ({len(steps)}, n_tokens): one row a step")
        return losses
    return check_matrix(losses, steps, name)  # type: ignore[arg-type]
