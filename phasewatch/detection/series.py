"""Changes of one series: the mean loss, a whole-model measure, a head's score.

Separate from the loss matrix because a series has no tokens to borrow strength from: what is not clearly quicker than
the run's own pace is not reported. Sigmoids are added to the smooth course one at a time, the most telling first, and
kept while each is likely, large against the noise and quicker than the course it stands on. A sigmoid describes one
change however many checkpoints sample it, so twice as many checkpoints do not give more changes.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from phasewatch.detection.bumps import find_bump
from phasewatch.detection.divergence import cut_divergence
from phasewatch.detection.first_descent import end_of_quick_descent, first_movement
from phasewatch.detection.pace import Course, Pace
from phasewatch.detection.phase_change import Changes, IntArray, PhaseChange
from phasewatch.detection.prepare import MIN_CHECKPOINTS, check_series, check_steps, finite_part
from phasewatch.detection.spikes import remove_spikes
from phasewatch.detection.timing import change_at, place
from phasewatch.detection.transition import (
    LOGIT_90,
    FloatArray,
    Transition,
    correlation,
    fit_transition,
    log_step,
    spacing,
    split_sigmoid,
)
from phasewatch.detection.trend import find_hinge

MAX_WIDTH = 1.7  # 10-90 % in log step; an exponential decay, the quickest smooth course, has 3.1
FIRST_WIDTH = 4.5  # the same for the first movement of a whole run
MAX_CHANGES = 6
MIN_GAIN = 9.5  # log likelihood, after all the positions and widths searched; smooth runs reach 8 in 120
_SOMETHING = 1.0  # log likelihood that the course leaves for a change to take
_OBVIOUS = 10.0  # times what is left with it: so much less that no correlation of what is left matters
_MIN_HEIGHT = 4.0  # standard deviations of the noise
_WORTH = 6.0  # log likelihood that each decay has to bring, or the series is flat but for its change
_LIKELIER = 3.0  # log likelihood by which a hinge has to beat a sigmoid
_MIN_SPEED = 1.0  # times the speed of the course at the same place
_SIDE_LOBE = 0.3  # of the larger change's height
_MIN_AGAINST = 2.5  # the same where the course goes the other way: then the series itself has to turn


def find_series_changes(
    values: npt.ArrayLike,
    steps: npt.ArrayLike,
    *,
    unit: str = "nats",
    name: str = "series",
    min_effect: float = 0.0,
    first_descent: bool = False,
    min_gain: float = MIN_GAIN,
) -> Changes:
    """Changes of level and of trend, bumps, spikes and divergence of a series.

    values      (n_steps,), NaN and infinity are left out and said in `notes`
    steps       (n_steps,) optimizer steps, increasing
    min_effect  smaller changes are not reported, in `unit`
    first_descent  the values are of a whole run from its beginning, and its first movement is a change too where it
                   ends in a plateau, even at the slow pace that every run starts with
    min_gain    log likelihood that a change of level or trend has to bring; less finds smaller changes, those among
                them that the course could nearly take up, and more false ones

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
    divergence, kept, at = cut_divergence(kept, at, unit=unit, name=name)
    found = [*spikes] if divergence is None else [*spikes, divergence]
    if len(kept) >= MIN_CHECKPOINTS:
        found += _lasting(kept, at, unit, name, FIRST_WIDTH if first_descent else MAX_WIDTH, min_effect, min_gain)
    return Changes(sorted(found, key=lambda change: change.step), notes)


def _lasting(
    values: FloatArray,
    steps: IntArray,
    unit: str,
    name: str,
    first_width: float,
    min_effect: float,
    min_gain: float,
) -> list[PhaseChange]:
    """Changes of level and of trend, and the bump."""
    levels = _levels(values, steps, unit, name, first_width, min_gain)
    found = [change for change in levels if change.effect >= min_effect]
    bump = find_bump(values, steps, unit=unit, name=name)
    if bump is None or bump.effect < min_effect:
        return found
    return [bump, *(change for change in found if not _is_side(change, bump))]


def _is_side(change: PhaseChange, bump: PhaseChange) -> bool:
    """Whether a change of level is the rise or the fall of a bump."""
    return change.overlaps(bump) and (change.direction == "rise" or bump.start_step <= change.step)


