"""Hidden changes of groups that have a name: do the tokens after `self.` drop together, beside what all tokens do?

Separate from the search for tokens that nobody has named: a group is known before one looks, so its mean can be tested,
and a group whose tokens are too few to be told apart one by one can still be seen. `named_groups` makes the groups that
follow from the token ids; any other comes from the caller.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import erfc, log1p, sqrt

import numpy as np
import numpy.typing as npt

from phasewatch.detection.hidden import fit_beside
from phasewatch.detection.loss_source import LossBlocks, Rows
from phasewatch.detection.phase_change import Changes, IntArray, PhaseChange
from phasewatch.detection.stage import Stage
from phasewatch.detection.timing import change_at, place
from phasewatch.detection.token_scan import Templates, Whitener, quicker_than
from phasewatch.detection.transition import FloatArray, Transition
from phasewatch.errors import InvalidInput

BoolArray = npt.NDArray[np.bool_]

MIN_GROUP_TOKENS = 100
MIN_GROUP_DOCUMENTS = 10
_LEAST_HEIGHT = 2.0  # standard errors that a member named has at least
_CHECKPOINTS_A_DEGREE = 5.0  # of freedom: neighbouring heights are nearly the same
_ALONE = 0.25  # of a group's tokens in one document, beyond which that document is the group


@dataclass(frozen=True)
class _Means:
    """Of each group (rows): its mean course in nats, and its departure among the residuals, of unit noise."""

    courses: FloatArray  # (n_groups, n_steps)
    departures: Rows


def find_group_changes(
    losses: LossBlocks,
    steps: IntArray,
    groups: Mapping[str, npt.ArrayLike],
    whitener: Whitener,
    *,
    fdr: float = 0.05,
    documents: IntArray | None = None,
) -> Changes:
    """At most one drop of each group, measure `token_group:NAME`; `notes` name the groups too small to judge.

    steps      (n usable steps,); groups name -> (n_tokens,) members; documents (n_tokens,)
    fdr        Bonferroni over times and widths within a group, Benjamini-Hochberg over groups
    """
    answer = Changes()
    members = {name: _checked(name, mask, losses.n_tokens) for name, mask in groups.items()}
    tested: dict[str, BoolArray] = {}
    for name, mask in members.items():
        note = _too_small(name, mask, documents)
        if note is None:
            tested[name] = mask
        else:
            answer.notes.append(note)
    if not tested:
        return answer
    means = _means(losses, list(tested.values()), whitener)
    templates, mean = whitener.templates(), losses.mean[losses.usable]
    open_times = _open_times(templates, mean, whitener.x)
    if not open_times.any():
        return answer
    best, height = _best(means.departures, templates, open_times)
    degrees = max(float((whitener.x > templates.middles[open_times].min()).sum()) / _CHECKPOINTS_A_DEGREE, 2.0)
    p_values = np.minimum(1.0, open_times.sum() * np.array([_p_value(h, degrees) for h in height.tolist()]))
    scope = f"{len(tested)} groups (Benjamini-Hochberg) × {open_times.sum()} times and widths (Bonferroni)"
    for i, q_value in _below(p_values, fdr):
        name = list(tested)[i]
        middle, width = float(templates.middles[best[i]]), float(templates.widths[best[i]])
        fit = fit_beside(whitener.x, means.courses[i], mean, middle, width / 2)
        if fit.height >= 0:
            continue
        tokens = _members_moving(losses, whitener, fit, np.flatnonzero(tested[name]))
        answer.append(_change(name, fit, steps, tokens, tested[name], documents).evolve(q_value=q_value, q_scope=scope))
    answer.sort(key=lambda change: change.step)
    return answer


def named_groups(tokens: npt.ArrayLike, *, least: int = MIN_GROUP_TOKENS) -> dict[str, BoolArray]:
    """Groups that follow from token ids (n_sequences, n): for each, which of the n_sequences × (n − 1) losses it has.

    `target=ID`, `previous=ID`, `bigram=ID,ID`, `positions=FIRST-LAST` (of the token, in octaves), `frequency=LOW-HIGH`
    (occurrences of the target, in octaves) and `induction_predictable` (the trigram stood earlier in the sequence);
    those of fewer than `least` losses are left out.
    """
    ids = np.asarray(tokens, dtype=np.int64)
    if ids.ndim != 2 or ids.shape[1] < 2:
        raise InvalidInput(f"tokens have shape {ids.shape}, must be (n_sequences, n): whole sequences")
    previous, target = ids[:, :-1].ravel(), ids[:, 1:].ravel()
    answer = {f"target={value}": target == value for value in _frequent(target, least)}
    answer |= {f"previous={value}": previous == value for value in _frequent(previous, least)}
    size = int(ids.max()) + 1
    pairs = previous * size + target
    answer |= {f"bigram={value // size},{value % size}": pairs == value for value in _frequent(pairs, least)}
    position = np.tile(np.arange(1, ids.shape[1]), len(ids))
    answer |= {f"positions={low}-{2 * low - 1}": _octave(position, low) for low in _octaves(position)}
    _, rank, counts = np.unique(target, return_inverse=True, return_counts=True)
    occurrences = counts[rank]
    answer |= {f"frequency={low}-{2 * low - 1}": _octave(occurrences, low) for low in _octaves(occurrences)}
    answer["induction_predictable"] = _seen_before(ids).ravel()
    return {name: mask for name, mask in answer.items() if mask.sum() >= least}


def _frequent(values: IntArray, least: int) -> list[int]:
    found, counts = np.unique(values, return_counts=True)
    chosen: list[int] = found[counts >= least].tolist()
    return chosen


def _octaves(values: IntArray) -> list[int]:
    return [1 << k for k in range(int(values.max()).bit_length())]


def _octave(values: IntArray, low: int) -> BoolArray:
    inside: BoolArray = (values >= low) & (values < 2 * low)
    return inside


def _seen_before(ids: IntArray) -> BoolArray:
    """(n_sequences, n − 1): whether the trigram that a token ends stood earlier in its sequence."""
    answer = np.zeros((len(ids), ids.shape[1] - 1), dtype=bool)
    if ids.shape[1] < 3:
        return answer
    triples = np.stack([ids[:, :-2], ids[:, 1:-1], ids[:, 2:]], axis=2).reshape(-1, 3)
    trigrams = np.unique(triples, axis=0, return_inverse=True)[1].reshape(len(ids), -1)
    for row, sequence in enumerate(trigrams):
        answer[row, 1:] = True
        answer[row, 1 + np.unique(sequence, return_index=True)[1]] = False
    return answer


def _checked(name: str, mask: npt.ArrayLike, n_tokens: int) -> BoolArray:
    members = np.asarray(mask)
    if members.dtype != bool or members.size != n_tokens:
        raise InvalidInput(
            f"group {name!r} is {members.dtype} of shape {members.shape}, must be bool with an entry "
            f"for each of the {n_tokens} losses"
        )
    return members.ravel()


def _too_small(name: str, members: BoolArray, documents: IntArray | None) -> str | None:
    n_tokens = int(members.sum())
    if n_tokens < MIN_GROUP_TOKENS:
        return f"group {name}: {n_tokens} tokens, at least {MIN_GROUP_TOKENS} are needed for an answer"
    if documents is None:
        return None
    _, counts = np.unique(documents[members], return_counts=True)
    if len(counts) < MIN_GROUP_DOCUMENTS:
        return f"group {name}: {len(counts)} documents, at least {MIN_GROUP_DOCUMENTS} are needed for an answer"
    if counts.max() > _ALONE * n_tokens:
        return f"group {name}: {counts.max()} of its {n_tokens} tokens are one document's, too many for an answer"
    return None


def _means(losses: LossBlocks, members: list[BoolArray], whitener: Whitener) -> _Means:
    chosen = np.stack(members).astype(np.float32)
    courses = np.zeros((len(members), len(whitener.x)))
    departures = np.zeros(courses.shape, np.float32)
    for part in losses.parts():
        rows = losses.courses(part)
        courses += chosen[:, part] @ rows
        departures += chosen[:, part] @ whitener.residuals(rows)
    sizes = chosen.sum(axis=1)[:, None]
    return _Means(courses / sizes, departures / np.sqrt(sizes))


def _best(departures: Rows, templates: Templates, open_times: BoolArray) -> tuple[IntArray, FloatArray]:
    """Of each group the best template, and its height in standard deviations of the group's own movements.

    A group has a course and fluctuations of its own, which are no noise of tokens: what is left of it at all times once
    the change is taken out is the measure. Where a slow decay describes it as well there is no change at all.
    """
    curves = templates.curves[open_times]
    falls = quicker_than(-(departures @ curves.T), templates.slowest_fall(departures), 0.0)
    best = falls.argmax(axis=1)
    height = falls[np.arange(len(best)), best]
    left = (departures + np.where(height > 0, height, 0.0)[:, None] * curves[best]) @ curves.T
    spread = np.maximum(np.sqrt((left**2).mean(axis=1)), 1.0)
    return np.flatnonzero(open_times)[best], np.maximum(height / spread, 0.0)


def _open_times(templates: Templates, mean: FloatArray, x: FloatArray) -> BoolArray:
    """Times at which a group can be judged: after three quarters of the run's descent, and when it is calm."""
    way = np.maximum.accumulate(mean[:5].max() - mean)
    settled = float(np.interp(0.75 * way[-1], way, x)) if way[-1] > 0 else -np.inf
    inside: BoolArray = templates.middles > max(settled, Stage.of(mean, x).calm)
    return inside


