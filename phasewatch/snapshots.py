"""Values of a training loop as they are now, to be read later: copied at once, without waiting for a device.

Apart from the recorder, because this is all that knows of devices. torch is not imported here but by whoever made the
tensor; numpy arrays, plain numbers and nested lists need none.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from phasewatch.errors import InvalidInput

Later = Callable[[], NDArray[np.float32]]


def scalar(name: str, value: Any) -> float | Callable[[], float]:
    """One number; for a tensor on a device a function that waits for it. Raises InvalidInput for anything else."""
    if _is_tensor(value):
        if value.numel() != 1 or value.is_complex():
            raise InvalidInput(f"metric {name!r} is a tensor of shape {tuple(value.shape)}; log single real numbers")
        copy = _copied(value.reshape(()).double())
        return copy if value.device.type != "cpu" else copy()
    if isinstance(value, str | bytes) or value is None:
        raise InvalidInput(f"metric {name!r} is {value!r}; log numbers")
    if np.size(value) != 1:
        raise InvalidInput(f"metric {name!r} has shape {np.shape(value)}; log single numbers")
    try:
        return float(np.asarray(value).reshape(()))
    except (TypeError, ValueError, OverflowError) as error:
        raise InvalidInput(f"metric {name!r} is {value!r}, not a number: {error}") from error


def array(value: Any) -> tuple[tuple[int, ...], Later]:
    """The shape of an array of numbers, and a function that gives its float32 copy. Raises InvalidInput."""
    if _is_tensor(value):
        if value.is_complex():
            raise InvalidInput(f"expected real numbers, not {value.dtype}")
        copy = _copied(value.float())
        return tuple(value.shape), lambda: np.asarray(copy(), dtype=np.float32)
    try:
        given = np.asarray(value)
    except ValueError as error:
        raise InvalidInput(f"expected an array of numbers: {error}") from error
    if given.dtype.kind not in "fiub":
        raise InvalidInput(f"expected an array of numbers, not of {given.dtype}")
    with np.errstate(over="ignore"):  # beyond float32's range is infinite, and counted as such
        kept = np.array(given, dtype=np.float32)
    return kept.shape, lambda: kept


def on_device(value: Any) -> bool:
    """Whether reading the value waits for a device."""
    return _is_tensor(value) and value.device.type != "cpu"


def _is_tensor(value: Any) -> bool:
    return hasattr(value, "detach") and hasattr(value, "device")


def _copied(tensor: Any) -> Callable[[], Any]:
    """A function giving the tensor's present content in host memory: a float of a single number, else an array."""
    tensor = tensor.detach()
    if tensor.device.type == "cpu":
        host = tensor.clone()
        return lambda: _content(host)
    if tensor.device.type != "cuda":
        kept = tensor.clone()
        return lambda: _content(kept.cpu())
    import torch

    # Into pinned memory, behind the work that computes it; the event says when it is there
    host = tensor.to("cpu", non_blocking=True)
    arrived = torch.cuda.current_stream(tensor.device).record_event()

    def wait() -> Any:
        arrived.synchronize()
        return _content(host)

    return wait


def _content(host: Any) -> Any:
    return host.item() if host.ndim == 0 else host.numpy()