def _levels(
    values: FloatArray, steps: IntArray, unit: str, name: str, first_width: float, min_gain: float
) -> list[PhaseChange]:
    x, pace = log_step(steps), Pace(values, steps)
    accepted: list[Transition] = []
    while len(accepted) < MAX_CHANGES:
        others = _curves(accepted, x)
        without = pace.fit(others)
        fit = _instead_of_course(x, pace, others, without, min_gain) if accepted and without.n_decays else None
        if fit is None and (min_gain < MIN_GAIN or pace.leaves_structure(without, _SOMETHING)):
            fit, course = _best_sigmoid(x, pace, others)
            hinge = None if accepted else find_hinge(pace, steps, unit=unit, name=name)
            if hinge is not None and _is_trend(hinge[1], without.rss, course, min_gain):
                return [hinge[0]]
            fit = fit if _is_change(fit, x, without.rss, course, min_gain) else None
        if fit is None or any(_is_side_lobe(fit, other) for other in accepted):
            break
        accepted = _refit(x, pace, [*accepted, fit])
    accepted = _with_intervals(x, pace, accepted)
    settled = end_of_quick_descent(values, x)
    own = [fit for fit in accepted if fit.middle > settled or fit.height > 0 or -fit.height > pace.range / 2]
    found = [_change(fit, steps, unit, name) for fit in sorted(own, key=_middle)]
    course, flat = pace.fit(_curves(accepted, x)), pace.flat(_curves(accepted, x))
    if _gain(flat.rss, course) < min_gain:
        return found
    first = first_movement(course, steps, first_width, found, unit=unit, name=name)
    return found if first is None else [first, *found]


def _is_side_lobe(fit: Transition, other: Transition) -> bool:
    """Whether a sigmoid within another mends its shape only, by little or by going back: one effect counts once."""
    mends = fit.height * other.height < 0 or abs(fit.height) < _SIDE_LOBE * abs(other.height)
    return mends and other.start <= fit.middle <= other.end


def _middle(fit: Transition) -> float:
    return fit.middle


def _curves(fits: list[Transition], x: FloatArray) -> FloatArray:
    return np.column_stack([fit.curve(x) for fit in fits]) if fits else np.empty((len(x), 0))


def _best_sigmoid(x: FloatArray, pace: Pace, others: FloatArray) -> tuple[Transition, Course]:
    """The sigmoid that, together with the course refitted beside it, leaves least; and that course."""
    middles, widths = _limits(x)
    middle, width = _search(x, pace, others, middles, widths)
    course = pace.fit(np.column_stack([others, _curve(x, middle, width)]))
    plain = fit_transition(x, pace.values, base=others, widths=widths, middles=middles)
    flat = pace.flat(np.column_stack([others, plain.curve(x)]))
    if _worth(course, flat) < _WORTH * course.n_decays:
        return replace(plain, after=plain.before + float(flat.heights[-1])), flat
    rest = pace.values - course.smooth - others @ course.heights[:-1]
    near = (max(middles[0], middle - width), min(middles[1], middle + width))
    fit = fit_transition(x, rest, widths=(max(width / 2, widths[0]), min(2 * width, MAX_WIDTH)), middles=near)
    return replace(fit, after=fit.before + float(course.heights[-1])), course


def _worth(course: Course, flat: Course) -> float:
    """Log likelihood that a course brings over a constant, for noise as correlated as the constant leaves it."""
    rho = correlation(course.residuals)
    return float(len(course.smooth) * (1 - rho) / (1 + rho) / 2 * np.log(max(flat.rss, 1e-30) / max(course.rss, 1e-30)))


def _instead_of_course(
    x: FloatArray, pace: Pace, others: FloatArray, course: Course, min_gain: float
) -> Transition | None:
    """A sigmoid on a constant that does all that the course did: then the course was a change, as in rise and fall."""
    middles, widths = _limits(x)
    fit = fit_transition(x, pace.values, base=others, widths=widths, middles=middles)
    flat = pace.flat(np.column_stack([others, fit.curve(x)]))
    fit = replace(fit, after=fit.before + float(flat.heights[-1]))
    does_all = flat.rss <= course.rss * (1 + 2 / len(x))
    return fit if does_all and _is_change(fit, x, pace.flat(others).rss, flat, min_gain) else None


def _limits(x: FloatArray) -> tuple[tuple[float, float], tuple[float, float]]:
    """Middles that leave two checkpoints on either side, and 10-90 % widths."""
    middles = (float(x[1] + x[2]) / 2, float(x[-2] + x[-3]) / 2)
    return middles, (max(0.25 * float(np.diff(x).min()), 1e-3), MAX_WIDTH)


def _search(
    x: FloatArray, pace: Pace, others: FloatArray, middles: tuple[float, float], widths: tuple[float, float]
) -> tuple[float, float]:
    """Middle and 10-90 % width by a coarse grid and then pattern search, the course fitted anew at every trial."""

    def cost(place: tuple[float, float]) -> float:
        middle, width = place[0], float(np.exp(place[1]))
        course = pace.fit(np.column_stack([others, _curve(x, middle, width)]))
        return course.rss if _is_quick(x, middle, width, course) else np.inf

    low, high = np.log(widths)
    starts = [(float(m), float(w)) for w in (high - 1.2, high - 0.3) for m in np.linspace(*middles, 18)]
    costs = [cost(start) for start in starts]
    place, best = starts[int(np.argmin(costs))], min(costs)
    reach = 0.3
    while reach > 0.03:
        for move in ((1, 0), (-1, 0), (0, 1), (0, -1)):
            trial = (
                float(np.clip(place[0] + move[0] * reach * np.exp(place[1]), *middles)),
                float(np.clip(place[1] + 2 * move[1] * reach, low, high)),
            )
            if (value := cost(trial)) < best:
                place, best = trial, value
                break
        else:
            reach /= 2
    return place[0], float(np.exp(place[1]))


