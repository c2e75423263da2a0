"""Changes of trend: a hinge in log step, where a series takes another slope and keeps it.

Separate because a hinge is not a sigmoid: it has a place and no width, and its effect is a slope. It is reported where
it explains all that the course leaves, better than any one change of level does, over a log step on either side. Where
a quick first descent slows down is no turn: while a run grows, its first bend looks like one.
"""

from __future__ import annotations

import numpy as np

from phasewatch.detection.first_descent import end_of_quick_descent
from phasewatch.detection.pace import Course, Pace
from phasewatch.detection.phase_change import IntArray, PhaseChange
from phasewatch.detection.profile import limit_95
from phasewatch.detection.transition import FloatArray, correlation, log_step, to_step

_EITHER_SIDE = 1.0  # log steps
_CHECKPOINTS = 6  # on either side
_PLACES = 30
_DESCENDED = 0.95  # of a quick first descent, that have to be done
_MIN_WAY = 0.1  # of the range of the series, that the new slope makes over what follows


def find_hinge(pace: Pace, steps: IntArray, *, unit: str, name: str) -> tuple[PhaseChange, Course] | None:
    """The best hinge beside the course of a series, as a change of kind `slope`, and that course; None without room."""
    x = log_step(steps)
    low, high = max(x[0] + _EITHER_SIDE, x[_CHECKPOINTS]), min(x[-1] - _EITHER_SIDE, x[-1 - _CHECKPOINTS])
    if low >= high:
        return None
    places = np.linspace(low, high, _PLACES)
    courses = [pace.fit(_hinge(x, place)) for place in places]
    best = int(np.argmin([course.rss for course in courses]))
    course = courses[best]
    if places[best] <= end_of_quick_descent(pace.values, x, _DESCENDED):
        return None
    if abs(course.heights[-1]) * (x[-1] - places[best]) < _MIN_WAY * pace.range or pace.leaves_structure(course):
        return None
    place, slope, interval = _profile(pace.values, course, x, np.linspace(low, high, 10 * _PLACES))
    step = round(to_step(place))
    change = PhaseChange(
        start_step=step,
        step=step,
        end_step=step,
        start_interval=interval,
        step_interval=interval,
        end_interval=interval,
        kind="slope",
        direction="rise" if slope > 0 else "drop",
        effect=abs(slope),
        unit=f"{unit} per log step",
        measure=name,
    )
    return change, course


def _profile(
    values: FloatArray, course: Course, x: FloatArray, places: FloatArray
) -> tuple[float, float, tuple[float, float]]:
    """(place in log step, slope, interval in steps) of the best hinge with the course's decays free beside it."""
    q = np.linalg.qr(np.column_stack([np.ones(len(x)), course.decays]))[0]
    hinges, target = np.maximum(x - places[:, None], 0.0), values - q @ (q.T @ values)
    hinges = hinges - (hinges @ q) @ q.T
    power, score = np.maximum(np.einsum("gn,gn->g", hinges, hinges), 1e-12), hinges @ target
    same = score * float(course.heights[-1]) > 0
    left = float(target @ target) - np.where(same, score**2 / power, 0.0)
    best = int(np.argmin(left))
    rho = correlation(target - score[best] / power[best] * hinges[best])
    n_free = max(len(x) - q.shape[1] - 2, 2)
    inside = places[left <= left[best] * (1 + limit_95(n_free) / n_free * (1 + rho) / (1 - rho))]
    interval = (to_step(float(inside[0])), to_step(float(inside[-1])))
    return float(places[best]), float(score[best] / power[best]), interval


def _hinge(x: FloatArray, place: float) -> FloatArray:
    return np.asarray(np.maximum(x - place, 0.0)[:, None])
