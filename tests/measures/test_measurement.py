"""Measurements and their intervals: the bootstrap covers what it should, and its edges are honest."""

from __future__ import annotations

import numpy as np
import pytest

from phasewatch.errors import InvalidInput
from phasewatch.measures import HeadScores, Measurement
from phasewatch.measures.measurement import bootstrap_mean


def test_the_interval_of_a_mean_is_about_two_standard_errors() -> None:
    values = np.random.default_rng(0).normal(3, 2, 400)
    mean, interval = bootstrap_mean(values)
    error = values.std() / 20
    assert mean == pytest.approx(values.mean())
    assert interval == pytest.approx(values.mean() + np.array([-1.96, 1.96]) * error, abs=0.3 * error)


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    covered = 0
    for seed in range(200):
        _, (low, high) = bootstrap_mean(rng.exponential(1.0, 60), seed=seed)
        covered += low <= 1.0 <= high
    assert 0.89 <= covered / 200 <= 0.99


def test_sequences_count_with_their_number_of_entries() -> None:
    mean, interval = bootstrap_mean([[2.0, 4.0], [9.0, 3.0]], [1, 3])
    assert mean.tolist() == [11 / 4, 7 / 4]
    assert interval.shape == (2, 2)
    assert interval[:, 0].tolist() == [2.0, 3.0]


def test_a_single_sequence_says_nothing_about_others() -> None:
    mean, interval = bootstrap_mean([[2.0, 4.0]])
    assert mean.tolist() == [2.0, 4.0]
    assert np.isnan(interval).all()


def test_resamples_without_entries_are_left_out() -> None:
    mean, interval = bootstrap_mean([0.0, 5.0], [0, 5])
    assert mean == 1
    assert interval.tolist() == [1.0, 1.0]


def test_no_entries_at_all_is_no_number() -> None:
    mean, interval = bootstrap_mean([0.0, 0.0], [0, 0])
    assert np.isnan(mean)
    assert np.isnan(interval).all()


def test_one_column_that_is_not_finite_leaves_the_others() -> None:
    mean, interval = bootstrap_mean([[1.0, np.nan], [2.0, 1.0], [3.0, 1.0]])
    assert mean[0] == 2
    assert np.isfinite(interval[:, 0]).all()
    assert np.isnan(mean[1])
    assert np.isnan(interval[:, 1]).all()


def test_values_become_float64() -> None:
    scores = HeadScores(np.ones((2, 3), dtype=np.float32), 0.25, np.zeros((2, 2, 3), dtype=np.float32))
    assert scores.interval is not None
    assert {str(scores.values.dtype), str(scores.interval.dtype)} == {"float64"}
    assert (scores.excess == 0.75).all()


def test_an_interval_must_fit_its_values() -> None:
    with pytest.raises(InvalidInput, match=r"interval of shape \(2,\) for values of shape \(3,\)"):
        Measurement(np.zeros(3), interval=np.zeros(2))


def test_without_a_chance_level_there_is_no_excess() -> None:
    with pytest.raises(InvalidInput, match="no chance level"):
        _ = Measurement(np.array(1.0)).excess
