from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from phasewatch.errors import InvalidInput
from phasewatch.snapshots import array, scalar


class Elsewhere:
    """A number on a device that is neither the CPU nor CUDA; it cannot be read there."""

    device = SimpleNamespace(type="mps")
    shape = (1,)

    def __init__(self, cell: list[float]) -> None:
        self.cell = cell

    def numel(self) -> int:
        return 1

    def is_complex(self) -> bool:
        return False

    def clone(self) -> Elsewhere:
        return Elsewhere(list(self.cell))

    def cpu(self) -> torch.Tensor:
        return torch.tensor(self.cell[0])

    def reshape(self, shape: tuple[int, ...]) -> Elsewhere:
        return self

    detach = double = lambda self: self


def test_a_number_on_a_device_is_copied_there_and_read_later() -> None:
    cell = [2.5]
    later = scalar("loss", Elsewhere(cell))
    cell[0] = 9.0
    assert callable(later)
    assert later() == 2.5


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.bool], ids=str)
def test_tensors_of_every_real_type(dtype: torch.dtype) -> None:
    tensor = torch.tensor([[1, 0]], dtype=dtype, requires_grad=dtype.is_floating_point)
    shape, content = array(tensor)
    with torch.no_grad():
        tensor.zero_()
    assert shape == (1, 2)
    assert content().dtype == np.float32
    np.testing.assert_array_equal(content(), [[1, 0]])


def test_what_float32_cannot_hold_is_infinite() -> None:
    shape, content = array([1e300, -1e300, 1.0])
    assert shape == (3,)
    np.testing.assert_array_equal(content(), [np.inf, -np.inf, 1.0])


@pytest.mark.parametrize("wrong", [[[1], [1, 2]], ["a"], None, torch.zeros(2, dtype=torch.complex64), [1j]], ids=str)
def test_what_is_no_array_of_real_numbers_is_refused(wrong: Any) -> None:
    with pytest.raises(InvalidInput, match="expected"):
        array(wrong)


def test_a_double_keeps_its_digits() -> None:
    assert scalar("loss", torch.tensor(1 / 3, dtype=torch.float64)) == 1 / 3
    assert scalar("tokens", torch.tensor(2**40 + 1)) == 2**40 + 1


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_tensor_on_the_gpu_is_taken_as_it_is_and_not_waited_for() -> None:
    loss, losses = torch.full((), 2.5, device="cuda"), torch.full((3, 4), 1.5, device="cuda")
    for pinned in (scalar("loss", loss), array(losses)[1]):  # the first pinned memory is waited for
        assert callable(pinned)
        pinned()
    torch.cuda._sleep(2_000_000_000)  # cycles: about a second
    number, (_, content) = scalar("loss", loss), array(losses)
    loss.zero_()
    losses.zero_()
    done = torch.cuda.Event()
    done.record()
    assert not done.query()
    assert callable(number)
    assert number() == 2.5
    np.testing.assert_array_equal(content(), np.full((3, 4), 1.5))
