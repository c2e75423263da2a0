"""Slopes, components and turns of a run: equal to plain formulas, and right on paths whose geometry is known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from phasewatch.errors import InvalidInput
from phasewatch.measures.trajectory import loss_slope, trajectory

RNG = np.random.default_rng(0)


def embedded(points: NDArray[np.float64], n_tokens: int = 50) -> NDArray[np.float64]:
    """Points (n_steps, k) laid isometrically into the space of n_tokens losses."""
    directions, _ = np.linalg.qr(RNG.normal(size=(n_tokens, points.shape[1])))
    return np.asarray(5 + points @ directions.T)


def test_slope_of_a_logarithm_is_its_factor() -> None:
    tokens = np.array([16, 64, 100, 4000])
    assert loss_slope(6 - 0.4 * np.log(tokens), tokens) == pytest.approx([-0.4, -0.4, -0.4])


def test_before_the_first_token_there_is_no_slope() -> None:
    assert np.isnan(loss_slope([6.0, 5.0, 4.0], [0, 10, 100])).tolist() == [True, False]


@pytest.mark.parametrize(("losses", "tokens"), [([1, 2], [1]), ([1, 2], [5, 5]), ([[1]], [[1]])], ids=str)
def test_unusable_slopes_are_refused(losses: Any, tokens: Any) -> None:
    with pytest.raises(InvalidInput, match="increasing tokens seen"):
        loss_slope(losses, tokens)


class TestTrajectory:
    losses = RNG.gamma(2, 1, (12, 40))

    def test_components_are_those_of_the_singular_value_decomposition(self) -> None:
        centred = self.losses - self.losses.mean(0)
        left, sizes, right = np.linalg.svd(centred, full_matrices=False)
        found = trajectory(self.losses)
        np.testing.assert_allclose(np.abs(found.coordinates), np.abs(left[:, :3] * sizes[:3]), atol=1e-9)
        np.testing.assert_allclose(np.abs(found.directions), np.abs(right[:3]), atol=1e-9)
        np.testing.assert_allclose(found.coordinates, centred @ found.directions.T, atol=1e-9)
        assert found.explained == pytest.approx(sizes[:3] ** 2 / (sizes**2).sum())
        assert (found.coordinates[-1] >= 0).all()

    def test_tokens_that_are_not_finite_are_left_out(self) -> None:
        losses = self.losses.copy()
        losses[3, 7], losses[4, 9] = np.nan, np.inf
        found, without = trajectory(losses), trajectory(np.delete(self.losses, [7, 9], axis=1))
        np.testing.assert_allclose(found.coordinates, without.coordinates)
        assert (found.directions[:, [7, 9]] == 0).all()

    def test_a_circle_has_the_curvature_of_its_radius(self) -> None:
        turn = np.linspace(0, 3, 20)
        found = trajectory(embedded(4 * np.stack([np.cos(turn), np.sin(turn)], 1)))
        assert found.curvature[1:-1] == pytest.approx(1 / 4)
        assert found.angle[1:-1] == pytest.approx(3 / 19)
        assert np.isnan(found.angle[[0, -1]]).all()

    def test_a_straight_path_turns_nowhere_and_a_corner_by_its_angle(self) -> None:
        path = np.array([[0, 0], [1, 0], [3, 0], [3, 1], [3, 4]], dtype=float)
        found = trajectory(embedded(path), n_components=2)
        assert found.angle[1:-1] == pytest.approx([0, np.pi / 2, 0], abs=1e-6)

    def test_a_run_that_does_not_move_has_no_turns(self) -> None:
        found = trajectory(np.ones((6, 10)))
        assert np.isnan(found.angle).all()
        assert (found.explained == 0).all()

    def test_too_little_is_refused(self) -> None:
        with pytest.raises(InvalidInput, match=r"3 components need \(n_steps > 3, n_tokens\) losses, not \(3, 40\)"):
            trajectory(self.losses[:3])
        with pytest.raises(InvalidInput, match="0 of 40 tokens have finite losses"):
            trajectory(np.full((6, 40), np.nan))
