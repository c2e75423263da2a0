"""The random states of torch, numpy and Python: taken, and put back where a run goes on.

Separate because it is the one place that touches what the whole process shares. The reference model and its data draw
from generators of their own; this is for whatever else a model or an optimizer may draw from.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from phasewatch.errors import InvalidInput

NumpyState = tuple[Literal["MT19937"], list[int], int, int, float]
PythonState = tuple[int, list[int], float | None]


@dataclass(frozen=True)
class RandomState:
    """`torch` (CPU) and `cuda` (one each device) are bytes in uint8 tensors; the others are JSON-able."""

    torch: Tensor
    cuda: tuple[Tensor, ...]
    numpy: NumpyState
    python: PythonState


def seed_everything(seed: int) -> None:
    """Starts every shared generator from `seed`."""
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)


def take_random_state() -> RandomState:
    """A copy of every shared generator's state."""
    shared = np.random.get_state(legacy=False)
    assert isinstance(shared, dict)  # what legacy=False promises
    key, position = shared["state"]["key"].tolist(), shared["state"]["pos"]
    version, numbers, next_gauss = random.getstate()
    return RandomState(
        torch=torch.get_rng_state(),
        cuda=tuple(torch.cuda.get_rng_state_all()) if torch.cuda.is_available() else (),
        numpy=("MT19937", key, position, shared["has_gauss"], shared["gauss"]),
        python=(version, list(numbers), next_gauss),
    )


def put_random_state(state: RandomState) -> None:
    """Puts back what `take_random_state` took; the devices' states only where there are as many devices.

    Raises InvalidInput for a state that no generator has.
    """
    kind, key, position, has_gauss, gauss = state.numpy
    version, numbers, next_gauss = state.python
    try:
        torch.set_rng_state(state.torch)
        if state.cuda and len(state.cuda) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all(list(state.cuda))
        np.random.set_state((kind, np.array(key, dtype=np.uint32), position, has_gauss, gauss))
        random.setstate((version, tuple(numbers), next_gauss))
    except (RuntimeError, TypeError, ValueError, IndexError, OverflowError) as error:
        raise InvalidInput(f"a random state that no generator has: {error}") from error