def _p_value(height: float, degrees: float) -> float:
    """Of a height in standard deviations that were estimated: the root of the log likelihood ratio is nearly normal."""
    return erfc(sqrt(degrees * log1p(height**2 / degrees) / 2)) / 2


def _below(p_values: FloatArray, fdr: float) -> list[tuple[int, float]]:
    """(group, q) of those that Benjamini and Hochberg's rule lets pass."""
    order = np.argsort(p_values)
    q_values = np.minimum.accumulate((p_values[order] * len(order) / np.arange(1, len(order) + 1))[::-1])[::-1]
    return [(int(i), float(q)) for i, q in zip(order, q_values, strict=True) if q <= fdr]


def _members_moving(losses: LossBlocks, whitener: Whitener, fit: Transition, members: IntArray) -> IntArray:
    curve, _ = whitener.curve(np.array([fit.middle]), np.array([max(fit.end - fit.start, 0.02)]))
    heights: Rows = -(whitener.residuals(losses.courses_of(members)) @ curve[0])
    order = np.argsort(-heights, kind="stable")
    return members[order[heights[order] > _LEAST_HEIGHT]]


def _change(
    name: str, fit: Transition, steps: IntArray, tokens: IntArray, members: BoolArray, documents: IntArray | None
) -> PhaseChange:
    timing = place(fit, steps)
    until = "the last checkpoint" if timing.end_step is None else f"{timing.end_step}"
    share = "" if documents is None else f" in {len(np.unique(documents[members]))} documents"
    return change_at(
        timing,
        kind="hidden",
        direction="drop",
        effect=abs(fit.height),
        unit="nats",
        measure=f"token_group:{name}",
        tokens=tokens,
        remarks=(
            f"Tokens of {name}: −{abs(fit.height):.1f} nats between steps {timing.start_step} and {until}, beside what "
            f"all tokens do; the group has {members.sum()} tokens{share}.",
        ),
    )
