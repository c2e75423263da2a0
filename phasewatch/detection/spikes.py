"""Spikes (checkpoints that leave the course and come back) and divergence: real, reported, never changes of level.

Separate because they are taken out before anything is fitted.
"""

from __future__ import annotations

import numpy as np

from phasewatch.detection.phase_change import IntArray, PhaseChange
from phasewatch.detection.transition import FloatArray, log_step

_SPIKE = 8.0  # robust standard deviations from the neighbours' course
_LONGEST = 2  # checkpoints


def remove_spikes(
    values: FloatArray, steps: IntArray, *, unit: str, name: str
) -> tuple[list[PhaseChange], FloatArray, IntArray]:
    """(spikes, values without them, steps without them) of a finite series (n_steps,)."""
    away = _away(values, log_step(steps))
    limit = _SPIKE * max(_scale(values, steps), 1e-3 * float(np.ptp(values)), 1e-12)
    out = np.abs(away) > limit
    out[:2] = out[-2:] = False  # the ends have no neighbours to come back to
    spikes, keep = [], np.ones(len(values), dtype=bool)
    for first, last in _stretches(out):
        if last - first + 1 > _LONGEST:
            continue
        worst = first + int(np.argmax(np.abs(away[first : last + 1])))
        keep[first : last + 1] = False
        spikes.append(_spike(int(steps[first]), int(steps[worst]), int(steps[last]), float(away[worst]), unit, name))
    return spikes, values[keep], steps[keep]


def _away(values: FloatArray, x: FloatArray) -> FloatArray:
    """Distance of each value from the straight line between the medians of two neighbours on either side.

    Zero where the neighbours of the two sides differ by as much: that is a level changing, not a spike.
    """
    answer = np.zeros(len(values))
    for i in range(2, len(values) - 2):
        before, after = values[max(0, i - 3) : i], values[i + 1 : i + 4]
        low, high = min(before.min(), after.min()), max(before.max(), after.max())
        answer[i] = values[i] - high if values[i] > high else min(values[i] - low, 0.0)
        sides = abs(float(np.median(before)) - float(np.median(after)))
        if sides > 0.5 * abs(answer[i]):
            answer[i] = 0.0
    return answer


def _scale(values: FloatArray, steps: IntArray) -> float:
    """Robust standard deviation of the noise: second differences, which a smooth course hardly has."""
    second = values[2:] - 2 * values[1:-1] + values[:-2]
    return float(np.median(np.abs(second)) * 1.4826 / np.sqrt(6))


def _stretches(mask: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> list[tuple[int, int]]:
    edges = np.flatnonzero(np.diff(np.concatenate([[0], mask.astype(np.int8), [0]])))
    return [(int(a), int(b) - 1) for a, b in zip(edges[::2], edges[1::2], strict=True)]


def _spike(first: int, worst: int, last: int, away: float, unit: str, name: str) -> PhaseChange:
    return PhaseChange(
        start_step=first,
        step=worst,
        end_step=last,
        kind="spike",
        direction="rise" if away > 0 else "drop",
        effect=abs(away),
        unit=unit,
        measure=name,
        n_checkpoints_inside=1 if first == last else 2,
    )
