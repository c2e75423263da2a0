"""What is compared of several runs, read from the database: one measure of each, its induction change, size, treatment.

Apart from the tables' own modules because it reads four of them for many runs; the arithmetic is
phasewatch.detection.comparison's.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError
from sqlalchemy.orm import Session

from phasewatch.detection.comparison import RunFacts, highest_head, level_after, level_before, level_last
from phasewatch.detection.token_overlap import TokenOverlap, compare_tokens
from phasewatch.errors import InvalidInput, NotFound
from phasewatch.storage.checkpoints import list_checkpoints
from phasewatch.storage.measurements import load_measure
from phasewatch.storage.phase_changes import change_tokens, list_phase_changes
from phasewatch.storage.probe_sets import get_run_slice
from phasewatch.storage.runs import get_run
from phasewatch.storage.schema import PhaseChangeRow, Run
from phasewatch.storage.selection import runs_tagged
from phasewatch.training import TrainingConfig

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

MAX_RUNS = 100
# Settings of a run that do not make it another treatment: what it is called, which seed it drew, what is kept of it,
# and where it ran.
_NOT_TREATMENT = ("name", "seed", "recording", "device", "threads")


@dataclass(frozen=True, eq=False)
class ComparedRun:
    """A run, the measure along it, and what is compared.

    steps (n,) ascending, values (n,), interval (n, 2) or None, tokens (n,): training tokens seen, or None where nobody
    said. A run without the measure has n = 0. change: its induction change.
    """

    run: Run
    steps: IntArray
    values: FloatArray
    interval: FloatArray | None
    tokens: FloatArray | None
    change: PhaseChangeRow | None
    facts: RunFacts


@dataclass(frozen=True, eq=False)
class Comparison:
    """Runs beside one another; of_heads: the values are those of the highest head at each checkpoint."""

    measure: str
    of_heads: bool
    settings: tuple[str, ...]  # those that differ between the runs, which make up their treatments
    runs: tuple[ComparedRun, ...]


def chosen_runs(session: Session, runs: Sequence[UUID], tag: str | None) -> list[UUID]:
    """The runs named, each once, or those with a tag, oldest first.

    Raises InvalidInput for neither, both, or more than `MAX_RUNS`; NotFound for a tag that no run has.
    """
    if bool(runs) == (tag is not None):
        raise InvalidInput("give either runs=ID,ID,… or tag=T, not both and not neither")
    found = list(dict.fromkeys(runs))
    if tag is not None:
        tagged = [get_run(session, run_id) for run_id in runs_tagged(session, tag)]
        found = [run.id for run in sorted(tagged, key=lambda run: (run.created_at, run.id))]
        if not found:
            raise NotFound(f"no run has the tag {tag!r}")
    if len(found) > MAX_RUNS:
        raise InvalidInput(f"{len(found)} runs were asked for; at most {MAX_RUNS} are compared at once")
    return found


def load_comparison(session: Session, run_ids: Sequence[UUID], measure: str) -> Comparison:
    """The runs beside one another, in the order given.

    A run without the measure is there with no values. Raises NotFound for an unknown run or where no run has the
    measure, InvalidInput for one that is neither a number nor a score of heads.
    """
    runs = [get_run(session, run_id) for run_id in run_ids]
    histories = [_load_values(session, run.id, measure) for run in runs]
    if not any(len(steps) for steps, *_ in histories):
        raise NotFound(f"none of the {len(runs)} runs has measure {measure!r}; GET …/measures says what a run has")
    settings = [_settings(run) for run in runs]
    differing = _differing(settings)
    compared = []
    for run, own, (steps, values, interval, _) in zip(runs, settings, histories, strict=True):
        treatment = {name: own.get(name) for name in differing}
        compared.append(_compare(session, run, treatment, steps, values, interval))
    return Comparison(measure, any(of_heads for *_, of_heads in histories), tuple(differing), tuple(compared))


def _load_values(session: Session, run_id: UUID, measure: str) -> tuple[IntArray, FloatArray, FloatArray | None, bool]:
    """steps (n,), values (n,), interval (n, 2) or None, and whether they are of the highest head."""
    try:
        found = load_measure(session, run_id, measure)
    except NotFound:
        return np.zeros(0, np.int64), np.zeros(0), None, False
    if found.values.ndim == 1:
        return found.steps, found.values, found.interval, False
    if found.values.ndim == 3:
        return found.steps, *highest_head(found.values, found.interval), True
    raise InvalidInput(
        f"measure {measure!r} has values of shape {found.values.shape[1:]}; numbers and scores of heads are compared"
    )


def _compare(
    session: Session,
    run: Run,
    treatment: Mapping[str, Hashable],
    steps: IntArray,
    values: FloatArray,
    interval: FloatArray | None,
) -> ComparedRun:
    change = induction_change(session, run.id)
    seen = _TokensSeen.load(session, run.id)
    facts = RunFacts(
        treatment,
        *_size(run),
        last_step=run.last_step,
        last_tokens=seen.by(run.last_step),
        last=level_last(values, interval),
    )
    if change is not None:
        start, middle, end = change.start_step, change.step, change.end_step
        facts = replace(
            facts,
            start_step=start, step=middle, end_step=end,
            start_tokens=seen.by(start), tokens=seen.by(middle), end_tokens=seen.by(end),
            before=level_before(steps, values, interval, start),
            after=None if end is None else level_after(steps, values, interval, end),
        )  # fmt: skip
    return ComparedRun(run, steps, values, interval, seen.along(steps), change, facts)


def induction_change(session: Session, run_id: UUID) -> PhaseChangeRow | None:
    """The run's first induction change that stands and that nobody dismissed."""
    rows = list_phase_changes(session, run_id)
    return next((row for row in rows if row.induction and row.review != "dismissed"), None)


