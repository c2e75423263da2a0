"""The reduction of long series against a slow one written for reading: nothing that stands out is hidden."""

from __future__ import annotations

import math

import numpy as np
import pytest

from server.reduction import kept_points


def plainly(steps: list[int], values: list[float], points: int, scale: str) -> list[int]:
    """The same, bucket by bucket, in plain Python."""
    n = len(steps)
    if n <= points:
        return list(range(n))
    n_buckets = (points - 2) // 3
    place = [math.log1p(step) if scale == "log" else float(step) for step in steps]
    kept = {0, n - 1}
    buckets: dict[int, list[int]] = {}
    for index in range(1, n - 1):
        share = (place[index] - place[0]) / ((place[-1] - place[0]) or 1.0)
        buckets.setdefault(min(int(share * n_buckets), n_buckets - 1), []).append(index)
    for members in buckets.values():
        numbers = [index for index in members if not math.isnan(values[index])]
        if numbers:
            kept.add(min(numbers, key=lambda index: (values[index], index)))
            kept.add(min(numbers, key=lambda index: (-values[index], index)))
        kept.update([index for index in members if math.isnan(values[index])][:1])
    return sorted(kept)


@pytest.mark.parametrize("scale", ["linear", "log"])
@pytest.mark.parametrize("points", [5, 6, 7, 50, 333])
def test_it_is_what_the_plain_one_keeps(points: int, scale: str) -> None:
    for seed in range(12):
        rng = np.random.default_rng(seed)
        n = int(rng.integers(1, 700))
        steps = np.unique(rng.integers(0, 5_000, n))
        values = np.round(rng.normal(size=len(steps)), 1)  # with ties
        odd = rng.random(len(steps))
        values = np.where(odd < 0.03, np.nan, np.where(odd < 0.05, np.inf, np.where(odd < 0.06, -np.inf, values)))
        found = kept_points(steps, values, points, scale)  # type: ignore[arg-type]  # a literal, by the parameters above
        assert found.tolist() == plainly(steps.tolist(), values.tolist(), points, scale)
        assert len(found) <= points


def test_one_spike_among_a_million_is_seen_at_its_step() -> None:
    steps, values = np.arange(1_000_000), np.zeros(1_000_000)
    values[[123_456, 900_001]] = 9.0, -7.0
    for scale in ("linear", "log"):
        found = kept_points(steps, values, 500, scale)
        assert {0, 123_456, 900_001, 999_999} <= set(found.tolist())
        assert len(found) <= 500


def test_the_early_steps_stay_in_detail_on_a_logarithmic_axis() -> None:
    steps = np.arange(100_000)
    values = np.random.default_rng(0).normal(size=100_000)
    early = [int((steps[kept_points(steps, values, 600, scale)] < 1_000).sum()) for scale in ("linear", "log")]
    assert early[0] < 10
    assert early[1] > 150


def test_what_is_short_stays_whole_and_nothing_is_nothing() -> None:
    assert kept_points([3, 5, 9], [1.0, math.nan, 2.0], 5).tolist() == [0, 1, 2]
    assert kept_points([], [], 5).tolist() == []
    assert kept_points([4] * 9, range(9), 5).tolist() == [0, 1, 7, 8]


def test_too_few_points_are_refused() -> None:
    with pytest.raises(ValueError, match="points is 4; at least 5"):
        kept_points([0, 1], [0.0, 1.0], 4)
