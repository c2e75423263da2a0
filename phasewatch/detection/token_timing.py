"""Which tokens move with a change of known time, the most certain first.

Separate from the search for changes nobody has timed yet: here the time comes from a head, and each token is only asked
whether its own loss fell then, and then rather than at another time.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from phasewatch.detection.loss_source import LossSource
from phasewatch.detection.phase_change import IntArray
from phasewatch.detection.transition import FloatArray, Transition, log_step

_SURROUNDINGS = 1.5  # log steps on either side of the change that a token is judged in
_Z = 3.0  # standard errors; about one token in a thousand by noise alone
_BLOCK = 16_384  # tokens held in float64 at a time


def tokens_moving_with(fit: Transition, losses: LossSource, steps: IntArray, sign: int = -1) -> IntArray:
    """Indices of the tokens whose loss moves along the fitted curve, beside a line in log step; best first.

    losses  (n_steps, n_tokens) in nats, read a block of tokens at a time
    sign    -1 for losses that fall across the change
    """
    x = log_step(steps)
    near = np.flatnonzero((x >= fit.start - _SURROUNDINGS) & (x <= fit.end + _SURROUNDINGS))
    if len(near) < 6:
        return np.empty(0, dtype=np.int64)
    x, rows, n_tokens = x[near], slice(int(near[0]), int(near[-1]) + 1), losses.shape[1]
    curves = np.stack([fit.curve(x), *_elsewhere(fit, x)])
    parts = [slice(begin, min(begin + _BLOCK, n_tokens)) for begin in range(0, n_tokens, _BLOCK)]
    z = np.concatenate([_scores(np.asarray(losses[rows, part]), x, curves, sign) for part in parts])
    order = np.argsort(-z, kind="stable")
    return order[z[order] > _Z].astype(np.int64)


def _elsewhere(fit: Transition, x: FloatArray) -> list[FloatArray]:
    """The same curve at other times: a token belongs to the change only where none of these fits better."""
    shift = fit.end - fit.start
    times = [fit.middle - shift, fit.middle + shift]
    return [1 / (1 + np.exp(-(x - t) / max(fit.left, 1e-3))) for t in times if x[1] < t < x[-2]]


def _scores(rows: npt.NDArray[np.floating], x: FloatArray, curves: FloatArray, sign: int) -> FloatArray:
    """z of each token's movement along the first curve; -inf where another curve explains it better."""
    y = np.where(np.isfinite(rows), rows, np.nan).astype(np.float64)
    y = np.where(np.isnan(y), np.nanmean(y, axis=0), y) if np.isnan(y).any() else y
    q = np.linalg.qr(np.column_stack([np.ones(len(x)), x]))[0]
    y = y - q @ (q.T @ y)
    free = curves - (curves @ q) @ q.T
    free /= np.linalg.norm(free, axis=1, keepdims=True)
    along = sign * (free @ y)
    power = np.einsum("tn,tn->n", y, y)
    variance = (power - along[0] ** 2) / max(len(x) - 3, 1)
    variance += 0.5 * np.median(variance) + 1e-12  # a quiet token's own estimate is uncertain
    z = along[0] / np.sqrt(variance)
    return np.where(along[0] >= along.max(axis=0), z, -np.inf)
