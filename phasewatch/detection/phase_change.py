"""What a detector answers with: `PhaseChange`, and `Changes`, the list that also says what was not looked at.

Separate from the detectors so that storage, server and reports can name these values without importing any fit.
Definitions: MEASURES.md, section 8.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from phasewatch.detection.explanation import explain
from phasewatch.errors import InvalidInput

IntArray = npt.NDArray[np.int64]
Interval = tuple[float, float]

DETECTOR_VERSION = 3  # of all detectors together: raised when any of them may answer otherwise on the same run
KINDS = ("level", "slope", "bump", "hidden", "spike", "divergence")
DIRECTIONS = ("drop", "rise")
SIGN_STATES = ("present", "absent", "not measured")


@dataclass(frozen=True, eq=False)
class PhaseChange:
    """One change of a run. Steps are optimizer steps completed; `effect` is at least 0, in `unit`.

    start_step, step, end_step   where 10, 50 and 90 % of the way are reached; end_step None: not over yet (censored)
    *_interval                   (low, high) in steps, or None where no width could be fitted
    tokens                       flat indices into the loss slice, the most certain first; None: all, or not applicable
    heads                        (layer, head) of every head that moves with the change
    signs                        name -> "present", "absent" or "not measured"
    q_value, q_scope             false-discovery rate at which it is reported, and over what it is controlled
    measure                      the series it was seen in: "mean_loss:text", "icl_score", "prefix_matching:L1H0"
    coincides_with               logged events within its time (warm-up ends, batch-size steps, ...)
    remarks                      sentences a reader should know: skipped checkpoints, few checkpoints inside
    """

    start_step: int
    step: int
    end_step: int | None
    kind: str
    direction: str
    effect: float
    unit: str
    measure: str
    start_interval: Interval | None = None
    step_interval: Interval | None = None
    end_interval: Interval | None = None
    tokens: IntArray | None = None
    heads: tuple[tuple[int, int], ...] = ()
    signs: Mapping[str, str] = field(default_factory=dict)
    induction: bool = False
    q_value: float | None = None
    q_scope: str = ""
    n_checkpoints_inside: int = 0
    coincides_with: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _require("kind", self.kind, KINDS)
        _require("direction", self.direction, DIRECTIONS)
        for name, state in self.signs.items():
            _require(f"sign {name!r}", state, SIGN_STATES)
        if self.effect < 0:
            raise InvalidInput(f"effect is {self.effect}, must be at least 0; the sign belongs into direction")
        if self.start_step > self.step or (self.end_step is not None and self.step > self.end_step):
            raise InvalidInput(f"steps are out of order: start {self.start_step}, {self.step}, end {self.end_step}")

    @property
    def censored(self) -> bool:
        """Whether the change was not over at the last checkpoint."""
        return self.end_step is None

    def overlaps(self, other: PhaseChange) -> bool:
        """Whether [start_step, end_step] of both share a step; a censored change has no end."""
        first, second = sorted((self, other), key=lambda change: change.start_step)
        return first.end_step is None or second.start_step <= first.end_step

    def shared_time(self, other: PhaseChange) -> float:
        """Time that both are under way, as a share of the time from the first start to the last end, in log step.

        A censored change counts as over where the other one ends, or at its middle if that is later.
        """
        ends = [c.step if c.end_step is None else c.end_step for c in (self, other)]
        if self.end_step is None or other.end_step is None:
            ends = [max(ends)] * 2
        starts, log_ends = np.log1p([self.start_step, other.start_step]), np.log1p(ends)
        whole = float(log_ends.max() - starts.min())
        return max(float(log_ends.min() - starts.max()), 0.0) / whole if whole > 0 else 1.0

    def evolve(self, **changes: Any) -> PhaseChange:
        """A copy with some fields replaced."""
        return replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """The change as JSON-able values; `from_dict` gives it back."""
        answer = {f.name: getattr(self, f.name) for f in fields(self)}
        for name in ("start_interval", "step_interval", "end_interval"):
            answer[name] = None if answer[name] is None else list(answer[name])
        answer["tokens"] = None if self.tokens is None else [int(token) for token in self.tokens]
        answer["heads"] = [list(head) for head in self.heads]
        answer["signs"] = dict(self.signs)
        answer["coincides_with"] = list(self.coincides_with)
        answer["remarks"] = list(self.remarks)
        return answer

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> PhaseChange:
        """The inverse of `to_dict`; an unknown field raises InvalidInput."""
        known = {f.name for f in fields(cls)}
        if unknown := sorted(set(values) - known):
            raise InvalidInput(f"a phase change has no field {unknown[0]!r}; it has {', '.join(sorted(known))}")
        given = dict(values)
        for name in ("start_interval", "step_interval", "end_interval"):
            if given.get(name) is not None:
                low, high = given[name]
                given[name] = (float(low), float(high))
        if given.get("tokens") is not None:
            given["tokens"] = np.asarray(given["tokens"], dtype=np.int64)
        if "heads" in given:
            given["heads"] = tuple((int(layer), int(head)) for layer, head in given["heads"])
        for name in ("coincides_with", "remarks"):
            if name in given:
                given[name] = tuple(given[name])
        return cls(**given)

    def explain(self, causes: Sequence[str] = ()) -> str:
        """The change in sentences that a person can check against the curves; causes: sentences of causal evidence."""
        return explain(self, causes)


class Changes(list[PhaseChange]):
    """A list of changes, with `notes`: what was skipped, or why nothing could be said."""

    def __init__(self, changes: Iterable[PhaseChange] = (), notes: Iterable[str] = ()) -> None:
        super().__init__(changes)
        self.notes: list[str] = list(notes)


def _require(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise InvalidInput(f"{name} is {value!r}, must be one of {', '.join(allowed)}")
