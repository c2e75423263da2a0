"""Runs made up with known truth."""

from __future__ import annotations

import numpy as np
import pytest

from phasewatch.detection.synthetic import Planted, make_run, make_steps, plant
from phasewatch.errors import InvalidInput

TOKENS = np.arange(0, 2_000, 100)


def test_the_same_seed_gives_the_same_run() -> None:
    one, two, other = (make_run(seed, n_tokens=300, n_steps=30) for seed in (4, 4, 5))
    assert np.array_equal(one.losses, two.losses)
    assert not np.array_equal(one.losses, other.losses)


@pytest.mark.parametrize("decay", ["power", "exponential", "mixed"])
def test_noise_has_the_size_asked_for(decay: str) -> None:
    quiet = make_run(1, n_tokens=2_000, n_steps=50, decay=decay, noise=0.0, common_noise=0.0)
    noisy = make_run(1, n_tokens=2_000, n_steps=50, decay=decay, noise=0.2, common_noise=0.0, tail=4.0)
    assert (noisy.losses - quiet.losses).std() == pytest.approx(0.2, rel=0.05)
    assert (np.diff(quiet.losses.mean(axis=1)) < 0).all()


def test_common_noise_moves_tokens_together_and_persists() -> None:
    quiet = make_run(2, n_tokens=500, n_steps=200, noise=0.0, common_noise=0.0)
    noisy = make_run(2, n_tokens=500, n_steps=200, noise=0.0, common_noise=0.1, persistence=0.8)
    shared = (noisy.losses - quiet.losses).mean(axis=1)
    assert shared.std() == pytest.approx(0.1, rel=0.5)
    assert np.corrcoef(shared[1:], shared[:-1])[0, 1] > 0.5


def test_a_planted_change_is_half_way_at_its_step() -> None:
    change = Planted(TOKENS, 1_000, 0.5, -1.5)
    without = make_run(3, n_tokens=2_000, n_steps=100)
    with_it = make_run(3, n_tokens=2_000, n_steps=100, planted=[change])
    added = (with_it.losses - without.losses)[:, TOKENS].mean(axis=1)
    assert np.interp(1_000, with_it.steps, added) == pytest.approx(-0.75, abs=0.05)
    assert np.interp(change.start_step, with_it.steps, added) == pytest.approx(-0.15, abs=0.05)
    assert np.interp(change.end_step, with_it.steps, added) == pytest.approx(-1.35, abs=0.05)
    assert np.array_equal(np.delete(with_it.losses, TOKENS, axis=1), np.delete(without.losses, TOKENS, axis=1))


def test_planting_into_a_recorded_run_leaves_it_as_it_was() -> None:
    run = make_run(3, n_tokens=2_000, n_steps=60)
    before = run.losses.copy()
    changed = plant(run.losses, run.steps, TOKENS, 500, 0.3, 2.0)
    assert np.array_equal(run.losses, before)
    assert (changed[-1] - before[-1])[TOKENS] == pytest.approx(-2.0, abs=1e-4)


def test_steps_are_distinct_and_span_the_run() -> None:
    steps = make_steps(200, 10_000)
    assert len(steps) == 200
    assert (np.diff(steps) > 0).all()
    assert (steps[0], steps[-1]) == (0, 10_000)
    with pytest.raises(InvalidInput, match="30 checkpoints do not fit"):
        make_steps(30, 10)


def test_unknown_families_are_refused() -> None:
    with pytest.raises(InvalidInput, match="decay is 'linear'"):
        make_run(0, decay="linear")
    with pytest.raises(InvalidInput, match="degrees of freedom"):
        make_run(0, n_tokens=10, n_steps=10, tail=2.0)
