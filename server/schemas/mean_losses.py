"""Mean losses along a run as the API gives them; apart from losses.py, whose ranges of steps windows are made of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import numpy as np
from pydantic import BaseModel, Field

from server.schemas.values import from_array
from server.windows import Window


class MeanLosses(BaseModel):
    """The mean losses of one slice along the visible history of a run."""

    slice: str = Field(description="the slice they are the means of")
    steps: list[int] = Field(description="(n,), ascending")
    values: list[float | None] = Field(description="(n,), nats, over the finite values; null where none is finite")
    n_all: int = Field(description="how many there are of the steps asked for, before ?points= thinned them out")

    @classmethod
    def of(cls, slice_name: str, steps: Sequence[int], values: Sequence[float], window: Window) -> Self:
        """What of the means that storage read lies in the window."""
        inside = window.inside(steps)
        x, y = np.array(steps, np.int64)[inside], np.array(values, np.float64)[inside]
        kept = window.reduced(x, y)
        return cls(slice=slice_name, steps=x[kept].tolist(), values=from_array(y[kept]), n_all=len(x))
