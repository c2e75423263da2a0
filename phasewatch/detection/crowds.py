"""Crowds: times at which far more tokens fall than at the run's other times.

Separate from what is made of them, because this is the null of hidden changes. A single token's fall proves nothing
among tens of thousands; many at one time do. How many are many is calibrated on the run itself: the counts at its other
times give the background and its scatter, which holds whatever makes this run's tokens move together. Tokens of one
document, or of one (previous, target) pair, count with the square root of their number: they are not independent
witnesses.

Tokens of one kind, those that share their target or the token before them, are looked at kind by kind as well: a few
dozen that fall together are nothing beside all tokens and much within their kind. Such a crowd is measured by what its
kind does at other times, and only looked for once the run is calm: tokens of one kind are what a first descent learns.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from math import erfc, sqrt

import numpy as np
import numpy.typing as npt

from phasewatch.detection.phase_change import IntArray
from phasewatch.detection.stage import MIN_TOKENS, Stage
from phasewatch.detection.token_scan import TokenScan
from phasewatch.detection.transition import FloatArray

BoolArray = npt.NDArray[np.bool_]

HEIGHTS = (4.0, 5.0, 6.0, 7.5)  # standard errors from which a token is a witness; higher ones have less background
REACHES = (0.06, 0.15, 0.35)  # log steps on either side of a time within which witnesses count together
MIN_KIND = 100  # tokens of a kind that is looked at by itself
_MIN_SCORE = 6.0  # standard deviations of the square-root count over its background
_AROUND = 25  # gaps between checkpoints on either side that give the background
_FEWEST_CALM = 10  # times that the scatter of counts can be read off


@dataclass(frozen=True)
class Crowd:
    """A time with more witnesses than its background; `score` in standard deviations.

    kind  (n,) every token of the kind whose crowd it is; None for a crowd among all tokens
    """

    middle: float
    reach: float
    score: float
    tokens: IntArray
    kind: IntArray | None = None


@dataclass(frozen=True)
class _Fallen:
    """The tokens that fall by at least some height, and when; what is to be expected in each gap (n_gaps,)."""

    tokens: IntArray
    at: IntArray  # the gap of each
    counts: FloatArray
    background: FloatArray
    scatter: float


@dataclass(frozen=True, eq=False)
class Crowds:
    """Every crowd of one scan.

    owners  (n_tokens,) each: tokens with the same owner are not independent witnesses
    kinds   (n_tokens,) each: labels of tokens that are looked at kind by kind as well
    """

    scan: TokenScan
    stage: Stage
    owners: tuple[IntArray, ...] = ()
    kinds: tuple[IntArray, ...] = ()
    taken: list[tuple[float, float]] = field(default_factory=list)  # (log step, reach) where nothing is looked for

    @cached_property
    def middles(self) -> FloatArray:
        """(n_gaps,) log steps between checkpoints at which tokens can fall."""
        return np.unique(self.scan.templates.middles)

    @property
    def n_looked(self) -> int:
        """Times, reaches, heights and kinds that are looked at."""
        times = max(1, int((self.middles > self.stage.settled).sum()))
        return times * len(REACHES) * len(HEIGHTS) * (1 + sum(len(names) for names, _ in self._kinds))

    def q_value(self, crowd: Crowd) -> float:
        """Bonferroni over everything that is looked at."""
        return min(1.0, self.n_looked * erfc(crowd.score / sqrt(2)) / 2)

    def largest(self) -> Crowd | None:
        """The most surprising crowd among all tokens, away from the times taken; where there is none, of one kind."""
        best: Crowd | None = None
        for fallen in self._fallen:
            best = self._among_all(fallen, best)
        if best is not None:
            return best
        for fallen in self._fallen:
            for names, kind in self._kinds:
                best = self._of_a_kind(fallen, names, kind, best)
        return best

    @cached_property
    def _fallen(self) -> list[_Fallen]:
        return [self._falling_by(height) for height in HEIGHTS]

    def _falling_by(self, height: float) -> _Fallen:
        scan, at = self.scan, self.scan.templates.middles
        falls = np.flatnonzero(scan.fall > height)
        fall_at = np.searchsorted(self.middles, at[scan.fall_template[falls]])
        rises = np.searchsorted(self.middles, at[scan.rise_template[scan.rise > height]])
        n = len(self.middles)
        counts, mirrored = (np.bincount(gaps, minlength=n).astype(np.float64) for gaps in (fall_at, rises))
        background = _background(counts, mirrored)
        calm = self.middles > self.stage.calm
        rest = calm if calm.sum() >= _FEWEST_CALM else slice(None)
        return _Fallen(falls, fall_at, counts, background, _scatter(counts[rest], background[rest]))

    @cached_property
    def _kinds(self) -> list[tuple[IntArray, IntArray]]:
        """Of every way to sort tokens the kinds with enough of them, and (n_tokens,) the rank of each, or -1."""
        answer = []
        for labels in self.kinds:
            _, rank, counts = np.unique(labels, return_inverse=True, return_counts=True)
            names = np.flatnonzero(counts >= MIN_KIND)
            ranks = np.full(len(counts), -1)
            ranks[names] = np.arange(len(names))
            answer.append((names, ranks[rank.ravel()]))
        return answer

    def _open(self) -> BoolArray:
        open_times: BoolArray = self.middles > self.stage.settled
        for at, width in self.taken:
            open_times &= np.abs(self.middles - at) > width
        return open_times

    def _near(self, reach: float) -> BoolArray:
        near: BoolArray = np.abs(self.middles[:, None] - self.middles) <= reach
        return near

    def _among_all(self, fallen: _Fallen, best: Crowd | None) -> Crowd | None:
        """The most surprising crowd of any tokens, or `best` where none is more so."""
        open_times, fewest = self._open(), self.stage.fewest(self.middles, len(self.scan.fall))
        for reach in REACHES:
            near = self._near(reach)
            total = near @ fallen.counts
            expected = np.maximum(near @ fallen.background, self._early_rival(total, 2 * reach))
            scores = np.where(open_times & (total >= fewest), _score(total, expected) / fallen.scatter, -np.inf)
            for i in np.argsort(-scores):
                if scores[i] < _least(best):
                    break  # and with owners it would be less
                tokens = fallen.tokens[near[i, fallen.at]]
                witnesses = self._independent(tokens)
                score = float(_score(np.float64(witnesses), expected[i])) / fallen.scatter
                if witnesses >= MIN_TOKENS and score >= _least(best):
                    best = Crowd(float(self.middles[i]), reach, score, tokens)
        return best

    def _of_a_kind(self, fallen: _Fallen, names: IntArray, kind: IntArray, best: Crowd | None) -> Crowd | None:
        """The same of tokens of one kind, beside what their kind does at other times."""
        of = kind[fallen.tokens]
        numbers = np.bincount(of[of >= 0], minlength=len(names))
        chosen = np.flatnonzero(numbers >= MIN_TOKENS)
        if not len(chosen):
            return best
        counts = np.zeros((len(chosen), len(self.middles)))
        inside = np.isin(of, chosen)
        np.add.at(counts, (np.searchsorted(chosen, of[inside]), fallen.at[inside]), 1)
        share = np.bincount(kind[kind >= 0], minlength=len(names))[chosen] / len(kind)
        open_times = self._open() & (self.middles > self.stage.calm)
        for reach in REACHES:
            near = self._near(reach)
            total, expected = counts @ near, np.outer(share, near @ fallen.background)
            away = _score(total, expected)
            scores = np.where(open_times & (total >= MIN_TOKENS), away, -np.inf)
            for place in np.argsort(-scores, axis=None):
                row, i = np.unravel_index(place, scores.shape)
                if scores[row, i] < _least(best):
                    break
                tokens = fallen.tokens[near[i, fallen.at] & (of == chosen[row])]
                witnesses = self._independent(tokens)
                own = self._own_scatter(away[row], float(self.middles[i]), 2 * reach)
                score = float(_score(np.float64(witnesses), expected[row, i])) / own
                if witnesses >= MIN_TOKENS and score >= _least(best):
                    members = np.flatnonzero(kind == chosen[row])
                    best = Crowd(float(self.middles[i]), reach, score, tokens, members)
        return best

    def _own_scatter(self, scores: FloatArray, middle: float, apart: float) -> float:
        """How far the root counts (n_gaps,) of a kind lie from their background at other, calm times; at least 1."""
        away = (np.abs(self.middles - middle) > apart + 0.3) & (self.middles > self.stage.calm)
        return max(1.0, float(np.sqrt((scores[away] ** 2).mean()))) if away.any() else 1.0

    def _early_rival(self, total: FloatArray, apart: float) -> FloatArray:
        """(n_gaps,): before the run is calm the largest crowd of any other such time, to stand out from; else 0."""
        early = self.middles < self.stage.calm
        rivals = early & (np.abs(self.middles[:, None] - self.middles) > apart)
        return np.where(early, np.where(rivals, total, 0.0).max(axis=1), 0.0)

    def _independent(self, tokens: IntArray) -> float:
        """How many independent witnesses `tokens` are: those that share an owner count as their root."""
        number = float(len(tokens))
        for owner in self.owners:
            if len(tokens):
                _, sizes = np.unique(owner[tokens], return_counts=True)
                number = min(number, float(np.sqrt(sizes).sum()))
        return number


def _least(best: Crowd | None) -> float:
    return _MIN_SCORE if best is None else max(_MIN_SCORE, best.score)


def _score(count: FloatArray | np.float64, expected: FloatArray | np.float64) -> FloatArray:
    """How far a count lies above what is expected, in standard deviations of a Poisson count."""
    return np.asarray(2 * (np.sqrt(count + 0.375) - np.sqrt(expected + 0.375)))


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
    away = np.sort(np.abs(_score(counts, background)))
    return max(1.0, float(away[4 * (len(away) - 1) // 5]) / 1.28)
