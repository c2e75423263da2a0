"""Which times of a run may hold a hidden change.

Separate because both roads to hidden changes, unnamed tokens and named groups, obey it. A run's first, quick descent
has no background to stand out from: tokens learn then one after the other, at a pace of their own. Until three quarters
of it are done nothing is judged; until nearly all of it is, a change has to stand out from every other time of the
descent.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from phasewatch.detection.first_descent import end_of_quick_descent
from phasewatch.detection.transition import FloatArray, to_step

MIN_TOKENS = 12  # that have to fall together
_SHARE = 0.0015  # of the tokens: fewer cannot be told from what any run does
_EARLY_SHARE = 0.002  # the same until shortly after a quick first descent
_AFTERMATH = 0.4  # log steps


@dataclass(frozen=True)
class Stage:
    """Which times (log step) may hold a change: none before `settled`, 75 % of a quick first descent.

    Up to `calm`, 95 % of it, a crowd has every other one as its rival; until shortly after it has to be large.
    """

    settled: float
    calm: float

    @classmethod
    def of(cls, mean: FloatArray, x: FloatArray) -> Stage:
        settled, calm = (end_of_quick_descent(mean, x, share) for share in (0.75, 0.95))
        return cls(settled, calm if settled > x[0] else -np.inf)

    @property
    def note(self) -> str | None:
        """What is not looked at because of the first descent; None where it is not quick."""
        if np.isinf(self.calm):
            return None
        settled, calm, later = (round(to_step(at)) for at in (self.settled, self.calm, self.calm + _AFTERMATH))
        return (
            f"the first descent is quick: no hidden changes are looked for before step {settled}, up to step {later} "
            f"only those of {100 * _EARLY_SHARE:g} % of the tokens, which up to step {calm} have to stand out from its "
            "every other time"
        )

    def fewest(self, middle: FloatArray, n_tokens: int) -> FloatArray:
        """Witnesses that a crowd at `middle` (n,) needs at least."""
        return np.where(middle < self.calm + _AFTERMATH, _EARLY_SHARE * n_tokens, _SHARE * n_tokens).clip(MIN_TOKENS)
