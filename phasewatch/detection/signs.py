"""Whether a behaviour changed together with a head: in-context learning falling, repeat gain rising.

Separate from the verdict because a sign is a question of its own with its own interval: the level before against the
level after, with the noise of the checkpoints and, where sequences are known, that of the sample of sequences; and the
time of its own change, which has to overlap the head's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from phasewatch.detection.loss_source import LossSource
from phasewatch.detection.phase_change import IntArray
from phasewatch.detection.prepare import finite_part
from phasewatch.detection.timing import Timing, place
from phasewatch.detection.transition import FloatArray, correlation, fit_transition, log_step

PRESENT, ABSENT, NOT_MEASURED = "present", "absent", "not measured"
BEHAVIOURS: Mapping[str, int] = {"icl_score": -1, "repeat_gain": 1}  # and the direction induction moves them in

_REACH_BEFORE, _REACH_AFTER = 1.2, 1.5  # log steps of surroundings that a sign is judged in
_Z_95 = 1.96
_BLOCK = 16_384  # losses of a checkpoint held in float64 at a time


@dataclass(frozen=True)
class Sign:
    """The state of one sign; where it was judged, its change (after − before), interval and timing."""

    state: str
    change: float | None = None
    interval: tuple[float, float] | None = None
    timing: Timing | None = None


def judge_sign(
    values: FloatArray, steps: IntArray, window: tuple[float, float], direction: int, by_document: FloatArray | None
) -> Sign:
    """The sign of `values` (n_steps,) across a head's `window` (log steps, end infinite while it is open).

    direction    1 or -1: where induction moves it
    by_document  (n_steps, n_documents) the same measure per document, or None; adds the sample's own uncertainty
    """
    kept, at, _ = finite_part(values, steps, "sign")
    x = log_step(at)
    near = (x >= window[0] - _REACH_BEFORE) & (x <= window[1] + _REACH_AFTER)
    kept, at, x = kept[near], at[near], x[near]
    early, late = _sides(x, window)
    if early.sum() < 2 or late.sum() < 2 or len(x) < 6:
        return Sign(NOT_MEASURED)
    change = float(kept[late].mean() - kept[early].mean())
    error = _error(kept, early, late)
    if by_document is not None:
        rows = by_document[np.searchsorted(steps, at)]
        differences = rows[late].mean(axis=0) - rows[early].mean(axis=0)
        differences = differences[np.isfinite(differences)]
        error = float(np.hypot(error, differences.std(ddof=1) / np.sqrt(len(differences))))
    interval = (change - _Z_95 * error, change + _Z_95 * error)
    if interval[0] * interval[1] <= 0 or change * direction <= 0:
        return Sign(ABSENT, change, interval)
    timing = place(fit_transition(x, kept, sign=direction), at)
    low, high = timing.window
    state = PRESENT if low <= window[1] and window[0] <= high else ABSENT
    return Sign(state, change, interval, timing)


def _sides(x: FloatArray, window: tuple[float, float]) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Which checkpoints count as before and as after; while a window is open, its newest quarter is after."""
    early = x <= window[0]
    if early.sum() < 2:
        early = np.arange(len(x)) < 2
    late = x >= window[1]
    if late.sum() < 2:
        inside = np.flatnonzero(x > window[0])
        late = np.zeros(len(x), dtype=bool)
        late[inside[-max(2, len(inside) // 4) :]] = True
    return early, late & ~early


def _error(values: FloatArray, early: npt.NDArray[np.bool_], late: npt.NDArray[np.bool_]) -> float:
    """Standard error of the difference of the two levels, for noise that neighbouring checkpoints share."""
    variance = 0.0
    steps = np.diff(values)
    rough = float(np.median(np.abs(steps)) * 1.4826 / np.sqrt(2)) if len(steps) else 0.0
    for side in (early, late):
        part = values[side]
        inner = part - part.mean()
        spread = max(float(part.std(ddof=1)), rough)
        rho = correlation(inner)
        variance += spread**2 / len(part) * (1 + rho) / (1 - rho)
    return float(np.sqrt(variance))


def icl_by_document(losses: LossSource, documents: IntArray) -> FloatArray | None:
    """In-context learning score of every document: (n_steps, n_documents), MEASURES.md section 2; None where too short.

    losses     (n_steps, n_tokens) in nats, read a block of tokens at a time
    documents  (n_tokens,) the document of each loss; losses of a document are in order, the first predicts its token 1
    """
    _, rank, sizes = np.unique(documents, return_inverse=True, return_counts=True)
    token = _place_within(rank)
    n = sizes[rank] + 1
    early, late = (token >= 0.05 * n) & (token < 0.15 * n), token >= 0.9 * n
    early, late = np.where(n > 500, token == 50, early), np.where(n > 500, token == 500, late)
    enough = sizes + 1 >= 20
    if enough.sum() < 2:
        return None
    change = _means_by(losses, rank, late, len(sizes)) - _means_by(losses, rank, early, len(sizes))
    return change[:, enough]


def _place_within(rank: IntArray) -> IntArray:
    """(n,): which of its document's losses each is, counted from 1, for the document `rank` (n,) of each."""
    order = np.argsort(rank, kind="stable")
    firsts = np.searchsorted(rank[order], rank[order])
    answer = np.empty(len(rank), dtype=np.int64)
    answer[order] = np.arange(len(rank)) - firsts + 1
    return answer


def _means_by(losses: LossSource, rank: IntArray, chosen: npt.NDArray[np.bool_], n_documents: int) -> FloatArray:
    """(n_steps, n_documents): the mean over each document's `chosen` losses."""
    sums, counts = np.zeros((n_documents, losses.shape[0])), np.bincount(rank[chosen], minlength=n_documents)
    for begin in range(0, len(rank), _BLOCK):
        columns = np.flatnonzero(chosen[begin : begin + _BLOCK])
        block = np.asarray(losses[:, begin : min(begin + _BLOCK, len(rank))])
        np.add.at(sums, rank[begin + columns], block[:, columns].T.astype(np.float64))
    return np.asarray((sums / np.maximum(counts, 1)[:, None]).T)


def repeat_gain_by_document(losses: LossSource, tokens: IntArray) -> FloatArray | None:
    """Repeat gain of every sequence of a `repeats` slice: (n_steps, n_sequences); None where nothing repeats.

    losses  (n_steps, n_sequences · (n − 1)) in nats, read some sequences at a time
    tokens  (n_sequences, n) the token ids; the length of a copy is read off them
    """
    n_sequences, n = tokens.shape
    length = next((k for k in range(2, n // 2 + 1) if np.array_equal(tokens[:, 1:-k], tokens[:, 1 + k :])), None)
    if length is None:
        return None
    place = np.arange(1, n)  # the token each loss predicts; copies start at 1, after BOS
    scored = (place - 1) % length > 0
    first, later = scored & (place <= length), scored & (place > length)
    answer, together = [], max(1, _BLOCK // (n - 1))
    for begin in range(0, n_sequences, together):
        part = slice(begin * (n - 1), min(begin + together, n_sequences) * (n - 1))
        block = np.asarray(losses[:, part]).reshape(losses.shape[0], -1, n - 1).astype(np.float64)
        answer.append(block[:, :, first].mean(axis=2) - block[:, :, later].mean(axis=2))
    return np.concatenate(answer, axis=1)
