"""Hidden changes: times at which far more tokens fall than at others, though the mean does not show it.

Separate from the scan of the tokens and from the search for crowds because this is the decision: what a crowd's course
looks like, when it fell, and which tokens fell with it.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import erfc, sqrt

import numpy as np

from phasewatch.detection.crowds import Crowd, Crowds
from phasewatch.detection.loss_source import LossBlocks, Rows
from phasewatch.detection.phase_change import Changes, IntArray, PhaseChange
from phasewatch.detection.stage import MIN_TOKENS, Stage
from phasewatch.detection.timing import change_at, place
from phasewatch.detection.token_scan import TokenScan, Whitener, quicker_than, scan_tokens
from phasewatch.detection.transition import FloatArray, Transition, fit_transition

MIN_CHECKPOINTS = 20  # below, a token's own course and its noise cannot be told apart
_TOKEN_FDR = 0.1  # among the tokens that are named
_NO_BETTER = 4.0  # twice the log likelihood by which a slow decay may beat the change for a token named
_LEAST_HEIGHT = 2.0  # standard errors that a token named has at least
_MAX_TRIED = 16  # crowds looked at more closely


@dataclass(frozen=True)
class _Scanned:
    """One look at a run: its courses, and who fell when."""

    losses: LossBlocks
    steps: IntArray  # of the usable checkpoints
    mean: FloatArray  # (n_steps,)
    whitener: Whitener
    scan: TokenScan
    stage: Stage


def find_hidden_changes(
    losses: LossBlocks,
    steps: IntArray,
    whitener: Whitener,
    *,
    name: str,
    fdr: float = 0.05,
    owners: tuple[IntArray, ...] = (),
    kinds: tuple[IntArray, ...] = (),
) -> Changes:
    """Changes of kind `hidden` in losses of (n_steps, n_tokens), in nats; `notes` say what was not looked at.

    steps   (n usable steps,)
    owners  (n_tokens,) each: the document of each loss, an id of its (previous, target) pair
    kinds   (n_tokens,) each: its target, its previous token, looked at kind by kind as well
    fdr     false-discovery rate over times, widths, reaches and kinds
    """
    mean = losses.mean[losses.usable]
    stage = Stage.of(mean, whitener.x)
    run = _Scanned(losses, steps, mean, whitener, scan_tokens(losses, whitener), stage)
    crowds = Crowds(run.scan, stage, owners, kinds)
    found = Changes(notes=[] if stage.note is None else [f"losses of {name}: {stage.note}"])
    while len(crowds.taken) < _MAX_TRIED:
        crowd = crowds.largest()
        if crowd is None or crowds.q_value(crowd) > fdr:
            break
        change = _change(run, crowd, name)
        crowds.taken.append((crowd.middle, crowd.reach if change is None else max(3 * crowd.reach, 0.4)))
        if change is not None:
            scope = f"{crowds.n_looked} times, reaches, heights and kinds of {losses.n_tokens} tokens"
            found.append(change.evolve(q_value=crowds.q_value(crowd), q_scope=scope))
    found.sort(key=lambda change: change.step)
    return found


def _change(run: _Scanned, crowd: Crowd, name: str) -> PhaseChange | None:
    course = run.losses.mean_of(crowd.tokens)
    fit = fit_beside(run.whitener.x, course, run.mean, crowd.middle, crowd.reach)
    if fit.start < run.stage.settled or fit.end > run.whitener.x[-1]:
        return None  # what is not over cannot be told from a pace that begins
    tokens = _moving_tokens(run, fit, crowd.kind)
    fewest = run.stage.fewest(np.array(fit.middle), run.losses.n_tokens) if crowd.kind is None else MIN_TOKENS
    if len(tokens) < fewest:
        return None
    return change_at(
        place(fit, run.steps),
        kind="hidden",
        direction="drop",
        effect=abs(fit.height),
        unit="nats",
        measure=f"losses:{name}",
        tokens=tokens,
        remarks=(f"{len(tokens)} of {run.losses.n_tokens} tokens.",),
    )


def fit_beside(x: FloatArray, course: FloatArray, mean: FloatArray, middle: float, reach: float) -> Transition:
    """When a course (n_steps,) fell: a sigmoid on it, beside the mean of all tokens, within 2 `reach` of `middle`."""
    near = np.abs(x - middle) <= 1.5
    if near.sum() < 12:
        near = np.argsort(np.argsort(np.abs(x - middle))) < 12
    low, high = middle - 2 * reach - 0.1, middle + 2 * reach + 0.1
    return fit_transition(
        x[near],
        course[near],
        base=mean[near][:, None],
        sign=-1,
        middles=(max(low, x[near][0]), min(high, x[near][-1])),
        widths=(0.01, 1.7),
    )


def _moving_tokens(run: _Scanned, fit: Transition, kind: IntArray | None) -> IntArray:
    """The tokens that fall along the fitted curve, most certain first, cut where too many would be there by chance.

    kind  the tokens that are asked; all of them where it is None
    """
    curve, _ = run.whitener.curve(np.array([fit.middle]), np.array([max(fit.end - fit.start, 0.02)]))
    height = np.empty(run.losses.n_tokens, np.float32)
    score = np.empty_like(height)
    for part in run.losses.parts():
        residuals = run.whitener.residuals(run.losses.courses(part))
        height[part] = -(residuals @ curve[0])
        score[part] = quicker_than(height[part], run.scan.templates.slowest_fall(residuals), -_NO_BETTER)
    asked = np.arange(len(score)) if kind is None else kind
    order = asked[np.argsort(-score[asked], kind="stable")]
    order = order[score[order] > _LEAST_HEIGHT]
    rate = len(asked) / len(score) * _by_chance(height, score[order]) / np.arange(1, len(order) + 1)
    return order[np.minimum.accumulate(rate[::-1])[::-1] <= _TOKEN_FDR].astype(np.int64)


def _by_chance(scores: Rows, at: Rows) -> FloatArray:
    """How many of the tokens' scores would exceed each of `at` without a change.

    Nearly all tokens take no part, so the middle of their scores gives the spread of chance; that of rises is a check.
    """
    low, middle, high = np.quantile(scores, [0.16, 0.5, 0.84])
    spread = max(float(high - low) / 2, 1e-6)
    normal = len(scores) * np.array([erfc((value - middle) / (spread * sqrt(2))) / 2 for value in at.tolist()])
    rises = np.searchsorted(np.sort(-scores), at)
    return np.asarray(np.maximum(normal, len(scores) - rises))
