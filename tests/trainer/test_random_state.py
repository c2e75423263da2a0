"""Random states: what every generator gives next is kept, and nonsense is refused."""

from __future__ import annotations

import dataclasses
import random

import numpy as np
import pytest
import torch

from phasewatch.errors import InvalidInput
from trainer.random_state import RandomState, put_random_state, seed_everything, take_random_state


def draw() -> list[float]:
    gaussian = [torch.randn(()).item(), float(np.random.normal()), random.gauss(0, 1)]
    return [*gaussian, torch.rand(()).item(), float(np.random.random()), random.random()]


def test_generators_go_on_in_the_middle_of_a_pair_of_gaussians() -> None:
    seed_everything(3)
    draw()
    state = take_random_state()
    first = draw()
    draw()
    put_random_state(state)
    assert draw() == first


def test_a_seed_starts_all_of_them() -> None:
    seed_everything(2**40 + 1)
    first = draw()
    seed_everything(2**40 + 1)
    assert draw() == first
    seed_everything(5)
    assert not set(draw()) & set(first)


@pytest.mark.parametrize(
    "change",
    [
        {"torch": torch.zeros(3, dtype=torch.uint8)},
        {"numpy": ("MT19937", [1, 2, 3], 0, 0, 0.0)},
        {"numpy": ("MT19937", [-1] * 624, 0, 0, 0.0)},
        {"python": (3, [1], None)},
        {"python": (9, [1], None)},
    ],
    ids=["torch", "numpy length", "numpy value", "python length", "python version"],
)
def test_a_state_that_no_generator_has_is_refused(change: dict[str, object]) -> None:
    state: RandomState = dataclasses.replace(take_random_state(), **change)  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="random state"):
        put_random_state(state)