@dataclass(frozen=True)
class _TokensSeen:
    """Training tokens seen by the checkpoints that say so, and between them."""

    steps: list[int]
    tokens: list[int]

    @classmethod
    def load(cls, session: Session, run_id: UUID) -> _TokensSeen:
        rows = [row for row in list_checkpoints(session, run_id) if row.tokens_seen is not None]
        return cls([row.step for row in rows], [int(row.tokens_seen or 0) for row in rows])

    def along(self, steps: IntArray) -> FloatArray | None:
        """Tokens at steps (n,), NaN outside the checkpoints; None where no checkpoint says."""
        if not self.steps:
            return None
        return np.interp(steps, self.steps, self.tokens, left=np.nan, right=np.nan)

    def by(self, step: int | None) -> float | None:
        found = None if step is None else self.along(np.array([step]))
        return None if found is None or np.isnan(found[0]) else float(found[0])


# Treatments.


def _settings(run: Run) -> dict[str, Hashable]:
    """Every setting that makes up a run's treatment, by its path: `model.sublayers`; lists as words."""
    whole = run.config if run.training is None else run.training
    kept = {name: value for name, value in whole.items() if name not in _NOT_TREATMENT}
    if run.training is not None and kept.get("optimizer", {}).get("schedule") == "constant":
        kept.pop("steps", None)  # a longer run of the same treatment, seen for longer
    return dict(_flat(kept, ""))


def _flat(table: Mapping[str, Any], path: str) -> list[tuple[str, Hashable]]:
    found: list[tuple[str, Hashable]] = []
    for name, value in table.items():
        if isinstance(value, dict):
            found += _flat(value, f"{path}{name}.")
        else:
            found.append((path + name, " ".join(map(str, value)) if isinstance(value, list) else value))
    return found


def _differing(settings: Sequence[Mapping[str, Hashable]]) -> list[str]:
    """The settings that are not the same in all runs, in the order in which they come."""
    names = dict.fromkeys(name for own in settings for name in own)
    return [name for name in names if len({own.get(name) for own in settings}) > 1]


def _size(run: Run) -> tuple[int | None, int | None]:
    """Parameters and attention layers: those of a run trained here, or what the caller's config calls so."""
    if run.training is not None:
        try:
            config = TrainingConfig.model_validate(run.training)
        except ValidationError:
            return None, None
        return config.n_parameters, config.model.sublayers.count("a")
    n_parameters, depth = (run.config.get(name) for name in ("n_parameters", "n_layers"))
    return (n_parameters if _is_count(n_parameters) else None), (depth if _is_count(depth) else None)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


# Tokens.


@dataclass(frozen=True, eq=False)
class ComparedChanges:
    """A change of each of two runs, None standing for all of them together, and the overlap of their tokens."""

    first: PhaseChangeRow | None
    second: PhaseChangeRow | None
    overlap: TokenOverlap


def compare_changed_tokens(session: Session, first: UUID, second: UUID) -> tuple[str, int, list[ComparedChanges]]:
    """The slice, how many tokens it has, and the overlap of changed tokens: of all changes, then change by change.

    Changes that stand, whose tokens are known. Raises InvalidInput where the runs do not share a probe set, and
    where a run has no change with tokens: "none found" and "none known" are not an overlap of zero.
    """
    runs = [get_run(session, run_id) for run_id in (first, second)]
    if runs[0].probe_set_id is None or runs[0].probe_set_id != runs[1].probe_set_id:
        sets = " and ".join((run.probe_set_id or "none")[:12] for run in runs)
        raise InvalidInput(f"tokens are compared on one probe set; runs {first} and {second} have {sets}")
    ours, theirs = (_changes_with_tokens(session, run_id) for run_id in (first, second))
    slices = sorted({str(row.slice) for row in (*ours, *theirs)})
    if len(slices) > 1:
        raise InvalidInput(f"the changes of runs {first} and {second} lie in several slices: {', '.join(slices)}")
    part = get_run_slice(session, first, slices[0])
    n_tokens = part.n_sequences * (part.n_tokens - 1)
    found = [ComparedChanges(None, None, compare_tokens(_union(ours), _union(theirs), n_tokens))]
    found += [
        ComparedChanges(one, other, compare_tokens(change_tokens(one), change_tokens(other), n_tokens))
        for one in ours
        for other in theirs
    ]
    return part.name, n_tokens, found


def _changes_with_tokens(session: Session, run_id: UUID) -> list[PhaseChangeRow]:
    rows = [row for row in list_phase_changes(session, run_id) if row.n_tokens and row.slice is not None]
    if not rows:
        raise InvalidInput(f"run {run_id} has no phase change whose tokens are known; there is nothing to compare")
    return rows


def _union(rows: Sequence[PhaseChangeRow]) -> npt.NDArray[np.int32]:
    return np.unique(np.concatenate([change_tokens(row) for row in rows]))
