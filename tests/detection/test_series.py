"""Changes of one series: how many, where, and what is never one."""

from __future__ import annotations

import numpy as np
import pytest

from phasewatch.detection import find_series_changes
from phasewatch.detection.synthetic import make_steps
from phasewatch.errors import InvalidInput
from tests.detection.recorded import DATA, load_run


def sigmoid(steps: np.ndarray, middle: float, width: float) -> np.ndarray:
    return 1 / (1 + np.exp(-(np.log1p(steps) - np.log1p(middle)) * 4.394 / width))


def decay(steps: np.ndarray, c: float = 0.5, scale: float = 8.0) -> np.ndarray:
    return 2.5 + 4 * (1 + steps / scale) ** -c


@pytest.mark.parametrize("n", [40, 80, 160])
def test_a_sigmoid_is_one_change_at_any_density(n: int) -> None:
    rng = np.random.default_rng(n)
    steps = np.unique(np.geomspace(1, 10_000, n).astype(int))
    values = decay(steps) - 0.8 * sigmoid(steps, 1_000, 0.8) + rng.normal(0, 0.01, len(steps))
    changes = find_series_changes(values, steps)
    assert [change.kind for change in changes] == ["level"]
    assert changes[0].direction == "drop"
    assert changes[0].step == pytest.approx(1_000, rel=0.08)
    assert changes[0].effect == pytest.approx(0.8, rel=0.35)


@pytest.mark.parametrize("seed", range(12))
def test_smooth_descents_are_not_changes(seed: int) -> None:
    rng = np.random.default_rng(seed)
    steps = np.unique(np.concatenate([[0], np.geomspace(1, 20_000, 120)]).astype(int))
    scale, c = np.exp(rng.uniform(0, 6)), rng.uniform(0.1, 1.5)
    smooth = decay(steps, c, scale) + np.exp(-steps / np.exp(rng.uniform(2, 8)))
    assert find_series_changes(smooth + rng.normal(0, 0.01, len(steps)), steps) == []


@pytest.mark.parametrize("name", ["L1_bpe512_s0", "L2_allpos_bpe512_s0"])
def test_the_mean_loss_of_controls_has_no_change(name: str) -> None:
    run = load_run(name)
    assert find_series_changes(run.losses.astype(float).mean(axis=1), run.steps) == []


def test_the_second_drop_of_markov_chains() -> None:
    with np.load(DATA / "markov_k3_L2_s0.npz") as z:
        changes = find_series_changes(z["mean_loss"], z["steps"])
    assert changes[-1].direction == "drop"
    assert changes[-1].end_step == pytest.approx(145, rel=0.12)


def test_a_rise_and_fall_is_one_bump() -> None:
    rng = np.random.default_rng(3)
    steps = np.arange(0, 600, 4)
    values = 4 + 3 * sigmoid(steps, 40, 1.0) - 3.2 * sigmoid(steps, 220, 0.8) + rng.normal(0, 0.03, len(steps))
    changes = find_series_changes(values, steps)
    assert [change.kind for change in changes] == ["bump"]
    assert 60 < changes[0].step < 180


