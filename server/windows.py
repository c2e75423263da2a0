"""What of a long history a client asks for: steps in sight, steps after the last it has, and how many points.

Separate from the routes because series, measures and mean losses take the same four parameters.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np
import numpy.typing as npt
from fastapi import Depends, Query

from phasewatch.storage.limits import MAX_STEP
from server.reduction import LEAST_POINTS, Indices, Scale, kept_points
from server.schemas.losses import RANGES, parse_ranges

MAX_POINTS = 100_000
Steps = Annotated[
    str | None, Query(max_length=20_000, json_schema_extra=RANGES, description="only these steps: 100,200-400")
]


@dataclass(frozen=True)
class Window:
    """Ranges of steps, (first, last) each, and how many points of them; None: all."""

    ranges: tuple[tuple[int, int], ...] = ((0, MAX_STEP),)
    points: int | None = None
    scale: Scale = "linear"

    @property
    def first(self) -> int:
        """The first step that can be in it."""
        return min(low for low, _ in self.ranges)

    @property
    def last(self) -> int:
        """The last step that can be in it."""
        return max(high for _, high in self.ranges)

    def inside(self, steps: npt.ArrayLike) -> Indices:
        """Indices of the steps (n,) that lie in it."""
        at = np.asarray(steps, np.int64)
        return np.flatnonzero(np.any([(at >= low) & (at <= high) for low, high in self.ranges], axis=0))

    def reduced(self, steps: npt.ArrayLike, values: npt.ArrayLike) -> Indices:
        """Indices of what is answered of values (n,) at steps (n,) that lie in it."""
        n = len(np.asarray(steps))
        return np.arange(n) if self.points is None else kept_points(steps, values, self.points, self.scale)


async def _window(
    steps: Steps = None,
    after: Annotated[int | None, Query(ge=0, le=MAX_STEP, description="only steps after this one")] = None,
    points: Annotated[
        int | None,
        Query(
            ge=LEAST_POINTS,
            le=MAX_POINTS,
            description="at most so many, the least and the greatest value of each stretch of the axis among them",
        ),
    ] = None,
    scale: Annotated[
        Scale, Query(description="whether these stretches are evenly wide in step or in ln step")
    ] = "linear",
) -> Window:
    ranges = [(0, MAX_STEP)] if steps is None else parse_ranges(steps, "steps")
    if after is not None:
        ranges = [(max(low, after + 1), high) for low, high in ranges]
    return Window(tuple((low, min(high, MAX_STEP)) for low, high in ranges), points, scale)


Windowed = Annotated[Window, Depends(_window)]
