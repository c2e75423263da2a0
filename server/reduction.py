"""Long series as few points that still show every spike: the least and the greatest value of each stretch of the axis.

Separate from the routes because it is a pure function of arrays, and what it promises is held by tests.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Scale = Literal["linear", "log"]
Indices = npt.NDArray[np.int64]

KEPT_A_BUCKET = 3  # the least, the greatest, and the first that is not a number
LEAST_POINTS = 2 + KEPT_A_BUCKET


def kept_points(steps: npt.ArrayLike, values: npt.ArrayLike, points: int, scale: Scale = "linear") -> Indices:
    """Indices, ascending, of at most `points` of the values; all of them where there are no more than that.

    steps (n,), ascending, at least 0; values (n,). The first and the last value are kept; those between fall into
    buckets evenly wide along the axis, in step or in ln(1 + step), and of each bucket the first of its least, the first
    of its greatest and the first of its values that are not a number are kept. So no spike, no infinity and no gap is
    hidden, and every value that is shown stands at its true step. points: at least 5.
    """
    x, y = np.asarray(steps, np.float64), np.asarray(values, np.float64)
    n = len(x)
    if points < LEAST_POINTS:
        raise ValueError(f"points is {points}; at least {LEAST_POINTS} are needed")
    if n <= points:
        return np.arange(n)
    inner = np.arange(1, n - 1)
    bucket = _buckets(np.log1p(x) if scale == "log" else x, (points - 2) // KEPT_A_BUCKET)[inner]
    chosen = [np.array([0, n - 1]), inner[_first_of_each(bucket, y[inner])], inner[_first_of_each(bucket, -y[inner])]]
    gaps = np.flatnonzero(np.isnan(y[inner]))
    if gaps.size:
        chosen.append(inner[gaps[np.unique(bucket[gaps], return_index=True)[1]]])
    return np.unique(np.concatenate(chosen))


def _buckets(x: npt.NDArray[np.float64], n_buckets: int) -> Indices:
    """The bucket of each of the ascending x, of n_buckets evenly wide between the first and the last of them."""
    share = (x - x[0]) / (x[-1] - x[0] or 1.0)
    bucket: Indices = np.minimum((share * n_buckets).astype(np.int64), n_buckets - 1)
    return bucket


def _first_of_each(bucket: Indices, values: npt.NDArray[Any]) -> Indices:
    """Where the least value of each bucket stands first; bucket ascending. Not-a-numbers come after everything."""
    order = np.lexsort((np.arange(len(values)), values, bucket))
    first: Indices = order[np.unique(bucket[order], return_index=True)[1]]
    return first
