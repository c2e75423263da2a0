"""How a detector is judged: each number against one worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from phasewatch.detection import PhaseChange
from phasewatch.detection.scoring import average_precision, online_delay, score_changes, score_tokens
from phasewatch.detection.synthetic import Planted


def found(step: int, tokens: list[int] | None = None) -> PhaseChange:
    return PhaseChange(
        start_step=step,
        step=step,
        end_step=step,
        kind="hidden",
        direction="drop",
        effect=1.0,
        unit="nats",
        measure="losses:text",
        tokens=None if tokens is None else np.array(tokens),
    )


TRUTH = Planted(np.array([1, 2, 3, 4]), 1_000, 0.3, -1.0)


def test_the_nearest_counts_and_the_rest_are_false() -> None:
    score = score_changes([found(900, [1, 2, 9]), found(1_010, [1, 2, 3, 9]), found(5_000)], [TRUTH])
    assert (score.n_found, score.n_false, score.recall) == (1, 2, 1.0)
    assert score.location_errors[0] == pytest.approx(np.log(1_011 / 1_001))
    assert score.token_precisions == (0.75,)
    assert score.token_recalls == (0.75,)


def test_what_is_too_far_off_is_missed_and_false() -> None:
    score = score_changes([found(2_000)], [TRUTH])
    assert (score.n_found, score.n_false, score.recall) == (0, 1, 0.0)
    assert score_changes([], []).recall == 1.0


def test_one_found_change_cannot_count_twice() -> None:
    twin = Planted(np.array([7]), 1_050, 0.3, -1.0)
    assert score_changes([found(1_000)], [TRUTH, twin]).recall == 0.5


def test_no_tokens_named_is_nothing_right() -> None:
    assert score_tokens(None, TRUTH.tokens) == (0.0, 0.0)


def test_average_precision_of_a_known_ranking() -> None:
    assert average_precision([4, 3, 2, 1], [True, False, True, False]) == pytest.approx((1 + 2 / 3) / 2)
    assert average_precision([1, 2], [False, False]) == 0.0


def test_delay_is_counted_from_the_middle() -> None:
    steps = np.arange(0, 2_000, 100)
    assert online_delay(lambda n: [found(1_000)] if n >= 14 else [], steps, TRUTH) == 3
    assert online_delay(lambda n: [], steps, TRUTH) is None
