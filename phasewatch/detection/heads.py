"""Which attention heads rose, and when: the head part of the induction verdict.

Separate from the verdict because it looks at head scores alone. A head counts when its score rises by at least 0.1 over
chance, quickly in log step; its time is that of a sigmoid fitted to the part of its history before it declines again.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from phasewatch.detection.phase_change import IntArray
from phasewatch.detection.prepare import MIN_CHECKPOINTS
from phasewatch.detection.timing import Timing, place
from phasewatch.detection.transition import FloatArray, Transition, fit_transition, log_step

MIN_RISE = 0.1  # over chance; MEASURES.md section 8
MIN_GAIN = 12.0  # log likelihood over a flat line
MAX_WIDTH = 3.0  # 10-90 %, in log step: slower than that is the run's own pace
_REST = 0.15  # of its own duration in log step: a rise that has stayed up so long is over
_GOES_ON = 0.4  # of its own pace: a rise that still has it is not
_DECLINED = 0.6  # a head that has lost more than 40 % of its rise has begun another story


@dataclass(frozen=True)
class RisingHead:
    """A head whose score rose; `fit` in log step."""

    measure: str
    layer: int
    head: int
    rise: float
    fit: Transition
    timing: Timing

    @property
    def name(self) -> str:
        return f"{self.measure}:L{self.layer}H{self.head}"


def rising_heads(
    measure: str, scores: npt.NDArray[np.floating], steps: IntArray, chance: float | None
) -> list[RisingHead]:
    """The heads of `scores` (n_steps, n_layers, n_heads) that rose, the largest rise first; NaN is left out.

    chance  the score under uniform attention; None takes each head's own level at the first checkpoints
    """
    found = []
    for layer in range(scores.shape[1]):
        for head in range(scores.shape[2]):
            values = scores[:, layer, head].astype(np.float64)
            keep = np.isfinite(values)
            rising = _rising(values[keep], steps[keep], chance) if keep.sum() >= MIN_CHECKPOINTS else None
            if rising is not None:
                rise, fit, timing = rising
                found.append(RisingHead(measure, layer, head, rise, fit, timing))
    return sorted(found, key=lambda head: -head.rise)


def _rising(values: FloatArray, steps: IntArray, chance: float | None) -> tuple[float, Transition, Timing] | None:
    level = float(np.median(values[:3])) if chance is None else chance
    smooth = _running_median(values)
    peak = int(np.argmax(smooth))
    if smooth[peak] - level < MIN_RISE or smooth[peak] - smooth[: peak + 1].min() < MIN_RISE:
        return None
    end = _until_decline(smooth, peak, level)
    values, steps = values[:end], steps[:end]
    x = log_step(steps)
    seen = float(np.ptp(smooth[:end]))
    fit = fit_transition(x, values, sign=1, widths=(0.02, 2 * MAX_WIDTH), noise=1e-4, ceiling=seen)
    timing = place(fit, steps, moving=_is_rising(fit, x, values))
    rise = fit.height
    slow = timing.end_step is not None and fit.end - fit.start > MAX_WIDTH
    if slow or fit.gain < MIN_GAIN or rise < MIN_RISE or fit.before + rise - level < MIN_RISE:
        return None
    return rise, fit, timing


def _is_rising(fit: Transition, x: FloatArray, values: FloatArray) -> bool:
    """Whether the score has neither stayed up for a while nor stopped rising since the fitted end."""
    duration = fit.end - fit.start
    if x[-1] >= fit.end + _REST * duration:
        return False
    last = x >= min(fit.end, x[-4])
    slope = float(np.polyfit(x[last], values[last], 1)[0])
    return slope > _GOES_ON * 0.8 * fit.height / duration


def _running_median(values: FloatArray) -> FloatArray:
    padded = np.concatenate([values[:1], values, values[-1:]])
    return np.asarray(np.median(np.stack([padded[:-2], padded[1:-1], padded[2:]]), axis=0))


def _until_decline(smooth: FloatArray, peak: int, level: float) -> int:
    """How many checkpoints to keep: up to where the score has lost a good part of its rise for good."""
    low = level + _DECLINED * (smooth[peak] - level)
    above = np.flatnonzero(smooth >= low)
    declined = above[-1] + 1 < len(smooth) - 2
    return int(above[-1]) + 1 if declined else len(smooth)