def _curve(x: FloatArray, middle: float, width: float) -> FloatArray:
    scale = np.array([width / (2 * LOGIT_90)])
    return split_sigmoid(x, np.array([middle]), scale, scale).ravel()


def _is_change(fit: Transition, x: FloatArray, without: float, course: Course, min_gain: float) -> bool:
    """Likely beside the best course without it, large against the noise, and quicker than the course it stands on."""
    gain = _gain(without, course)
    noise = np.sqrt(course.rss / max(len(x) - 6, 1))
    obvious = without >= _OBVIOUS * course.rss and abs(fit.height) >= course.range / 4
    likely = (obvious or gain >= min_gain) and abs(fit.height) >= _MIN_HEIGHT * noise
    return bool(likely and _is_quick(x, fit.middle, fit.end - fit.start, course))


def _is_trend(hinge: Course, without: float, sigmoid: Course, min_gain: float) -> bool:
    """Whether a hinge is as likely as a change has to be, and likelier than the best sigmoid beside a course."""
    return _gain(without, hinge) >= min_gain and _gain(sigmoid.rss, hinge) > _LIKELIER


def _gain(without: float, course: Course) -> float:
    """Log likelihood that a fit brings over one that leaves `without`, for noise as correlated as what is left."""
    n = len(course.smooth)
    rho = min(correlation(course.residuals) + (2 + course.n_decays / 2) / n, 0.9)  # fitting hides correlation
    return float(n * (1 - rho) / (1 + rho) / 2 * np.log(max(without, 1e-30) / max(course.rss, 1e-30)))


def _is_quick(x: FloatArray, middle: float, width: float, course: Course) -> bool:
    """Whether the last free column moves more than the course does meanwhile; neither much more than the series."""
    height, reach = abs(float(course.heights[-1])), max(width / 2, spacing(x, middle))
    edges = np.interp([middle - reach, middle + reach], x, course.smooth)
    possible = max(height, float(np.ptp(course.smooth))) <= 1.5 * course.range
    along = float(edges[1] - edges[0]) * np.sign(float(course.heights[-1]))
    return possible and height >= (_MIN_SPEED if along >= 0 else _MIN_AGAINST) * abs(along)


def _refit(x: FloatArray, pace: Pace, fits: list[Transition]) -> list[Transition]:
    """Every sigmoid again beside the others, until they agree: a later find sharpens the earlier ones."""
    last = np.inf
    while len(fits) > 1:
        for i, fit in enumerate(fits):
            curves = _curves(fits, x)
            course, flat = pace.fit(curves), pace.flat(curves)
            course = flat if flat.rss <= course.rss * (1 + 2 / len(x)) else course
            rest, others = pace.values - course.smooth, np.delete(curves, i, axis=1)
            width = fit.end - fit.start
            near = (max(fit.middle - width / 2, x[1]), min(fit.middle + width / 2, x[-2]))
            fits[i] = fit_transition(x, rest, base=others, widths=(width / 2, min(2 * width, MAX_WIDTH)), middles=near)
        if course.rss > 0.97 * last:
            break
        last = course.rss
    return fits


def _with_intervals(x: FloatArray, pace: Pace, fits: list[Transition]) -> list[Transition]:
    """The same sigmoids with intervals that know what the course may take up: its decays are free beside each."""
    curves, answer = _curves(fits, x), []
    course, flat = pace.fit(curves), pace.flat(curves)
    course = flat if flat.rss <= course.rss * (1 + 2 / len(x)) else course
    for i, fit in enumerate(fits):
        base = np.column_stack([course.decays, np.delete(curves, i, axis=1)])
        width = fit.end - fit.start
        near = (max(fit.middle - width, x[1]), min(fit.middle + width, x[-2]))
        widths = (width / 8, min(3 * width, FIRST_WIDTH))
        free = fit_transition(x, pace.values, base=base, sign=int(np.sign(fit.height)), widths=widths, middles=near)
        answer.append(fit.with_intervals_of(free))
    return answer


def _change(fit: Transition, steps: IntArray, unit: str, name: str) -> PhaseChange:
    direction = "rise" if fit.height > 0 else "drop"
    effect = abs(fit.height)
    return change_at(place(fit, steps), kind="level", direction=direction, effect=effect, unit=unit, measure=name)
