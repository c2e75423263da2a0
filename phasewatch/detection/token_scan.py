"""Every token's own course against sigmoids at every time: which tokens fell, and when.

Separate from the decision what is a change, because this part is arithmetic over the whole matrix: it reads the losses
block by block, needs memory in proportion to tokens, not to checkpoints × tokens, and time linear in tokens.

A token's losses are taken as: a smooth descent of its own (the leading shapes of all power laws and exponentials), its
share of what all tokens do together (the mean and the median course), and noise. All that is projected out; what is
left is compared with sigmoids that have had the same projected out, in units of the token's own noise. Checkpoints
count by their own noise: early ones are noisier.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from phasewatch.detection.loss_source import LossBlocks, Rows
from phasewatch.detection.phase_change import IntArray
from phasewatch.detection.transition import LOGIT_90, FloatArray, log_step, split_sigmoid

WIDTHS = (0.08, 0.3, 0.8)  # 10-90 % in log step
_APART = 0.03  # log steps between the middles of neighbouring templates, at least
_TRIMMED = 0.05  # share of the tokens that are left out of the covariance
_LEAST = 0.3  # of the median variance: the least that any direction is taken to have
_SHRINKAGE = 10.0  # checkpoints' worth of the typical noise mixed into each token's own
_MARGIN = 3  # checkpoints that a change needs on either side
_SPIKE = 0.95  # a token whose largest single deviation beats this share of its fit has a spike, not a level
_BETTER = 4.0  # twice the log likelihood by which a sigmoid has to beat every slow decay


@dataclass(frozen=True)
class Templates:
    """Sigmoids as they look among the residuals, of unit length: (n_templates, n_steps); their middles and widths."""

    curves: Rows
    middles: FloatArray  # log step
    widths: FloatArray
    slow_basis: Rows  # (k, n_steps) and (k, n_slow): their product is the decays at the pace that any token may have
    slow_weights: Rows

    def slowest_fall(self, residuals: Rows) -> Rows:
        """The height (n,) of the slow decay that each of the residuals (n, n_steps) falls along most; at least 0."""
        return np.asarray(np.maximum(-self._along_slow(residuals).min(axis=1), 0.0))

    def slow_heights(self, residuals: Rows) -> tuple[Rows, Rows]:
        """(falls, rises), each (n,) and at least 0, along the slow decays."""
        along = self._along_slow(residuals)
        return np.maximum(-along.min(axis=1), 0.0), np.maximum(along.max(axis=1), 0.0)

    def _along_slow(self, residuals: Rows) -> Rows:
        return np.asarray((residuals @ self.slow_basis.T) @ self.slow_weights)


@dataclass(frozen=True)
class TokenScan:
    """For every token: the height of its best fall and of its best rise in standard errors, and the template of each.

    -inf where the token has no such movement, a spike instead, or no usable losses.
    """

    fall: npt.NDArray[np.float32]  # (n_tokens,)
    fall_template: npt.NDArray[np.int32]
    rise: npt.NDArray[np.float32]
    rise_template: npt.NDArray[np.int32]
    templates: Templates


class Whitener:
    """Turns token courses into independent checkpoints of unit noise, by what the run's own tokens do.

    A course is, in units of the token's noise: a constant of its own, the typical course, and a departure from it whose
    covariance between checkpoints is that of the run's tokens. Tokens that depart most are left out of the covariance,
    so that a change of a few does not count as ordinary.

    sample  (n_tokens, n_steps) courses in nats of evenly spread tokens
    """

    def __init__(self, sample: Rows, steps: IntArray) -> None:
        self.x = log_step(steps)
        self.floor = 0.3 * max(float(np.median(_roughness(sample))), 1e-6)
        courses = self._in_units(sample)
        self.typical, self.turn = np.zeros(len(steps), np.float32), np.eye(len(steps), dtype=np.float32)
        kept = np.ones(len(courses), dtype=bool)
        for _ in range(3):
            self.typical = courses[kept].mean(axis=0)
            self.turn = _inverse_root(courses[kept] - self.typical)
            turned = (courses - self.typical) @ self.turn
            distance = np.einsum("nt,nt->n", turned, turned)
            kept = distance <= np.quantile(distance, 1 - _TRIMMED)
        flat = self.turn.sum(axis=0)
        self.flat = flat / np.linalg.norm(flat)

    def residuals(self, courses: Rows) -> Rows:
        """(n, n_steps) of independent departures, in units of each token's own noise, of courses (n, n_steps)."""
        rows = (self._in_units(courses) - self.typical) @ self.turn
        rows -= np.outer(rows @ self.flat, self.flat)
        power = np.einsum("nt,nt->n", rows, rows)
        noise = np.sqrt((power + _SHRINKAGE) / (len(self.x) - 1 + _SHRINKAGE))
        return np.asarray(rows / np.maximum(noise, 1.0)[:, None], np.float32)

    def curve(self, middle: FloatArray, width: FloatArray) -> tuple[Rows, Rows]:
        """Sigmoids (n, n_steps) as they look among the residuals, of unit length, and their length before that."""
        scale = width / (2 * LOGIT_90)
        return self._seen(split_sigmoid(self.x, middle, scale, scale))

    def _seen(self, curves: FloatArray) -> tuple[Rows, Rows]:
        curves = curves @ self.turn.astype(np.float64)
        curves -= np.outer(curves @ self.flat, self.flat)
        length = np.linalg.norm(curves, axis=1)
        return (curves / np.maximum(length, 1e-12)[:, None]).astype(np.float32), length.astype(np.float32)

    def gaps(self) -> FloatArray:
        """Log steps half way between checkpoints, away from the ends, no closer than templates need."""
        between = (self.x[1:] + self.x[:-1]) / 2
        kept: list[float] = []
        for gap in between[_MARGIN - 1 : len(between) - _MARGIN + 1]:
            if not kept or gap - kept[-1] >= _APART:
                kept.append(float(gap))
        return np.array(kept)

    def templates(self) -> Templates:
        """Sigmoids at every gap between checkpoints, at all widths."""
        gaps = self.gaps()
        middles, widths = np.tile(gaps, len(WIDTHS)), np.repeat(WIDTHS, len(gaps))
        curves, _ = self.curve(middles, widths)
        return Templates(curves, middles, widths, *_factors(self._seen(decays(np.expm1(self.x)))[0]))

    def _in_units(self, rows: Rows) -> Rows:
        """Courses less their own mean, in units of the noise between neighbouring checkpoints."""
        units = np.maximum(_roughness(rows), self.floor)[:, None]
        return np.asarray((rows - rows.mean(axis=1, keepdims=True)) / units)


