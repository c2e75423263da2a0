"""Training metrics as the API takes and gives them."""

from __future__ import annotations

from typing import Annotated, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from phasewatch.errors import InvalidInput
from server.schemas.values import Name, Number, StepNumber, from_float, to_float
from server.windows import Window

MAX_POINTS = 10_000


class PointCreate(BaseModel):
    """What was logged at one step."""

    model_config = ConfigDict(extra="forbid")

    step: StepNumber = Field(description="optimizer steps completed")
    values: dict[Name, Number] = Field(
        max_length=1_000, description='metrics by name; null for NaN, "Infinity" or "-Infinity" for the infinities'
    )


class SeriesCreate(BaseModel):
    """A batch of training metrics."""

    model_config = ConfigDict(extra="forbid")

    points: Annotated[list[PointCreate], Field(max_length=MAX_POINTS, description="what was logged, in any order")]

    def to_storage(self) -> dict[int, dict[str, float]]:
        """step -> name -> value. Raises InvalidInput where one request gives two values for the same."""
        steps: dict[int, dict[str, float]] = {}
        for point in self.points:
            known = steps.setdefault(point.step, {})
            for name, number in point.values.items():
                value = to_float(number)
                if repr(known.setdefault(name, value)) != repr(value):
                    raise InvalidInput(f"{name[:40]} has two values at step {point.step} in one request; send one")
        return steps


class NewCount(BaseModel):
    """How much of a request was not there before."""

    new: int = Field(description="values that were stored now; the others were there already")


class SeriesOut(BaseModel):
    """One training metric along the visible history of a run."""

    name: str = Field(description="its name")
    steps: list[int] = Field(description="(n,), ascending")
    values: list[float | str | None] = Field(description='(n,); null for NaN, "Infinity" and "-Infinity" as such')
    n_all: int = Field(description="how many there are of the steps asked for, before ?points= thinned them out")

    @classmethod
    def of(cls, name: str, steps: list[int], values: list[float], window: Window) -> Self:
        """What of the series that storage read lies in the window."""
        inside = window.inside(steps)
        x, y = np.array(steps, np.int64)[inside], np.array(values, np.float64)[inside]
        kept = window.reduced(x, y)
        return cls(
            name=name, steps=x[kept].tolist(), values=[from_float(one) for one in y[kept].tolist()], n_all=len(x)
        )
