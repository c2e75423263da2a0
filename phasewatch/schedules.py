"""When a run records: a union of log-spaced steps, every n-th step and dense windows.

Pure and separate, so that a trainer that knows its last step and a recorder that does not obey one description, written
in a TOML as `{log = 10, every = 1000, windows = [[100, 500, 20]]}`. A step is the number of optimizer steps completed;
step 0 is the model at initialisation. Step 0 and, where it is known, the last step are always recorded.
"""

from __future__ import annotations

import math
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

PositiveStep = Annotated[int, Field(ge=1)]
Window = tuple[Annotated[int, Field(ge=0)], PositiveStep, PositiveStep]


class Schedule(BaseModel):
    """Which steps are recorded: the union of its parts; inside a window its spacing replaces the log-spaced one.

    The default gives 49 checkpoints in 700 steps, 21 of them from step 100 to step 500, and 71 in 100,000 steps.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    log: int = Field(
        default=10,
        ge=0,
        le=1000,
        description="log-spaced steps in a factor of ten: round(10 ** (k / log)) for k = 0, 1, 2 …; 0 for none",
    )
    every: PositiveStep | None = Field(default=None, description="every n-th step")
    windows: tuple[Window, ...] = Field(
        default=((60, 700, 20),), description="(first, last, every): dense stretches, both ends within"
    )

    @model_validator(mode="after")
    def _windows_go_forward(self) -> Self:
        for first, last, _ in self.windows:
            if last < first:
                raise ValueError(f"window [{first}, {last}] ends before it starts; give the earlier step first")
        return self

    def due(self, step: int, last: int | None = None) -> bool:
        """Whether `step` is recorded; `last` is the run's last step where it is known, and nothing is due after it."""
        if step < 0 or (last is not None and step > last):
            return False
        if step in (0, last):
            return True
        if self.every is not None and step % self.every == 0:
            return True
        around = [(step - first) % every for first, end, every in self.windows if first <= step <= end]
        if around:
            return 0 in around
        return self.log > 0 and _is_log_spaced(step, self.log)

    def steps(self, until: int) -> list[int]:
        """The recorded steps of a run that ends at step `until`, increasing, 0 and `until` included."""
        if until < 0:
            return []
        due = {0, until}
        if self.every is not None:
            due.update(range(0, until + 1, self.every))
        for first, last, every in self.windows:
            due.update(range(first, min(last, until) + 1, every))
        if self.log:
            due.update(step for step in _log_spaced(until, self.log) if not self._in_window(step))
        return sorted(due)

    def _in_window(self, step: int) -> bool:
        return any(first <= step <= last for first, last, _ in self.windows)


def _log_step(k: int, per_decade: int) -> int:
    """The k-th log-spaced step."""
    return round(math.pow(10.0, k / per_decade))


def _log_spaced(until: int, per_decade: int) -> set[int]:
    """The log-spaced steps from 1 to `until`."""
    last = math.ceil(per_decade * math.log10(until)) + 1 if until >= 1 else -1
    return {step for k in range(last + 1) if (step := _log_step(k, per_decade)) <= until}


def _is_log_spaced(step: int, per_decade: int) -> bool:
    """Whether `step` ≥ 1 is one of the log-spaced steps, whatever the run's length."""
    # Rounding moves a step by at most 0.5, so its k lies within this reach of the exact one.
    low = math.floor(per_decade * math.log10(max(step - 0.5, 1.0)))
    high = math.ceil(per_decade * math.log10(step + 0.5))
    return any(_log_step(k, per_decade) == step for k in range(low, high + 1))
