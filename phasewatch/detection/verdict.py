"""The one function that gives the induction verdict: everything that was measured of a run, looked at together.

Separate from the detectors it calls because it decides: which rise of a head is an induction change, which signs it
has, and which other changes are the same effect seen elsewhere and therefore do not count again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from phasewatch.detection.heads import RisingHead, rising_heads
from phasewatch.detection.loss_matrix import find_phase_changes
from phasewatch.detection.loss_source import LossSource, as_source
from phasewatch.detection.phase_change import Changes, IntArray, PhaseChange
from phasewatch.detection.prepare import MIN_CHECKPOINTS, check_series, check_steps
from phasewatch.detection.run_events import Event, coinciding, collect_events
from phasewatch.detection.series import find_series_changes
from phasewatch.detection.signs import (
    ABSENT,
    BEHAVIOURS,
    NOT_MEASURED,
    PRESENT,
    Sign,
    icl_by_document,
    judge_sign,
    repeat_gain_by_document,
)
from phasewatch.detection.timing import change_at
from phasewatch.detection.token_timing import tokens_moving_with
from phasewatch.detection.transition import FloatArray
from phasewatch.errors import InvalidInput

HEAD_MEASURES = ("natural_prefix_matching", "prefix_matching", "induction_stripe")  # the first that rose gives the time
_MIN_MEASURE = 0.2  # nats; a confident small model's measures swing by as much
_SHARED = 0.5  # of the time two changes span together, to be one effect


@dataclass(frozen=True)
class _Run:
    """What was given, checked: losses (n_steps, n_tokens), scores (n_steps, layers, heads), series (n_steps,)."""

    steps: IntArray
    losses: dict[str, LossSource]
    scores: dict[str, npt.NDArray[np.floating]]
    series: dict[str, FloatArray]
    documents: dict[str, IntArray]
    tokens: dict[str, IntArray]
    events: list[Event]
    chance: Mapping[str, float]


def find_run_changes(
    steps: npt.ArrayLike,
    losses: Mapping[str, npt.ArrayLike | LossSource],
    scores: Mapping[str, npt.ArrayLike] | None = None,
    series: Mapping[str, npt.ArrayLike] | None = None,
    *,
    events: Iterable[Any] = (),
    documents: Mapping[str, npt.ArrayLike] | None = None,
    tokens: Mapping[str, npt.ArrayLike] | None = None,
    chance: Mapping[str, float] | None = None,
    groups: Mapping[str, Mapping[str, npt.ArrayLike]] | None = None,
    fdr: float = 0.05,
    hidden: bool = True,
) -> Changes:
    """Phase changes of a run, at most one of them with `induction` true.

    steps      (n_steps,) optimizer steps of the checkpoints, increasing
    losses     slice -> (n_steps, n_tokens) in nats, an array or anything that gives columns (LossSource)
    scores     measure -> (n_steps, n_layers, n_heads); NaN where a checkpoint was not scored
    series     name -> (n_steps,): "icl_score", "repeat_gain", "learning_rate", ...; NaN where not measured
    events     (step, name) pairs, or mappings with "step" and "name"
    documents  slice -> (n_tokens,) document of each loss; gives `icl_score` where the series does not
    tokens     slice -> (n_tokens,) target ids or (n_sequences, n_positions + 1); gives `repeat_gain` likewise
    groups     slice -> name -> (n_tokens,) bool, groups of tokens to be tested by name as well
    chance     measure -> score under uniform attention; else each head's level at the first checkpoints
    hidden     whether to report hidden changes of the losses too

    May be called on a growing run: a change still under way has `end_step` None. Fewer than eight checkpoints give an
    empty list whose `notes` say so.
    """
    run = _checked(steps, losses, scores or {}, series or {}, events, documents or {}, tokens or {}, chance or {})
    answer = Changes()
    if len(run.steps) < MIN_CHECKPOINTS:
        answer.notes.append(f"the run has {len(run.steps)} checkpoints, a change needs at least {MIN_CHECKPOINTS}")
        return answer
    verdict = _head_change(run)
    for name in [name for name in run.losses if name not in ("repeats", "random")]:
        found = find_phase_changes(
            run.losses[name],
            run.steps,
            documents=run.documents.get(name),
            tokens=run.tokens.get(name),
            fdr=fdr,
            name=name,
            first_descent=True,
            hidden=hidden,
            groups=(groups or {}).get(name),
        )
        answer.notes += found.notes
        answer += [change for change in found if verdict is None or not _same_effect(change, verdict)]
    _add_measures(answer, run, verdict)
    if verdict is not None:
        answer.append(verdict)
    named = [change.evolve(coincides_with=coinciding(change, run.events)) for change in answer]
    return Changes(sorted(named, key=lambda change: (change.step, change.start_step)), answer.notes)


def _add_measures(answer: Changes, run: _Run, verdict: PhaseChange | None) -> None:
    """Adds the changes of level of whole-model measures that are not signs of an induction change.

    Their trends turn early in every run, while single tokens and pairs are learned, so a turn is no news.
    """
    for name in [name for name in BEHAVIOURS if name in run.series]:
        found = find_series_changes(run.series[name], run.steps, name=name, min_effect=_MIN_MEASURE)
        answer.notes += found.notes
        levels = [change for change in found if change.kind == "level"]
        answer += [c for c in levels if verdict is None or not (verdict.induction and c.overlaps(verdict))]


def _same_effect(change: PhaseChange, verdict: PhaseChange) -> bool:
    """A change at the time of an induction change is that change, seen in the mean or in the tokens it serves."""
    if not verdict.induction:
        return False
    if change.kind == "hidden":
        return verdict.start_step <= change.step and (verdict.end_step is None or change.step <= verdict.end_step)
    return change.kind in ("level", "slope") and change.shared_time(verdict) >= _SHARED


def _head_change(run: _Run) -> PhaseChange | None:
    """The change of the largest rising head, with its signs; None when no head rose."""
    rising = {
        measure: rising_heads(measure, run.scores[measure], run.steps, run.chance.get(measure))
        for measure in HEAD_MEASURES
        if measure in run.scores
    }
    leader = next((heads[0] for heads in rising.values() if heads), None)
    if leader is None:
        return None
    window = leader.timing.window
    signs = {name: _behaviour(run, name, window) for name in BEHAVIOURS}
    states = {measure: _head_state(measure, rising, window) for measure in HEAD_MEASURES[:2]}
    states |= {name: sign.state for name, sign in signs.items()}
    induction = any(signs[name].state == PRESENT for name in BEHAVIOURS)
    text = next((name for name in run.losses if name not in ("repeats", "random")), None)
    return change_at(
        leader.timing,
        kind="level",
        direction="rise",
        effect=leader.rise,
        unit="probability",
        measure=leader.name,
        heads=_heads_within(rising, leader, window),
        signs=states,
        induction=induction,
        tokens=tokens_moving_with(leader.fit, run.losses[text], run.steps) if induction and text else None,
        remarks=tuple(_sentence(name, sign) for name, sign in signs.items() if sign.change is not None),
    )


def _head_state(measure: str, rising: Mapping[str, list[RisingHead]], window: tuple[float, float]) -> str:
    names = (measure, "induction_stripe") if measure == "prefix_matching" else (measure,)
    if not any(name in rising for name in names):
        return NOT_MEASURED
    return PRESENT if any(_within(head, window) for name in names for head in rising.get(name, [])) else ABSENT


def _within(head: RisingHead, window: tuple[float, float]) -> bool:
    low, high = head.timing.window
    return low <= window[1] and window[0] <= high


def _heads_within(
    rising: Mapping[str, list[RisingHead]], leader: RisingHead, window: tuple[float, float]
) -> tuple[tuple[int, int], ...]:
    """The leader, then every other head that rose within its time, in any prefix-matching score."""
    found = dict.fromkeys([(leader.layer, leader.head)])
    found |= dict.fromkeys((h.layer, h.head) for heads in rising.values() for h in heads if _within(h, window))
    return tuple(found)


def _behaviour(run: _Run, name: str, window: tuple[float, float]) -> Sign:
    by_document = _icl(run) if name == "icl_score" else _gain(run)
    values = run.series.get(name)
    if values is None and by_document is not None:
        values = by_document.mean(axis=1)
    if values is None:
        return Sign(NOT_MEASURED)
    return judge_sign(values, run.steps, window, BEHAVIOURS[name], by_document)


def _icl(run: _Run) -> FloatArray | None:
    name = next((name for name in run.documents if name in run.losses and name not in ("repeats", "random")), None)
    return None if name is None else icl_by_document(run.losses[name], run.documents[name])


def _gain(run: _Run) -> FloatArray | None:
    tokens, losses = run.tokens.get("repeats"), run.losses.get("repeats")
    if tokens is None or losses is None or tokens.ndim != 2:
        return None
    return repeat_gain_by_document(losses, tokens)


def _sentence(name: str, sign: Sign) -> str:
    low, high = sign.interval or (np.nan, np.nan)
    when = "" if sign.timing is None else f", half way at step {sign.timing.step}"
    return f"{name} changes by {sign.change:+.3f} nats [{low:+.3f}, {high:+.3f}]{when}."


def _checked(
    steps: npt.ArrayLike,
    losses: Mapping[str, npt.ArrayLike | LossSource],
    scores: Mapping[str, npt.ArrayLike],
    series: Mapping[str, npt.ArrayLike],
    events: Iterable[Any],
    documents: Mapping[str, npt.ArrayLike],
    tokens: Mapping[str, npt.ArrayLike],
    chance: Mapping[str, float],
) -> _Run:
    at = check_steps(steps)
    matrices = {name: as_source(values, at, f"losses of {name}") for name, values in losses.items()}
    ids = {name: np.asarray(values, dtype=np.int64) for name, values in tokens.items()}
    owners = {name: np.asarray(values, dtype=np.int64).ravel() for name, values in documents.items()}
    for name, values in ids.items():
        if name in matrices and name not in owners and values.ndim == 2 and _fits(values, matrices[name]):
            owners[name] = np.repeat(np.arange(len(values)), values.shape[1] - 1)
    for name, values in owners.items():
        if name in matrices and len(values) != matrices[name].shape[1]:
            raise InvalidInput(f"documents of {name} have {len(values)} entries, its losses {matrices[name].shape[1]}")
    return _Run(
        steps=at,
        losses=matrices,
        scores={name: _head_scores(name, values, at) for name, values in scores.items()},
        series={name: check_series(values, at, name) for name, values in series.items()},
        documents=owners,
        tokens=ids,
        events=collect_events(events, at, dict(series)),
        chance=chance,
    )


def _fits(tokens: IntArray, losses: LossSource) -> bool:
    return bool(tokens.shape[0] * (tokens.shape[1] - 1) == losses.shape[1])


def _head_scores(name: str, values: npt.ArrayLike, steps: IntArray) -> npt.NDArray[np.floating]:
    answer = np.asarray(values, dtype=np.float64)
    if answer.ndim != 3 or len(answer) != len(steps):
        raise InvalidInput(f"{name} has shape {answer.shape}, must be ({len(steps)}, n_layers, n_heads)")
    return answer
