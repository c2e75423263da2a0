"""Every token's own course against sigmoids at every time: which tokens fell, and when.

Separate from the decision what is a change, because this part is arithmetic over the whole matrix: it reads the losses
block by block (twice), needs memory in proportion to tokens, not to checkpoints × tokens, and time linear in both.

A token's losses are taken as: a smooth descent of its own (the leading shapes of all power laws and exponentials), its
share of what all tokens do together (the mean and the median course), and noise. All that is projected out; what is
left is compared with sigmoids that have had the same projected out, in units of the token's own noise. Checkpoints
count by their own noise: early ones are noisier.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from phasewatch.detection.phase_change import IntArray
from phasewatch.detection.transition import LOGIT_90, FloatArray, log_step, split_sigmoid

WIDTHS = (0.08, 0.3, 0.8)  # 10-90 % in log step
_BLOCK = 16_384  # tokens at a time
_SAMPLE = 16_384  # tokens that the common movement is learnt from
_TRIMMED = 0.05  # share of the tokens that are left out of the covariance
_LEAST = 0.3  # of the median variance: the least that any direction is taken to have
_SHRINKAGE = 10.0  # checkpoints' worth of the typical noise mixed into each token's own
_MARGIN = 3  # checkpoints that a change needs on either side
_SPIKE = 0.95  # a token whose largest single deviation beats this share of its fit has a spike, not a level

_BETTER = 9.0  # twice the log likelihood by which a sigmoid has to beat every slow decay

Losses = npt.NDArray[np.floating]


@dataclass(frozen=True)
class Templates:
    """Sigmoids with the nuisance taken out, of unit length: (n_templates, n_steps); their middles and widths."""

    curves: FloatArray
    middles: FloatArray  # log step
    widths: FloatArray
    slow: FloatArray  # (n, n_steps): decays at the pace that any token may have


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

    losses  (n_steps, n_tokens) in nats; only a sample of the tokens is read here
    """

    def __init__(self, losses: Losses, steps: IntArray) -> None:
        self.x = log_step(steps)
        every = max(1, losses.shape[1] // _SAMPLE)
        sample = _filled(losses[:, ::every])
        self.floor = 0.3 * max(float(np.median(_roughness(sample))), 1e-6)
        courses = self._in_units(sample)
        self.typical, self.turn = np.zeros(len(steps)), np.eye(len(steps))
        kept = np.ones(courses.shape[1], dtype=bool)
        for _ in range(3):
            self.typical = courses[:, kept].mean(axis=1)
            self.turn = _inverse_root(courses[:, kept] - self.typical[:, None])
            distance = np.einsum("tn,tn->n", *2 * (self.turn @ (courses - self.typical[:, None]),))
            kept = distance <= np.quantile(distance, 1 - _TRIMMED)
        flat = self.turn @ np.ones(len(steps))
        self.flat = flat / np.linalg.norm(flat)

    def residuals(self, losses: Losses) -> FloatArray:
        """(n_steps, n) of independent departures, in units of each token's own noise."""
        rows = self.turn @ (self._in_units(_filled(losses)) - self.typical[:, None])
        rows -= self.flat[:, None] * (self.flat @ rows)
        power = np.einsum("tn,tn->n", rows, rows)
        free = len(self.x) - 1
        noise = np.sqrt((power + _SHRINKAGE) / (free + _SHRINKAGE))
        return np.asarray(rows / np.maximum(noise, 1.0))

    def curve(self, middle: FloatArray, width: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Sigmoids (n, n_steps) as they look among the residuals, of unit length, and their length before that."""
        scale = width / (2 * LOGIT_90)
        return self._seen(split_sigmoid(self.x, middle, scale, scale))

    def _seen(self, curves: FloatArray) -> tuple[FloatArray, FloatArray]:
        curves = curves @ self.turn.T
        curves = curves - np.outer(curves @ self.flat, self.flat)
        length = np.linalg.norm(curves, axis=1)
        return curves / np.maximum(length, 1e-12)[:, None], length

    def templates(self) -> Templates:
        """Sigmoids at every gap between checkpoints, at all widths that the gap resolves."""
        gaps = (self.x[1:] + self.x[:-1]) / 2
        gaps = gaps[_MARGIN - 1 : len(gaps) - _MARGIN + 1]
        middles, widths = np.tile(gaps, len(WIDTHS)), np.repeat(WIDTHS, len(gaps))
        curves, _ = self.curve(middles, widths)
        slow, _ = self._seen(decays(np.expm1(self.x)))
        return Templates(curves, middles, widths, slow)

    def _in_units(self, rows: FloatArray) -> FloatArray:
        """Courses less their own mean, in units of the noise between neighbouring checkpoints."""
        return np.asarray((rows - rows.mean(axis=0)) / np.maximum(_roughness(rows), self.floor))


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


def _roughness(rows: FloatArray) -> FloatArray:
    """Noise (n,) of courses (n_steps, n), from the median step between checkpoints."""
    return np.asarray(np.median(np.abs(np.diff(rows, axis=0)), axis=0) * 1.4826 / np.sqrt(2))


def _inverse_root(courses: FloatArray) -> FloatArray:
    """The symmetric inverse square root of the courses' covariance between checkpoints."""
    values, vectors = np.linalg.eigh(courses @ courses.T / courses.shape[1])
    values = np.maximum(values, _LEAST * np.median(values))
    return np.asarray((vectors / np.sqrt(values)) @ vectors.T)


def scan_tokens(losses: Losses, whitener: Whitener) -> TokenScan:
    """Every token's best fall and best rise among the whitener's templates."""
    templates = whitener.templates()
    n = losses.shape[1]
    fall, rise = np.full(n, -np.inf, np.float32), np.full(n, -np.inf, np.float32)
    fall_at, rise_at = np.zeros(n, np.int32), np.zeros(n, np.int32)
    for part in blocks(n):
        residuals = whitener.residuals(losses[:, part])
        scores = templates.curves @ residuals
        spike = _SPIKE * np.abs(residuals).max(axis=0)
        slow = templates.slow @ residuals
        for sign, best, at in ((-1.0, fall, fall_at), (1.0, rise, rise_at)):
            place = np.argmax(sign * scores, axis=0)
            value = sign * scores[place, np.arange(len(place))]
            other = np.maximum((sign * slow).max(axis=0), 0.0)
            best[part] = np.where(value > spike, quicker_than(value, other), -np.inf)
            at[part] = place
    return TokenScan(fall, fall_at, rise, rise_at, templates)


def quicker_than(heights: FloatArray, slow: FloatArray, better: float = _BETTER) -> FloatArray:
    """Heights (..., n) of quick movements, -inf where a slow decay's height (n,) explains the token about as well."""
    return np.asarray(np.where(heights**2 > slow**2 + better, heights, -np.inf))


def blocks(n_tokens: int) -> Iterator[slice]:
    """Slices that cover n_tokens."""
    for begin in range(0, n_tokens, _BLOCK):
        yield slice(begin, min(begin + _BLOCK, n_tokens))


def _filled(losses: Losses) -> FloatArray:
    """float64, with each token's own mean where a loss is not finite."""
    rows = losses.astype(np.float64)
    bad = ~np.isfinite(rows)
    if bad.any():
        rows[bad] = 0.0
        counts = np.maximum((~bad).sum(axis=0), 1)
        rows = np.where(bad, rows.sum(axis=0) / counts, rows)
    return rows


def _orthonormal(columns: FloatArray) -> FloatArray:
    """An orthonormal basis of the columns' span; columns already spanned are dropped."""
    left, sizes, _ = np.linalg.svd(columns / np.maximum(np.linalg.norm(columns, axis=0), 1e-12), full_matrices=False)
    return np.asarray(left[:, sizes > 1e-6 * sizes[0]])