def decays(t: FloatArray) -> FloatArray:
    """1 − (1 + τ/t0)^−c at steps t, for many t0 and c: (n, n_steps), each rising from 0.

    τ is t itself, or t behind a warm-up: t²/2w up to w and t − w/2 from there, for several w up to the whole run.
    """
    last, first = max(float(t[-1]), 2.0), max(float(t[t > 0][0]), 0.5)
    answer = []
    for w in (0.0, *np.geomspace(max(4 * first, 0.004 * last), last, 7)):
        paced = np.where(t < w, t**2 / (2 * max(w, 1.0)), t - w / 2)
        scales = np.geomspace(first / (2 + w), last, 14)
        answer += [1 - (1 + paced / (scale * max(1.0, c))) ** -c for c in (0.3, 1.0, 40.0) for scale in scales]
    return np.stack(answer)


def _factors(curves: Rows) -> tuple[Rows, Rows]:
    """(basis (k, n_steps), weights (k, n)) whose product is `curves` (n, n_steps): smooth ones have few dimensions."""
    left, sizes, basis = np.linalg.svd(curves.astype(np.float64), full_matrices=False)
    kept = sizes > 1e-5 * sizes[0]
    return basis[kept].astype(np.float32), (left[:, kept] * sizes[kept]).T.astype(np.float32)


def _roughness(rows: Rows) -> Rows:
    """Noise (n,) of courses (n, n_steps), from the median step between checkpoints."""
    steps = np.abs(np.diff(rows, axis=1))
    middle = steps.shape[1] // 2
    return np.asarray(np.partition(steps, middle, axis=1)[:, middle] * np.float32(1.4826 / np.sqrt(2)))


def _inverse_root(courses: Rows) -> Rows:
    """The symmetric inverse square root of the courses' covariance between checkpoints."""
    values, vectors = np.linalg.eigh((courses.T @ courses / np.float32(len(courses))).astype(np.float64))
    values = np.maximum(values, _LEAST * np.median(values))
    return np.asarray((vectors / np.sqrt(values)) @ vectors.T, np.float32)


def scan_tokens(losses: LossBlocks, whitener: Whitener) -> TokenScan:
    """Every token's best fall and best rise among the whitener's templates."""
    templates = whitener.templates()
    n = losses.n_tokens
    fall, rise = np.full(n, -np.inf, np.float32), np.full(n, -np.inf, np.float32)
    fall_at, rise_at = np.zeros(n, np.int32), np.zeros(n, np.int32)
    for part in losses.parts():
        residuals = whitener.residuals(losses.courses(part))
        scores = residuals @ templates.curves.T
        spike = _SPIKE * np.maximum(residuals.max(axis=1), -residuals.min(axis=1))
        falling, rising = templates.slow_heights(residuals)
        for sign, at, slow, best, found in (
            (-1, scores.argmin(axis=1), falling, fall, fall_at),
            (1, scores.argmax(axis=1), rising, rise, rise_at),
        ):
            value = sign * scores[np.arange(len(at)), at]
            best[part] = np.where(value > spike, quicker_than(value, slow), -np.inf)
            found[part] = at
    return TokenScan(fall, fall_at, rise, rise_at, templates)


def quicker_than(heights: Rows, slow: Rows, better: float = _BETTER) -> Rows:
    """Heights (n, …) of quick movements, -inf where a slow decay's height (n,) explains the token about as well."""
    other = slow.reshape(-1, *[1] * (heights.ndim - 1))
    return np.asarray(np.where(heights**2 > other**2 + better, heights, np.float32(-np.inf)))
