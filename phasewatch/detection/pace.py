"""The run's own pace: the smooth course that a series would have without any phase change.

Separate because it is the null of the broad detector. Training curves fall like mixtures of power laws and exponentials
of the step, quickest at first, later straight lines in log step. The course is a constant, a line in log step and up to
two decays (1 + (t/t0)^k)^(−c/k), chosen greedily. k > 1 is the quick start that a warm-up gives, allowed only while
t0 lies in the first tenth of the run: no member of the family can change quickly late.
"""

from __future__ import annotations

import numpy as np

from phasewatch.detection.phase_change import IntArray
from phasewatch.detection.transition import FloatArray, log_step

_EXPONENTS = (0.15, 0.3, 0.5, 0.75, 1.0, 1.5, 2.5, 5.0)
_EARLY = 0.1  # share of the run within which a decay may start quickly
_WORTH = 8.0  # log likelihood a decay has to bring


def decay_family(steps: IntArray) -> FloatArray:
    """Columns (n_steps, n_decays) of decays from 1 towards 0."""
    t = steps.astype(np.float64) - min(float(steps[0]), 0.0)
    last = max(float(t[-1]), 2.0)
    first = max(float(t[t > 0][0]), 0.5)
    columns = []
    for k in (1.0, 2.0, 3.0):
        top = last / 3 if k == 1.0 else max(last * _EARLY, 2 * first)
        for scale in np.geomspace(first, top, 18):
            base = 1.0 + (t / scale) ** k
            columns += [base ** (-c / k) for c in _EXPONENTS]
    return np.column_stack(columns)


def pace_columns(values: FloatArray, steps: IntArray, family: FloatArray, extra: FloatArray) -> FloatArray:
    """Columns (n_steps, p) of the smooth course: log step and the decays that earn their place beside `extra`."""
    chosen = log_step(steps)[:, None]
    n = len(values)
    for _ in range(2):
        design = np.column_stack([np.ones(n), extra, chosen])
        q = np.linalg.qr(design)[0]
        left = values - q @ (q.T @ values)
        free = family - q @ (q.T @ family)
        power = np.einsum("nk,nk->k", free, free)
        score = np.where(power > 1e-9 * n, (left @ free) ** 2 / np.maximum(power, 1e-12), 0.0)
        best = int(np.argmax(score))
        rss = float(left @ left)
        remaining = max(rss - float(score[best]), 1e-24 * n)
        if n / 2 * np.log(max(rss, 1e-24 * n) / remaining) < _WORTH or n <= design.shape[1] + 4:
            break
        chosen = np.column_stack([chosen, family[:, best]])
    return chosen