def grokking() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(steps, mean loss of training pairs, of test pairs) of recorded modular addition."""
    with np.load(DATA / "grokking_p59_s0.npz") as z:
        losses = z["losses"].astype(float)
        return z["steps"], losses[:, z["trained"]].mean(axis=1), losses[:, ~z["trained"]].mean(axis=1)


@pytest.mark.parametrize("every", [1, 2])
def test_grokking_is_a_drop_in_training_and_a_bump_in_test(every: int) -> None:
    steps, train, test = (part[::every] for part in grokking())
    changes = find_series_changes(train, steps, first_descent=True)
    assert [(change.kind, change.direction) for change in changes] == [("level", "drop")]
    assert 50 <= changes[0].step <= 70
    changes = find_series_changes(test, steps, first_descent=True)
    assert [(change.kind, change.direction) for change in changes] == [("bump", "drop")]
    assert changes[0].step == pytest.approx(steps[int(np.argmax(test))], rel=0.1)
    assert changes[0].end_step is not None


@pytest.mark.parametrize("last", [110, 160, 220])
def test_a_bump_whose_fall_goes_on_is_censored(last: int) -> None:
    steps, _, test = (part[: last // 4] for part in grokking())
    changes = find_series_changes(test, steps)
    assert [(change.kind, change.end_step) for change in changes] == [("bump", None)]
    assert 60 <= changes[0].step <= 100


@pytest.mark.parametrize("n", [40, 640])
def test_sixteen_times_as_many_checkpoints_are_not_more_changes(n: int) -> None:
    """Segmentation by means finds 6 changes at 40 checkpoints of such a sigmoid and 13 at 640."""
    rng = np.random.default_rng(n)
    steps = make_steps(n, 10_000)
    values = decay(steps) - 0.8 * sigmoid(steps, 1_500, 0.8) + rng.normal(0, 0.02, n)
    changes = find_series_changes(values, steps)
    assert [(change.kind, change.direction) for change in changes] == [("level", "drop")]
    assert changes[0].step == pytest.approx(1_500, rel=0.1)


def test_intervals_beside_a_course_hold_the_truth() -> None:
    """Nominal 95 %; the whole table is in bench/calibration_series.py."""
    held, steps = [], make_steps(60, 10_000)
    for seed in range(6):
        rng = np.random.default_rng(seed)
        noise = rng.normal(0, 0.02, len(steps))
        noise[1:] += 0.3 * noise[:-1]
        middle = np.exp(rng.uniform(6.4, 7.6))
        change = find_series_changes(decay(steps) - 0.6 * sigmoid(steps, middle, 0.6) + noise, steps)[0]
        intervals = (change.start_interval, change.step_interval, change.end_interval)
        reach = np.exp([-0.3, 0.0, 0.3])
        pairs = zip(intervals, (middle + 1) * reach - 1, strict=True)
        held += [interval is not None and interval[0] <= truth <= interval[1] for interval, truth in pairs]
    assert np.mean(held) >= 0.85


@pytest.mark.parametrize("seed", range(8))
def test_wandering_noise_is_no_bump(seed: int) -> None:
    rng = np.random.default_rng(seed)
    values = rng.normal(0, 0.02, 120)
    for i in range(1, len(values)):
        values[i] += 0.6 * values[i - 1]
    assert find_series_changes(values, np.arange(120) * 10) == []


def test_a_spike_is_its_own_kind() -> None:
    rng = np.random.default_rng(4)
    steps = np.arange(0, 400, 5)
    values = decay(steps) + rng.normal(0, 0.01, len(steps))
    values[40] += 1.0
    changes = find_series_changes(values, steps)
    assert [(change.kind, change.step) for change in changes] == [("spike", 200)]
    assert changes[0].effect == pytest.approx(1.0, rel=0.1)


@pytest.mark.parametrize("seed", range(3))
def test_a_loss_that_climbs_and_stays_up_has_diverged(seed: int) -> None:
    steps = make_steps(60, 10_000)
    values = decay(steps) + 2.5 * sigmoid(steps, 4_000, 0.4) + np.random.default_rng(seed).normal(0, 0.01, len(steps))
    changes = find_series_changes(values, steps)
    assert [(change.kind, change.direction) for change in changes] == [("divergence", "rise")]
    assert 3_000 <= changes[0].start_step <= changes[0].step <= 4_700
    assert changes[0].effect == pytest.approx(2.4, abs=0.2)


def test_a_score_that_rises_again_has_not_diverged() -> None:
    steps = make_steps(80, 10_000)
    values = -0.5 * sigmoid(steps, 300, 0.5) + 0.4 * sigmoid(steps, 4_000, 0.4)
    changes = find_series_changes(values + np.random.default_rng(0).normal(0, 0.01, len(steps)), steps)
    assert "divergence" not in {change.kind for change in changes}
    assert changes


@pytest.mark.parametrize("seed", range(3))
def test_a_loss_that_turns_and_climbs_slowly_changes_its_trend(seed: int) -> None:
    rng = np.random.default_rng(seed)
    steps = make_steps(120, 10_000)
    values = 2 + 3 * (1 + steps / 8) ** -0.6 + 0.3 * np.maximum(np.log1p(steps) - 6, 0) + rng.normal(0, 0.01, 120)
    changes = find_series_changes(values, steps)
    assert [(change.kind, change.direction, change.unit) for change in changes] == [
        ("slope", "rise", "nats per log step")
    ]
    assert changes[0].effect == pytest.approx(0.3, rel=0.35)
    assert changes[0].step == pytest.approx(np.exp(6), rel=0.2)


def test_non_finite_values_are_left_out_and_said() -> None:
    steps = np.arange(1, 200)
    values = decay(steps) + np.random.default_rng(0).normal(0, 0.01, len(steps))
    values[[3, 50]] = [np.nan, np.inf]
    changes = find_series_changes(values, steps, name="mean_loss:text")
    assert changes == []
    assert changes.notes == ["mean_loss:text: 2 of 199 checkpoints are not finite and were left out"]


def test_too_few_checkpoints_give_the_reason() -> None:
    changes = find_series_changes([1.0, 2.0, 3.0], [0, 1, 2], name="icl_score")
    assert changes == []
    assert changes.notes == ["icl_score: 3 finite checkpoints, a change needs at least 8"]


def test_a_change_under_way_is_censored() -> None:
    steps = np.unique(np.geomspace(1, 1_100, 60).astype(int))
    values = decay(steps) - 1.5 * sigmoid(steps, 1_000, 0.8) + np.random.default_rng(0).normal(0, 0.01, len(steps))
    changes = find_series_changes(values, steps)
    assert [change.end_step for change in changes] == [None]


def test_wrong_shapes_are_refused() -> None:
    with pytest.raises(InvalidInput, match="one value a step"):
        find_series_changes(np.ones((4, 2)), [0, 1, 2, 3])
    with pytest.raises(InvalidInput, match="whole numbers"):
        find_series_changes(np.ones(3), [0, 1.5, 2])


def test_the_staircase_of_markov_chains_has_two_steps_and_one_layer_the_first_only() -> None:
    ends = {}
    for name in ("markov_k3_L2_s0", "markov_k3_L1_s0"):
        with np.load(DATA / f"{name}.npz") as z:
            changes = find_series_changes(z["mean_loss"], z["steps"], first_descent=True)
        assert {change.direction for change in changes} == {"drop"}
        ends[name] = [change.end_step for change in changes]
    assert ends["markov_k3_L2_s0"] == [pytest.approx(55, rel=0.3), pytest.approx(145, rel=0.12)]
    assert ends["markov_k3_L1_s0"] == [pytest.approx(55, rel=0.35)]


@pytest.mark.parametrize("name", ["L1_bpe512_s0", "L2_bpe512_s0"])
def test_a_descent_that_goes_on_is_no_first_step(name: str) -> None:
    run = load_run(name)
    assert find_series_changes(run.losses.astype(float).mean(axis=1), run.steps, first_descent=True) == []


@pytest.mark.parametrize("seed", [0, 3])
def test_the_bend_of_a_first_descent_is_no_turn_of_trend_while_a_run_grows(seed: int) -> None:
    steps = np.concatenate([np.arange(0, 20, 2), np.arange(20, 700, 10)])
    paced = np.where(steps < 20, steps**2 / 40, steps - 10)
    noise = np.random.default_rng(seed).normal(0, 0.01, len(steps))
    loss = 3.3 + 2.9 * (1 + paced / (15 + 5 * seed)) ** -1.2 + noise
    for n in (30, 38, 42, 50, 60, len(steps)):
        found = find_series_changes(loss[:n], steps[:n], first_descent=True)
        assert [change for change in found if change.kind == "slope"] == []


def test_a_turn_after_the_first_descent_is_told() -> None:
    steps = np.concatenate([np.arange(0, 20, 2), np.unique(np.geomspace(20, 6_000, 70).astype(int))])
    paced = np.where(steps < 20, steps**2 / 40, steps - 10)
    loss = 3.3 + 2.9 * (1 + paced / 30) ** -1.2 + np.random.default_rng(1).normal(0, 0.01, len(steps))
    loss += 0.5 * np.maximum(np.log1p(steps) - np.log1p(900), 0)
    (turn,) = [change for change in find_series_changes(loss, steps) if change.kind == "slope"]
    assert turn.direction == "rise"
    assert turn.step == pytest.approx(900, rel=0.25)
