"""Crowds in scans made by hand: who counts as a witness, beside whom, and when."""

from __future__ import annotations

import numpy as np
import pytest

from phasewatch.detection.crowds import Crowd, Crowds
from phasewatch.detection.stage import Stage
from phasewatch.detection.token_scan import Templates, TokenScan

N, GAPS = 20_000, 60
AT = 45  # the gap at which the crowd falls
CALM = Stage(settled=-1.0, calm=-np.inf)


def scan(falling: np.ndarray) -> TokenScan:
    """A scan in which `falling` tokens fall at AT, and one in 50 others at any gap."""
    rng = np.random.default_rng(0)
    fall = np.where(rng.random(N) < 0.02, rng.uniform(4, 5, N), -np.inf).astype(np.float32)
    at = rng.integers(0, GAPS, N)
    fall[falling], at[falling] = 4.5, AT
    none = np.zeros((0, 0), np.float32)
    middles = np.arange(GAPS) * 0.1
    templates = Templates(none, middles, np.full(GAPS, 0.1), none, none)
    rise = np.full(N, -np.inf, np.float32)
    return TokenScan(fall, at.astype(np.int32), rise, np.zeros(N, np.int32), templates)


def largest(falling: np.ndarray, stage: Stage = CALM, owner: np.ndarray | None = None) -> Crowd | None:
    """The largest crowd; tokens are of 100 kinds, each of 200, in 200 documents unless `owner` says otherwise."""
    owners = np.arange(N) % 200 if owner is None else owner
    return Crowds(scan(falling), stage, (owners,), (np.arange(N) // 200,)).largest()


OF_ONE_KIND = np.arange(200, 225)
OF_MANY = np.arange(0, N, N // 60)


def test_few_tokens_of_one_kind_are_a_crowd_of_their_kind() -> None:
    crowd = largest(OF_ONE_KIND)
    assert crowd is not None
    assert crowd.kind is not None
    assert crowd.kind.tolist() == list(range(200, 400))
    assert crowd.middle == pytest.approx(AT * 0.1)
    assert set(OF_ONE_KIND) <= set(crowd.tokens)
    assert largest(np.arange(200, 225) * 400 % N) is None  # as many of many kinds


def test_a_crowd_of_many_kinds_has_no_kind() -> None:
    crowd = largest(OF_MANY)
    assert crowd is not None
    assert crowd.kind is None


def test_tokens_of_one_owner_count_as_their_root() -> None:
    one = np.arange(N) % 200 + 200
    one[OF_ONE_KIND] = 0
    assert largest(OF_ONE_KIND, owner=one) is None
    one = np.arange(N) % 200 + 200
    one[OF_MANY] = 0
    assert largest(OF_MANY, owner=one) is None


def test_within_the_descent_kinds_are_not_looked_at_and_crowds_have_rivals() -> None:
    before = Stage(settled=1.0, calm=AT * 0.1 + 0.5)
    assert largest(OF_ONE_KIND, before) is None
    assert largest(OF_MANY, before) is not None
    late = Stage(settled=AT * 0.1 + 0.05, calm=AT * 0.1 + 0.5)
    assert largest(OF_MANY, late) is None


def test_a_time_that_is_taken_is_not_looked_at_again_and_every_look_is_counted() -> None:
    crowds = Crowds(scan(OF_MANY), CALM, (), (np.arange(N) // 200,))
    crowd = crowds.largest()
    assert crowd is not None
    assert crowds.n_looked == GAPS * 3 * 4 * 101
    assert crowds.q_value(crowd) < 1e-4
    crowds.taken.append((crowd.middle, 0.4))
    assert crowds.largest() is None
