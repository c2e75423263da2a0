"""What a measure gives back, and the interval that goes with it.

Apart from the measures, because storage, the recorder and reports need the values and none of the mathematics.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from phasewatch.errors import InvalidInput

Floats = NDArray[np.float64]

N_RESAMPLES = 1000
_TAIL = 0.025


@dataclass(frozen=True, eq=False)
class Measurement:
    """One measure of one checkpoint.

    values (…) in the measure's unit; chance, the value without the ability measured, where there is one; interval
    (2, …), low and high, 95 % by bootstrap over sequences (NaN with a single sequence), where sequences are averaged.
    """

    values: Floats
    chance: float | None = None
    interval: Floats | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "values", np.asarray(self.values, dtype=np.float64))
        if self.interval is None:
            return
        object.__setattr__(self, "interval", np.asarray(self.interval, dtype=np.float64))
        if self.interval.shape != (2, *self.values.shape):
            raise InvalidInput(f"interval of shape {self.interval.shape} for values of shape {self.values.shape}")

    @property
    def excess(self) -> Floats:
        """Values above chance, (…). Raises InvalidInput where the measure has no chance level."""
        if self.chance is None:
            raise InvalidInput("this measure has no chance level, so no excess over it; use its values")
        return self.values - self.chance


@dataclass(frozen=True, eq=False)
class HeadScores(Measurement):
    """A score of every head: values (n_layers, n_heads), chance, interval (2, n_layers, n_heads).

    Layers are numbered in the order of their attention in the forward pass; where layers have different numbers of
    heads the missing ones are NaN.
    """


def bootstrap_mean(values: ArrayLike, counts: ArrayLike | None = None, *, seed: int = 0) -> tuple[Floats, Floats]:
    """The mean over sequences, (…), and its 95 % interval, (2, …).

    values (n_sequences, …) are sums over each sequence of counts (n_sequences,) entries, by default one each; the mean
    is Σ values / Σ counts, NaN where there is no entry or one is not finite.
    """
    sums = np.asarray(values, dtype=np.float64)
    flat = sums.reshape(len(sums), -1)
    entries = np.ones(len(sums)) if counts is None else np.asarray(counts, dtype=np.float64)

    def mean(weights: Floats) -> Floats:
        return (weights @ flat) / (weights @ entries)[:, None]

    value, interval = bootstrap(mean, len(sums), seed=seed)
    return value.reshape(sums.shape[1:]), interval.reshape(2, *sums.shape[1:])


def bootstrap(statistic: Callable[[Floats], Floats], n_sequences: int, *, seed: int = 0) -> tuple[Floats, Floats]:
    """A statistic over sequences, (…), and its 95 % interval, (2, …), by percentile bootstrap over whole sequences.

    statistic takes weights (n, n_sequences), how often each of n samples holds each sequence, and gives (n, …). Samples
    it is NaN for are left out. The interval is NaN for a single sequence, which says nothing about others.
    """
    value = _finite_or_nan(statistic, np.ones((1, n_sequences)))[0]
    if n_sequences < 2:
        return value, np.full((2, *value.shape), np.nan)
    resampled = _finite_or_nan(statistic, _resamples(n_sequences, seed))
    usable = resampled[~np.isnan(resampled).reshape(N_RESAMPLES, -1).all(axis=1)]
    if not len(usable):
        return value, np.full((2, *value.shape), np.nan)
    return value, np.quantile(usable, [_TAIL, 1 - _TAIL], axis=0)


def _finite_or_nan(statistic: Callable[[Floats], Floats], weights: Floats) -> Floats:
    """The statistic of each sample, NaN instead of infinity."""
    with np.errstate(invalid="ignore", divide="ignore"):
        found = statistic(weights)
    return np.where(np.isfinite(found), found, np.nan)


@lru_cache(maxsize=2)  # the slices of a probe set have two sizes, and are asked for at every checkpoint
def _resamples(n_sequences: int, seed: int) -> Floats:
    """How often each resample holds each sequence, (N_RESAMPLES, n_sequences)."""
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(n_sequences, np.full(n_sequences, 1 / n_sequences), size=N_RESAMPLES).astype(np.float64)
    drawn.setflags(write=False)
    return drawn
