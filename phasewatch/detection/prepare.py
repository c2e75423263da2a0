"""Checks at the door of every detector: shapes, increasing steps, non-finite values left out and counted.

Separate because the detectors must agree on what they refuse and what they skip.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from phasewatch.detection.phase_change import IntArray
from phasewatch.detection.transition import FloatArray
from phasewatch.errors import InvalidInput

MIN_CHECKPOINTS = 8  # a level before, three checkpoints inside, a level after, and something to judge the noise by


def check_steps(steps: npt.ArrayLike) -> IntArray:
    """`steps` as an int64 array (n,), strictly increasing and at least 0; else InvalidInput."""
    answer = np.asarray(steps)
    if answer.ndim != 1:
        raise InvalidInput(f"steps have shape {answer.shape}, must be (n_steps,)")
    if answer.size and not np.issubdtype(answer.dtype, np.integer) and not np.all(answer == np.floor(answer)):
        raise InvalidInput("steps are optimizer steps completed and must be whole numbers")
    answer = answer.astype(np.int64)
    if answer.size and answer[0] < 0:
        raise InvalidInput(f"the first step is {answer[0]}; steps count from 0")
    if np.any(np.diff(answer) <= 0):
        place = int(np.argmax(np.diff(answer) <= 0))
        raise InvalidInput(f"steps must increase: {answer[place]} is followed by {answer[place + 1]}")
    return answer


def check_series(values: npt.ArrayLike, steps: IntArray, name: str) -> FloatArray:
    """`values` as float64 (n_steps,), aligned with steps; else InvalidInput."""
    answer = np.asarray(values, dtype=np.float64)
    if answer.shape != steps.shape:
        raise InvalidInput(f"{name} has shape {answer.shape}, must be ({len(steps)},): one value a step")
    return answer


def check_matrix(values: npt.ArrayLike, steps: IntArray, name: str) -> npt.NDArray[np.floating]:
    """`values` as an array (n_steps, n_tokens) of its own float type; else InvalidInput."""
    answer = np.asarray(values)
    if answer.ndim < 2 or len(answer) != len(steps):
        raise InvalidInput(f"{name} has shape {answer.shape}, must be ({len(steps)}, n_tokens): one row a step")
    if not np.issubdtype(answer.dtype, np.floating):
        answer = answer.astype(np.float64)
    return answer.reshape(len(answer), -1)


def finite_part(values: FloatArray, steps: IntArray, name: str) -> tuple[FloatArray, IntArray, list[str]]:
    """Values and steps where the value is finite, and a note when some were not."""
    keep = np.isfinite(values)
    if keep.all():
        return values, steps, []
    note = f"{name}: {int((~keep).sum())} of {len(values)} checkpoints are not finite and were left out"
    return values[keep], steps[keep], [note]


def mean_losses(losses: npt.NDArray[np.floating]) -> FloatArray:
    """Mean over the finite losses of every checkpoint: (n_steps,), NaN where none is finite."""
    answer = np.full(len(losses), np.nan)
    for i, row in enumerate(losses):
        finite = row[np.isfinite(row)]
        if len(finite):
            answer[i] = finite.mean(dtype=np.float64)
    return answer
