"""When a series went from one level to another: a sigmoid in log step, by least squares, with profile intervals.

Separate from the detectors because all of them ask the same question of different series. The two halves of the
sigmoid have widths of their own: a head's score leaves its level quickly and settles slowly. The middle and the widths
are searched on grids, and everything linear (levels, nuisance columns) is solved exactly for each grid point, so that
the profile likelihood is at hand: the interval of the start is the range of starts among all grid points whose
likelihood the data do not reject.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]

LOGIT_90 = float(np.log(9.0))  # a logistic curve is at 10 and 90 % this many scales from its middle
_LIMIT_95 = 4.3  # chi-square of one degree of freedom, 3.84, and a little for what the noise is estimated from
_BLOCK = 2_000_000  # grid values held at a time


@dataclass(frozen=True)
class Transition:
    """A fitted sigmoid; every position is in log step (`log_step`)."""

    before: float
    after: float
    middle: float
    left: float  # logistic scale of the half before the middle
    right: float
    rss: float
    noise: float  # standard deviation of the residuals
    gain: float  # log likelihood gained over no transition, for correlated noise
    start_interval: tuple[float, float]
    middle_interval: tuple[float, float]
    end_interval: tuple[float, float]

    @property
    def start(self) -> float:
        return self.middle - LOGIT_90 * self.left

    @property
    def end(self) -> float:
        return self.middle + LOGIT_90 * self.right

    @property
    def height(self) -> float:
        return self.after - self.before

    def curve(self, x: FloatArray) -> FloatArray:
        """The share of the way at log steps `x`, from 0 to 1."""
        curves = split_sigmoid(x, np.array([self.middle]), np.array([self.left]), np.array([self.right]))
        return curves.ravel()


def log_step(steps: npt.ArrayLike) -> FloatArray:
    """Natural logarithm of step + 1: step 0 has a place, and later steps hardly notice."""
    answer: FloatArray = np.log1p(np.asarray(steps, dtype=np.float64))
    return answer


def to_step(x: float) -> float:
    """The step of a log step."""
    return float(np.expm1(x))


def split_sigmoid(x: FloatArray, middle: FloatArray, left: FloatArray, right: FloatArray) -> FloatArray:
    """Sigmoids at `x` (n,) for parameters (g,): an array (g, n). Both halves are 0.5 at the middle."""
    distance = x[None, :] - middle[:, None]
    scale = np.where(distance < 0, left[:, None], right[:, None])
    return 1.0 / (1.0 + np.exp(-np.clip(distance / scale, -60.0, 60.0)))


def correlation(residuals: FloatArray) -> float:
    """Autocorrelation of neighbouring residuals, kept between 0 and 0.9."""
    power = float(np.sum(residuals**2))
    if len(residuals) < 3 or power == 0.0:
        return 0.0
    return float(np.clip(np.sum(residuals[1:] * residuals[:-1]) / power, 0.0, 0.9))


def spacing(x: FloatArray, at: float) -> float:
    """Distance between the checkpoints around log step `at`."""
    right = int(np.clip(np.searchsorted(x, at), 1, len(x) - 1))
    return float(x[right] - x[right - 1])


class _Search:
    """Residual sums of squares of y on [base, sigmoid] over a grid of sigmoids."""

    def __init__(self, x: FloatArray, y: FloatArray, base: FloatArray, sign: int, ceiling: float) -> None:
        self.x, self.sign, self.ceiling = x, sign, ceiling
        self.q = np.linalg.qr(base)[0]
        self.y = y - self.q @ (self.q.T @ y)
        self.total = float(self.y @ self.y)

    def rss(self, middle: FloatArray, left: FloatArray, right: FloatArray) -> FloatArray:
        """(g,) for parameters (g,); sigmoids of the wrong direction keep the sum without them."""
        answer = np.empty(len(middle))
        step = max(1, _BLOCK // len(self.x))
        for begin in range(0, len(middle), step):
            part = slice(begin, begin + step)
            curves = split_sigmoid(self.x, middle[part], left[part], right[part])
            curves -= (curves @ self.q) @ self.q.T
            power = np.maximum(np.einsum("gn,gn->g", curves, curves), 1e-12)
            score = curves @ self.y
            low, high = (0.0 if self.sign > 0 else -self.ceiling), (0.0 if self.sign < 0 else self.ceiling)
            height = np.where(power > 1e-9, np.clip(score / power, low, high), 0.0)
            answer[part] = self.total - height * (2 * score - height * power)
        return np.maximum(answer, 0.0)


def fit_transition(
    x: FloatArray,
    y: FloatArray,
    *,
    base: FloatArray | None = None,
    sign: int = 0,
    middles: tuple[float, float] | None = None,
    widths: tuple[float, float] = (0.02, 3.0),
    noise: float = 0.0,
    ceiling: float = np.inf,
) -> Transition:
    """Fit before + height · sigmoid (+ nuisance columns) to `y` (n,) at log steps `x` (n,), both finite.

    base     (n, p) nuisance columns; a constant is always among them
    sign     1 allows rises only, -1 drops only, 0 both
    middles  the range searched for the middle, in log step; by default that of `x`
    widths   the range of 10-90 % widths, in log step
    ceiling  the greatest height in absolute value: what has been seen, where nothing beyond it shall be guessed
    noise    a floor for the standard deviation of the noise, so that a noiseless series has finite likelihoods
    """
    columns = np.ones((len(x), 1)) if base is None else np.column_stack([np.ones(len(x)), base])
    search = _Search(x, y, columns, sign, ceiling)
    low, high = middles if middles is not None else (float(x[0]), float(x[-1]))
    scale_low, scale_high = (max(w, 1e-3) / (2 * LOGIT_90) for w in widths)
    grid = _grid(np.linspace(low, high, 60), np.geomspace(scale_low, scale_high, 12), symmetric=True)
    best, _ = _best(search, grid)
    for reach in (2.0, 1.25, 1.06):
        grid = _around(best, reach, (low, high), (scale_low, scale_high))
        best, rss = _best(search, grid)
    return _summarise(search, columns, y, best, rss, (low, high), (scale_low, scale_high), noise)


def _grid(middles: FloatArray, scales: FloatArray, *, symmetric: bool) -> FloatArray:
    """Parameters (g, 3): middle, left, right."""
    if symmetric:
        pairs = np.column_stack([scales, scales])
    else:
        pairs = np.column_stack([np.repeat(scales, len(scales)), np.tile(scales, len(scales))])
    return np.column_stack([np.repeat(middles, len(pairs)), np.tile(pairs, (len(middles), 1))])


def _around(best: FloatArray, reach: float, middles: tuple[float, float], scales: tuple[float, float]) -> FloatArray:
    near = best[0] + np.linspace(-1, 1, 13) * (best[1] + best[2]) * np.log(reach) * 2
    factors = np.geomspace(1 / reach**2, reach**2, 9)
    left, right = (np.clip(best[i] * factors, *scales) for i in (1, 2))
    pairs = np.column_stack([np.repeat(left, 9), np.tile(right, 9)])
    return np.column_stack([np.repeat(np.clip(near, *middles), 81), np.tile(pairs, (13, 1))])


def _best(search: _Search, grid: FloatArray) -> tuple[FloatArray, float]:
    rss = search.rss(grid[:, 0], grid[:, 1], grid[:, 2])
    place = int(np.argmin(rss))
    return grid[place], float(rss[place])


def _summarise(
    search: _Search,
    columns: FloatArray,
    y: FloatArray,
    best: FloatArray,
    rss: float,
    middles: tuple[float, float],
    scales: tuple[float, float],
    noise: float,
) -> Transition:
    n, x = len(y), search.x
    curve = split_sigmoid(x, best[:1], best[1:2], best[2:3])[0]
    design = np.column_stack([columns, curve])
    coefficients = np.linalg.lstsq(design, y, rcond=None)[0]
    height = float(coefficients[-1])
    if abs(height) > search.ceiling or height * search.sign < 0:
        height = search.ceiling * float(np.sign(height)) if height * search.sign >= 0 else 0.0
        rest = np.linalg.lstsq(columns, y - height * curve, rcond=None)[0]
        coefficients = np.append(rest, height)
    residuals = y - design @ coefficients
    free = max(n - design.shape[1] - 3, 1)
    variance = max(rss / free, noise**2, 1e-24)
    rho = correlation(residuals)
    rho = min(rho + (1 + 4 * rho) / n, 0.9)  # what fitting and a short series take from it
    inflation = (1 + rho) / (1 - rho)
    gain = (search.total - rss) / (2 * variance * inflation)
    grid = _profile_grid(x, best, middles, scales)
    kept = grid[search.rss(grid[:, 0], grid[:, 1], grid[:, 2]) <= rss + _LIMIT_95 * variance * inflation]
    kept = np.vstack([kept, best])
    before = float(coefficients[0])
    return Transition(
        before=before,
        after=before + float(coefficients[-1]),
        middle=float(best[0]),
        left=float(best[1]),
        right=float(best[2]),
        rss=rss,
        noise=float(np.sqrt(variance)),
        gain=float(gain),
        start_interval=_range(kept[:, 0] - LOGIT_90 * kept[:, 1]),
        middle_interval=_range(kept[:, 0]),
        end_interval=_range(kept[:, 0] + LOGIT_90 * kept[:, 2]),
    )


def _profile_grid(
    x: FloatArray, best: FloatArray, middles: tuple[float, float], scales: tuple[float, float]
) -> FloatArray:
    """A wide and a narrow grid around the best fit: the narrow one resolves sharp likelihoods."""
    wide = _grid(np.linspace(*middles, 40), np.geomspace(*scales, 12), symmetric=False)
    reach = (best[1] + best[2]) * LOGIT_90 + spacing(x, float(best[0]))
    near = np.clip(best[0] + np.linspace(-0.5, 0.5, 41) * reach, *middles)
    factors = np.geomspace(0.3, 3.0, 11)
    left, right = (np.clip(best[i] * factors, *scales) for i in (1, 2))
    pairs = np.column_stack([np.repeat(left, 11), np.tile(right, 11)])
    return np.vstack([wide, np.column_stack([np.repeat(near, 121), np.tile(pairs, (41, 1))])])


def _range(values: FloatArray) -> tuple[float, float]:
    return float(values.min()), float(values.max())
