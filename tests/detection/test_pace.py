"""The smooth course, and the weights it is made of."""

from __future__ import annotations

import numpy as np
import pytest

from phasewatch.detection.pace import Pace, decay_family, nonnegative

STEPS = np.unique(np.concatenate([[0], np.geomspace(1, 5_000, 60)]).astype(int))


def test_weights_meet_the_conditions_of_the_optimum() -> None:
    """Karush-Kuhn-Tucker: no negative weight, no slope left on those used, none upward on the others."""
    for seed in range(20):
        rng = np.random.default_rng(seed)
        columns, target = rng.normal(size=(15, 40)), rng.normal(size=15)
        weights = nonnegative(columns, target)
        slope = columns.T @ (target - columns @ weights)
        assert (weights >= 0).all()
        assert np.abs(slope[weights > 0]).max(initial=0.0) < 1e-6
        assert slope.max() < 1e-5


def test_known_weights_come_back() -> None:
    columns = np.eye(4)
    assert nonnegative(columns, np.array([1.0, -2.0, 0.5, 0.0])) == pytest.approx([1.0, 0.0, 0.5, 0.0])


@pytest.mark.parametrize("exponent", [0.2, 0.45, 1.3])
def test_power_laws_outside_the_family_are_described(exponent: float) -> None:
    values = 2 + 3 * (1 + STEPS / 17) ** -exponent
    course = Pace(values, STEPS).fit(np.empty((len(STEPS), 0)))
    assert np.abs(course.residuals).max() < 0.01
    assert course.smooth == pytest.approx(values, abs=0.01)


def test_a_late_sigmoid_is_not_described() -> None:
    values = 2 + 3 * (1 + STEPS / 17) ** -0.5
    step = 1 / (1 + np.exp(-(np.log1p(STEPS) - 7) / 0.15))
    alone = Pace(values - 0.5 * step, STEPS).fit(np.empty((len(STEPS), 0)))
    beside = Pace(values - 0.5 * step, STEPS).fit(step[:, None])
    assert alone.rss > 100 * beside.rss
    assert beside.heights[0] == pytest.approx(-0.5, abs=0.05)


def test_every_decay_falls_from_one() -> None:
    family = decay_family(STEPS)
    assert family[0] == pytest.approx(1.0)
    assert (np.diff(family, axis=0) <= 1e-12).all()
