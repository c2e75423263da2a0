"""Hidden changes: times at which far more tokens fall than at others, though the mean does not show it.

Separate from the scan of the tokens because this is the decision. A single token's fall proves nothing among tens of
thousands; many at one time do. How many are many is calibrated on the run itself: the counts at its other times give
the background and its scatter, which holds whatever makes this run's tokens move together. Tokens of one document, or
of one (previous, target) pair, count with the square root of their number: they are not independent witnesses.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import erfc, sqrt

import numpy as np

from phasewatch.detection.first_descent import end_of_quick_descent
from phasewatch.detection.phase_change import IntArray, PhaseChange
from phasewatch.detection.prepare import mean_losses
from phasewatch.detection.timing import place
from phasewatch.detection.token_scan import Losses, TokenScan, Whitener, blocks, quicker_than, scan_tokens
from phasewatch.detection.transition import FloatArray, Transition, fit_transition, log_step

MIN_CHECKPOINTS = 20  # below, a token's own course and its noise cannot be told apart
MIN_TOKENS = 12
_HEIGHTS = (4.0, 5.0, 6.0, 7.5)  # standard errors from which a token is a witness; higher ones have less background
_REACHES = (0.06, 0.15, 0.35)  # log steps on either side of a time within which witnesses count together
_MIN_SCORE = 5.0  # standard deviations of the square-root count over its background
_AROUND = 25  # gaps between checkpoints on either side that give the background
_TOKEN_FDR = 0.2  # among the tokens that are named
_BETTER = 0.0  # twice the log likelihood by which a token named has to prefer the change to a slow decay
_MAX_CHANGES = 4


@dataclass(frozen=True)
class _Crowd:
    """A time with more witnesses than its background; `score` in standard deviations."""

    middle: float
    reach: float
    score: float
    tokens: IntArray


def find_hidden_changes(
    losses: Losses,
    steps: IntArray,
    *,
    name: str,
    fdr: float = 0.05,
    documents: IntArray | None = None,
    pairs: IntArray | None = None,
) -> list[PhaseChange]:
    """Changes of kind `hidden` in losses (n_steps, n_tokens), in nats.

    documents  (n_tokens,) document of each loss; pairs (n_tokens,) an id of its (previous, target)
    fdr        false-discovery rate over times, widths and reaches
    """
    if len(steps) < MIN_CHECKPOINTS or losses.shape[1] < 10 * MIN_TOKENS:
        return []
    whitener = Whitener(losses, steps)
    scan = scan_tokens(losses, whitener)
    found: list[PhaseChange] = []
    taken: list[tuple[float, float]] = []
    settled = end_of_quick_descent(mean_losses(losses[:, :: max(1, losses.shape[1] // 20_000)]), whitener.x)
    middles = np.unique(scan.templates.middles)
    middles = middles[middles > settled]
    n_looked = max(1, len(middles)) * len(_REACHES) * len(_HEIGHTS)
    while len(found) < _MAX_CHANGES:
        crowd = _largest_crowd(scan, middles, documents, pairs, taken)
        if crowd is None:
            break
        q_value = min(1.0, n_looked * erfc(crowd.score / sqrt(2)) / 2)
        if crowd.score < _MIN_SCORE or q_value > fdr:
            break
        taken.append((crowd.middle, max(3 * crowd.reach, 0.4)))
        change = _change(losses, steps, whitener, scan, crowd, settled, name)
        if change is not None:
            scope = f"{n_looked} times, reaches and heights of {losses.shape[1]} tokens"
            found.append(change.evolve(q_value=q_value, q_scope=scope))
    return sorted(found, key=lambda change: change.step)


def _largest_crowd(
    scan: TokenScan,
    middles: FloatArray,
    documents: IntArray | None,
    pairs: IntArray | None,
    taken: list[tuple[float, float]],
) -> _Crowd | None:
    """The most surprising of all crowds at `middles` (log steps), at any height and reach, away from those taken."""
    found = [_crowd(scan, middles, documents, pairs, taken, height) for height in _HEIGHTS]
    return max((crowd for crowd in found if crowd is not None), key=lambda crowd: crowd.score, default=None)


def _crowd(
    scan: TokenScan,
    allowed: FloatArray,
    documents: IntArray | None,
    pairs: IntArray | None,
    taken: list[tuple[float, float]],
    height: float,
) -> _Crowd | None:
    middles = np.unique(scan.templates.middles)
    falls = np.flatnonzero(scan.fall > height)
    fall_at = np.searchsorted(middles, scan.templates.middles[scan.fall_template[falls]])
    rises = scan.templates.middles[scan.rise_template[scan.rise > height]]
    counts = np.bincount(fall_at, minlength=len(middles)).astype(np.float64)
    mirrored = np.bincount(np.searchsorted(middles, rises), minlength=len(middles)).astype(np.float64)
    background = _background(counts, mirrored)
    scatter = _scatter(counts, background)
    best: _Crowd | None = None
    for reach in _REACHES:
        for middle in allowed:
            near = np.abs(middles - middle) <= reach
            if any(abs(middle - at) <= width for at, width in taken) or counts[near].sum() < MIN_TOKENS:
                continue
            tokens = falls[near[fall_at]]
            witnesses = _independent(tokens, documents, pairs)
            score = _score(witnesses, float(background[near].sum())) / scatter
            if witnesses >= MIN_TOKENS and (best is None or score > best.score):
                best = _Crowd(float(middle), reach, score, tokens)
    return best


def _score(count: float, expected: float) -> float:
    """How far a count lies above what is expected, in standard deviations of a Poisson count."""
    return 2 * (sqrt(count + 0.375) - sqrt(expected + 0.375))


def _background(counts: FloatArray, rises: FloatArray) -> FloatArray:
    """Falls to expect in each gap between checkpoints: what is typical around it, and of rises, whichever is more."""
    whole = max(_typical(counts), _typical(rises))
    local = [_typical(counts[max(0, i - _AROUND) : i + _AROUND + 1]) for i in range(len(counts))]
    return np.asarray(np.maximum(np.array(local), whole))


def _typical(counts: FloatArray) -> float:
    """Mean of the lower half, corrected for what the cut takes from Poisson counts; at least a twentieth."""
    mean = float(np.sort(counts)[: max(1, len(counts) // 2)].mean())
    return max(mean + 0.8 * sqrt(mean), 0.05)


def _scatter(counts: FloatArray, background: FloatArray) -> float:
    """Standard deviation of root counts about their background, from the lower four fifths; at least Poisson's."""
    away = np.sort(np.abs(2 * (np.sqrt(counts + 0.375) - np.sqrt(background + 0.375))))
    return max(1.0, float(away[4 * (len(away) - 1) // 5]) / 1.28)


def _independent(tokens: IntArray, documents: IntArray | None, pairs: IntArray | None) -> float:
    """How many independent witnesses `tokens` are: those that share a document or a pair count as their root."""
    number = float(len(tokens))
    for owner in (documents, pairs):
        if owner is not None and len(tokens):
            _, sizes = np.unique(owner[tokens], return_counts=True)
            number = min(number, float(np.sqrt(sizes).sum()))
    return number


def _change(
    losses: Losses, steps: IntArray, whitener: Whitener, scan: TokenScan, crowd: _Crowd, settled: float, name: str
) -> PhaseChange | None:
    fit = _fit(losses, steps, whitener, scan, crowd)
    tokens = _moving_tokens(losses, whitener, scan, fit)
    if len(tokens) < MIN_TOKENS or fit.start < settled:
        return None
    timing = place(fit, steps)
    return PhaseChange(
        start_step=timing.start_step,
        step=timing.step,
        end_step=timing.end_step,
        start_interval=timing.start_interval,
        step_interval=timing.step_interval,
        end_interval=timing.end_interval,
        n_checkpoints_inside=timing.n_checkpoints_inside,
        kind="hidden",
        direction="drop",
        effect=abs(fit.height),
        unit="nats",
        measure=f"losses:{name}",
        tokens=tokens,
        remarks=(f"{len(tokens)} of {losses.shape[1]} tokens.",),
    )


def _fit(losses: Losses, steps: IntArray, whitener: Whitener, scan: TokenScan, crowd: _Crowd) -> Transition:
    """When the witnesses fell: a sigmoid on their mean, beside the course of all tokens, around the crowd."""
    x = log_step(steps)
    mean = mean_losses(losses[:, crowd.tokens])
    course = mean_losses(losses[:, :: max(1, losses.shape[1] // 20_000)])
    near = np.abs(x - crowd.middle) <= 1.5
    if near.sum() < 12:
        near = np.argsort(np.argsort(np.abs(x - crowd.middle))) < 12
    low, high = crowd.middle - 2 * crowd.reach - 0.1, crowd.middle + 2 * crowd.reach + 0.1
    return fit_transition(
        x[near],
        mean[near],
        base=course[near][:, None],
        sign=-1,
        middles=(max(low, x[near][0]), min(high, x[near][-1])),
        widths=(0.01, 1.7),
    )


def _moving_tokens(losses: Losses, whitener: Whitener, scan: TokenScan, fit: Transition) -> IntArray:
    """The tokens that fall along the fitted curve, most certain first, cut where a fifth would be there by chance.

    What chance gives is read off the same tokens at other times.
    """
    width = np.array([max(fit.end - fit.start, 0.02)])
    here, _ = whitener.curve(np.array([fit.middle]), width)
    others = _elsewhere(whitener, fit)
    there, left = whitener.curve(others, np.full(len(others), width[0])) if len(others) else (here[:0], here[:0, 0])
    there = there[left > 0]
    score = np.empty(losses.shape[1])
    chance = []
    for part in blocks(losses.shape[1]):
        residuals = whitener.residuals(losses[:, part])
        slow = np.maximum(-(scan.templates.slow @ residuals).min(axis=0), 0.0)
        score[part] = quicker_than(-(here @ residuals), slow, _BETTER)[0]
        chance.append(quicker_than(-(there @ residuals), slow, _BETTER).ravel())
    null = np.sort(np.concatenate(chance))
    if not len(null):
        return np.flatnonzero(score > _HEIGHTS[0])
    order = np.argsort(-score, kind="stable")
    expected = (len(null) - np.searchsorted(null, score[order])) * (len(score) / max(len(null), 1))
    rate = np.minimum.accumulate((expected / np.arange(1, len(order) + 1))[::-1])[::-1]
    return order[(rate <= _TOKEN_FDR) & (score[order] > 2.0)].astype(np.int64)


def _elsewhere(whitener: Whitener, fit: Transition) -> FloatArray:
    """Times at which chance can be read: beyond the change, and not at the very ends."""
    x = whitener.x
    gaps = (x[3:-2] + x[2:-3]) / 2
    away = np.abs(gaps - fit.middle) > 1.5 * (fit.end - fit.start) + 0.1
    return np.asarray(gaps[away & (np.abs(gaps - fit.middle) < 2.0)])
