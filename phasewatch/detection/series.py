"""Changes of one series: the mean loss, a whole-model measure, a head's score.

Separate from the loss matrix because a series has no tokens to borrow strength from: what is not clearly quicker than
the run's own pace is not reported. Sigmoids are added to the smooth course one at a time, the most telling first, and
kept while each is likely, large against the noise and quicker than the course it stands on. A sigmoid describes one
change however many checkpoints sample it, so twice as many checkpoints do not give more changes.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from phasewatch.detection.pace import decay_family, pace_columns
from phasewatch.detection.phase_change import Changes, IntArray, PhaseChange
from phasewatch.detection.prepare import MIN_CHECKPOINTS, check_series, check_steps, finite_part
from phasewatch.detection.spikes import remove_spikes
from phasewatch.detection.timing import place
from phasewatch.detection.transition import FloatArray, Transition, correlation, fit_transition, log_step, spacing

MAX_WIDTH = 2.0  # 10-90 % in log step; an exponential decay, the quickest smooth course, has 3.1
MAX_CHANGES = 6
_MIN_GAIN = 15.0  # log likelihood: about one false change in 10,000 series for the positions and widths searched
_MIN_HEIGHT = 4.0  # standard deviations of the noise
_MIN_SPEED = 1.0  # times the speed of the course at the same place


def find_series_changes(
    values: npt.ArrayLike,
    steps: npt.ArrayLike,
    *,
    unit: str = "nats",
    name: str = "series",
    min_effect: float = 0.0,
) -> Changes:
    """Changes of level, bumps, spikes and divergence of a series.

    values      (n_steps,), NaN and infinity are left out and said in `notes`
    steps       (n_steps,) optimizer steps, increasing
    min_effect  smaller changes are not reported, in `unit`

    Fewer than eight finite checkpoints give an empty list whose `notes` say so. Raises InvalidInput for wrong shapes
    and steps that do not increase.
    """
    at = check_steps(steps)
    kept, at, notes = finite_part(check_series(values, at, name), at, name)
    if len(kept) < MIN_CHECKPOINTS:
        notes.append(f"{name}: {len(kept)} finite checkpoints, a change needs at least {MIN_CHECKPOINTS}")
        return Changes(notes=notes)
    spikes, kept, at = remove_spikes(kept, at, unit=unit, name=name)
    if len(kept) < MIN_CHECKPOINTS or float(np.ptp(kept)) == 0.0:
        return Changes(spikes, notes)
    found = [change for change in _levels(kept, at, unit, name) if change.effect >= min_effect]
    return Changes(sorted([*spikes, *_join_bumps(found)], key=lambda change: change.step), notes)


def _levels(values: FloatArray, steps: IntArray, unit: str, name: str) -> list[PhaseChange]:
    accepted: list[Transition] = []
    family = decay_family(steps)
    while len(accepted) < MAX_CHANGES:
        candidate = _next(values, steps, family, accepted)
        if candidate is None:
            break
        accepted = _refit(values, steps, family, [*accepted, candidate])
    return [_change(fit, steps, unit, name) for fit in sorted(accepted, key=lambda fit: fit.middle)]


def _fit_one(
    values: FloatArray, steps: IntArray, family: FloatArray, others: FloatArray
) -> tuple[Transition, FloatArray]:
    """The best sigmoid beside `others` (n_steps, k) and a smooth course chosen together with it."""
    x = log_step(steps)
    widths = (0.25 * float(np.diff(x).min()), MAX_WIDTH)
    course = pace_columns(values, steps, family, others)
    for _ in range(2):
        base = np.column_stack([course, others])
        fit = fit_transition(x, values, base=base, widths=widths, middles=_inner(x))
        course = pace_columns(values, steps, family, np.column_stack([others, fit.curve(x)]))
    return fit, np.column_stack([course, others])


def _inner(x: FloatArray) -> tuple[float, float]:
    """Middles that leave at least two checkpoints on either side."""
    return float(x[1] + x[2]) / 2, float(x[-2] + x[-3]) / 2


def _next(values: FloatArray, steps: IntArray, family: FloatArray, accepted: list[Transition]) -> Transition | None:
    x = log_step(steps)
    others = np.column_stack([fit.curve(x) for fit in accepted]) if accepted else np.empty((len(x), 0))
    fit, base = _fit_one(values, steps, family, others)
    return fit if _is_change(fit, values, x, base[:, : base.shape[1] - others.shape[1]], base) else None


def _is_change(fit: Transition, values: FloatArray, x: FloatArray, course: FloatArray, base: FloatArray) -> bool:
    """Likely beside the best course without it, large against the noise, and quicker than the course it stands on."""
    design = np.column_stack([np.ones(len(x)), base, fit.curve(x)])
    coefficients = np.linalg.lstsq(design, values, rcond=None)[0]
    residuals = values - design @ coefficients
    if fit.gain < _MIN_GAIN or abs(fit.height) < _MIN_HEIGHT * fit.noise * np.sqrt(1 + correlation(residuals)):
        return False
    smooth = course @ coefficients[1 : 1 + course.shape[1]]
    reach = 2.2 * max(fit.left + fit.right, spacing(x, fit.middle))
    edges = np.interp([fit.middle - reach, fit.middle + reach], x, smooth)
    speed = abs(float(edges[1] - edges[0])) / (2 * reach)
    return abs(fit.height) / (2 * reach) >= _MIN_SPEED * speed


def _refit(values: FloatArray, steps: IntArray, family: FloatArray, fits: list[Transition]) -> list[Transition]:
    """Every sigmoid again beside the others, once: a later find sharpens the earlier ones."""
    if len(fits) < 2:
        return fits
    x = log_step(steps)
    for i in range(len(fits)):
        others = np.column_stack([fit.curve(x) for j, fit in enumerate(fits) if j != i])
        course = pace_columns(values, steps, family, np.column_stack([others, fits[i].curve(x)]))
        low, high = fits[i].middle - 0.3, fits[i].middle + 0.3
        widths = (0.25 * float(np.diff(x).min()), MAX_WIDTH)
        fits[i] = fit_transition(
            x, values, base=np.column_stack([course, others]), widths=widths, middles=(max(low, x[1]), min(high, x[-2]))
        )
    return fits


def _change(fit: Transition, steps: IntArray, unit: str, name: str) -> PhaseChange:
    timing = place(fit, steps)
    return PhaseChange(
        start_step=timing.start_step,
        step=timing.step,
        end_step=timing.end_step,
        start_interval=timing.start_interval,
        step_interval=timing.step_interval,
        end_interval=timing.end_interval,
        n_checkpoints_inside=timing.n_checkpoints_inside,
        kind="level",
        direction="rise" if fit.height > 0 else "drop",
        effect=abs(fit.height),
        unit=unit,
        measure=name,
    )


def _join_bumps(changes: list[PhaseChange]) -> list[PhaseChange]:
    """A rise followed by a drop of like size, without a rest between them, is one bump."""
    joined: list[PhaseChange] = []
    for change in changes:
        previous = joined[-1] if joined else None
        if previous is not None and _makes_bump(previous, change):
            joined[-1] = _bump(previous, change)
        else:
            joined.append(change)
    return joined


def _makes_bump(rise: PhaseChange, fall: PhaseChange) -> bool:
    if (rise.kind, rise.direction, fall.direction) != ("level", "rise", "drop") or rise.end_step is None:
        return False
    apart = np.log1p(fall.start_step) - np.log1p(rise.end_step)
    return 0.4 <= rise.effect / fall.effect <= 2.5 and apart <= 1.0


def _bump(rise: PhaseChange, fall: PhaseChange) -> PhaseChange:
    peak = round(np.sqrt(max(rise.end_step or rise.step, 1) * max(fall.start_step, 1)))
    return fall.evolve(
        kind="bump",
        start_step=rise.start_step,
        step=int(np.clip(peak, rise.step, fall.step)),
        start_interval=rise.start_interval,
        step_interval=(float(rise.step), float(fall.step)),
        direction="rise" if rise.effect > fall.effect else "drop",
        effect=max(rise.effect, fall.effect),
        n_checkpoints_inside=rise.n_checkpoints_inside + fall.n_checkpoints_inside,
    )
