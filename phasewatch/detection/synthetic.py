"""Training runs made up with known truth, and changes planted into recorded ones: what detectors are judged on.

Separate and seeded, so that anyone can judge their own detector on the same runs. Losses are in nats, steps are
optimizer steps completed, and a change's width is its 10-90 % width in log step (`transition.log_step`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from phasewatch.detection.phase_change import IntArray
from phasewatch.detection.transition import LOGIT_90, FloatArray, log_step, to_step
from phasewatch.errors import InvalidInput

DECAYS = ("power", "exponential", "mixed")


@dataclass(frozen=True, eq=False)
class Planted:
    """A change put into a run: `tokens` move by `size` nats (negative: a drop), half way at `step`."""

    tokens: IntArray
    step: int
    width: float  # 10-90 %, log steps
    size: float

    @property
    def start_step(self) -> int:
        return round(to_step(float(np.log1p(self.step)) - self.width / 2))

    @property
    def end_step(self) -> int:
        return round(to_step(float(np.log1p(self.step)) + self.width / 2))

    def curve(self, steps: npt.ArrayLike) -> FloatArray:
        """What is added to the losses of its tokens, (n_steps,)."""
        distance = (log_step(steps) - np.log1p(self.step)) * 2 * LOGIT_90 / self.width
        answer: FloatArray = self.size / (1 + np.exp(-np.clip(distance, -60, 60)))
        return answer


@dataclass(frozen=True, eq=False)
class SyntheticRun:
    """losses (n_steps, n_tokens) float32, documents (n_tokens,), targets (n_tokens, 2): (previous, target) ids."""

    steps: IntArray
    losses: npt.NDArray[np.float32]
    documents: IntArray
    targets: IntArray
    planted: tuple[Planted, ...]


def make_steps(n_steps: int, last_step: int) -> IntArray:
    """`n_steps` distinct steps from 0 to `last_step`, evenly spaced in log step as far as whole numbers allow."""
    if not 2 <= n_steps <= last_step + 1:
        raise InvalidInput(f"{n_steps} checkpoints do not fit into steps 0 to {last_step}")
    wanted = np.expm1(np.linspace(0.0, np.log1p(last_step), n_steps))
    steps = np.maximum(np.round(wanted).astype(np.int64), np.arange(n_steps))
    for i in range(1, n_steps):
        steps[i] = max(steps[i], steps[i - 1] + 1)
    steps[-1] = max(last_step, int(steps[-2]) + 1)
    return steps


def make_run(
    seed: int,
    *,
    n_tokens: int = 20_000,
    n_steps: int = 200,
    last_step: int = 10_000,
    decay: str = "mixed",
    noise: float = 0.15,
    common_noise: float = 0.02,
    persistence: float = 0.0,
    tail: float | None = None,
    warm_up: int = 0,
    document_length: int = 127,
    planted: Sequence[Planted] = (),
) -> SyntheticRun:
    """A run whose tokens descend smoothly, each at its own pace, with changes planted into some.

    decay         "power", "exponential" or "mixed": the family of every token's own descent
    noise         standard deviation of each token's noise, in nats
    common_noise  standard deviation of the movement that all tokens of a checkpoint share, each by its own share
    persistence   autocorrelation of the common noise between checkpoints
    tail          degrees of freedom of the tokens' noise (Student's t, scaled to `noise`); None is Gaussian
    warm_up       steps during which the pace grows linearly
    """
    if decay not in DECAYS:
        raise InvalidInput(f"decay is {decay!r}, must be one of {', '.join(DECAYS)}")
    rng = np.random.default_rng(seed)
    steps = make_steps(n_steps, last_step)
    losses = _descents(rng, _paced(steps, warm_up), n_tokens, decay)
    losses += _token_noise(rng, losses.shape, noise, tail)
    shared = np.zeros(n_steps)
    for i, push in enumerate(rng.normal(0, 1, n_steps)):
        shared[i] = push if i == 0 else persistence * shared[i - 1] + np.sqrt(1 - persistence**2) * push
    losses += (common_noise * shared[:, None] * rng.gamma(4, 0.25, n_tokens)).astype(np.float32)
    for change in planted:
        losses[:, change.tokens] += change.curve(steps).astype(np.float32)[:, None]
    documents = np.arange(n_tokens) // document_length
    targets = rng.zipf(1.3, (n_tokens, 2)) % 500
    return SyntheticRun(steps, losses, documents, targets, tuple(planted))


def plant(
    losses: npt.NDArray[np.floating], steps: npt.ArrayLike, tokens: npt.ArrayLike, step: int, width: float, size: float
) -> npt.NDArray[np.float32]:
    """A copy of recorded `losses` (n_steps, n_tokens) whose `tokens` drop by `size` nats, half way at `step`."""
    change = Planted(np.asarray(tokens, dtype=np.int64), step, width, -size)
    answer = np.array(losses, dtype=np.float32)
    answer[:, change.tokens] += change.curve(steps).astype(np.float32)[:, None]
    return answer


def _paced(steps: IntArray, warm_up: int) -> FloatArray:
    """Steps at full pace that do as much as `steps` with a warm-up."""
    t = steps.astype(np.float64)
    return np.asarray(np.where(t < warm_up, t**2 / (2 * max(warm_up, 1)), t - warm_up / 2))


def _descents(rng: np.random.Generator, t: FloatArray, n_tokens: int, decay: str) -> npt.NDArray[np.float32]:
    floor = rng.gamma(2.0, 1.0, n_tokens)
    height = rng.gamma(4.0, 0.8, n_tokens)
    scale = np.exp(rng.normal(np.log(max(t[-1], 1) / 300), 1.0, n_tokens))
    is_power = {"power": 1.0, "exponential": 0.0, "mixed": 0.5}[decay] > rng.random(n_tokens)
    exponent = rng.uniform(0.3, 1.0, n_tokens)
    answer = np.empty((len(t), n_tokens), dtype=np.float32)
    for i, at in enumerate(t):
        power = (1 + at / scale) ** -exponent
        answer[i] = floor + height * np.where(is_power, power, np.exp(-at / (3 * scale)))
    return answer


def _token_noise(
    rng: np.random.Generator, shape: tuple[int, int], noise: float, tail: float | None
) -> npt.NDArray[np.float32]:
    if tail is None:
        return np.asarray(rng.standard_normal(shape, dtype=np.float32) * np.float32(noise))
    if tail <= 2:
        raise InvalidInput(f"tail is {tail}: Student's t needs more than 2 degrees of freedom to have a variance")
    return np.asarray(rng.standard_t(tail, shape) * noise * np.sqrt((tail - 2) / tail), dtype=np.float32)
