"""The sigmoid fit: where, how wide, and intervals that hold what they promise."""

from __future__ import annotations

import numpy as np
import pytest

from phasewatch.detection.transition import fit_transition, log_step, split_sigmoid, to_step

STEPS = np.unique(np.geomspace(10, 10_000, 80).astype(int))
X = log_step(STEPS)


def course(middle: float, left: float, right: float) -> np.ndarray:
    return split_sigmoid(X, np.array([middle]), np.array([left]), np.array([right])).ravel()


def test_a_noiseless_curve_is_recovered() -> None:
    fit = fit_transition(X, 3.0 - 1.2 * course(6.5, 0.15, 0.3))
    assert fit.middle == pytest.approx(6.5, abs=0.02)
    assert (fit.before, fit.after) == (pytest.approx(3.0, abs=0.02), pytest.approx(1.8, abs=0.02))
    assert fit.curve(X) == pytest.approx(course(6.5, 0.15, 0.3), abs=0.02)
    assert fit.start == pytest.approx(6.5 - np.log(9) * 0.15, abs=0.05)
    assert fit.end == pytest.approx(6.5 + np.log(9) * 0.3, abs=0.1)


def test_nuisance_columns_are_taken_out() -> None:
    line = X - X.mean()
    fit = fit_transition(X, 2.0 + 0.7 * line - course(6.0, 0.2, 0.2), base=line[:, None])
    assert fit.middle == pytest.approx(6.0, abs=0.03)
    assert fit.height == pytest.approx(-1.0, abs=0.05)


def test_sign_and_ceiling_hold() -> None:
    values = course(6.0, 0.2, 0.2)
    assert fit_transition(X, values, sign=-1).height <= 0
    assert fit_transition(X, values, ceiling=0.4).height == pytest.approx(0.4, abs=0.01)


@pytest.mark.parametrize("rho", [0.0, 0.5])
def test_intervals_hold_the_truth_as_often_as_they_say(rho: float) -> None:
    """Nominal 95 %; measured over 60 runs, with independent and with correlated noise."""
    held = np.zeros(3)
    for seed in range(60):
        rng = np.random.default_rng(seed)
        noise = rng.normal(0, 0.1, len(X))
        for i in range(1, len(noise)):
            noise[i] = rho * noise[i - 1] + np.sqrt(1 - rho**2) * noise[i]
        middle = rng.uniform(5, 7.5)
        fit = fit_transition(X, course(middle, 0.2, 0.2) + noise)
        reach = np.log(9) * 0.2
        truths = (middle - reach, middle, middle + reach)
        intervals = (fit.start_interval, fit.middle_interval, fit.end_interval)
        held += [low <= truth <= high for truth, (low, high) in zip(truths, intervals, strict=True)]
    assert (held / 60 >= 0.88).all()


def test_log_steps_go_back_to_steps() -> None:
    assert to_step(float(log_step([345])[0])) == pytest.approx(345)
