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

from phasewatch.detection.phase_change import IntArray
from phasewatch.detection.prepare import finite_part
from phasewatch.detection.timing import Timing, place
from phasewatch.detection.transition import FloatArray, correlation, fit_transition, log_step

PRESENT, ABSENT, NOT_MEASURED = "present", "absent", "not measured"
BEHAVIOURS: Mapping[str, int] = {"icl_score": -1, "repeat_gain": 1}  # and the direction induction moves them in

_REACH_BEFORE, _REACH_AFTER = 1.2, 1.5  # log steps of surroundings that a sign is judged in
_Z_95 = 1.96


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


def icl_by_document(losses: npt.NDArray[np.floating], documents: IntArray) -> FloatArray | None:
    """In-context learning score of every document: (n_steps, n_documents), MEASURES.md section 2; None where too short.

    losses     (n_steps, n_tokens) in nats
    documents  (n_tokens,) the document of each loss; losses of a document are in order, the first predicts its token 1
    """
    answer = []
    for document in np.unique(documents):
        own = np.flatnonzero(documents == document)
        n = len(own) + 1
        if n < 20:
            continue
        token = np.arange(1, n)
        if n > 500:
            early, late = token == 50, token == 500
        else:
            early, late = (token >= 0.05 * n) & (token < 0.15 * n), token >= 0.9 * n
        rows = losses[:, own]
        answer.append(rows[:, late].mean(axis=1, dtype=np.float64) - rows[:, early].mean(axis=1, dtype=np.float64))
    return np.column_stack(answer) if len(answer) >= 2 else None


def repeat_gain_by_document(losses: npt.NDArray[np.floating], tokens: IntArray) -> FloatArray | None:
    """Repeat gain of every sequence of a `repeats` slice: (n_steps, n_sequences); None where nothing repeats.

    losses  (n_steps, n_sequences · (n − 1)) in nats
    tokens  (n_sequences, n) the token ids; the length of a copy is read off them
    """
    n_sequences, n = tokens.shape
    length = next((k for k in range(2, n // 2 + 1) if np.array_equal(tokens[:, 1:-k], tokens[:, 1 + k :])), None)
    if length is None:
        return None
    place = np.arange(1, n)  # the token each loss predicts; copies start at 1, after BOS
    scored = (place - 1) % length > 0
    first, later = scored & (place <= length), scored & (place > length)
    by_sequence = losses.reshape(len(losses), n_sequences, n - 1).astype(np.float64)
    return np.asarray(by_sequence[:, :, first].mean(axis=2) - by_sequence[:, :, later].mean(axis=2))
