"""What tokens of a change have in common: a planted context is found, chance and one document are not."""

from __future__ import annotations

import numpy as np
import pytest

from phasewatch.detection.token_contexts import LEAST_MOVED, Context, shared_contexts
from phasewatch.errors import InvalidInput

IDS = np.random.default_rng(0).integers(0, 40, (12, 101))


def flat(mask: np.ndarray[tuple[int, int], np.dtype[np.bool_]]) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.flatnonzero(mask.reshape(-1))


def test_what_follows_a_token_is_found_and_comes_first() -> None:
    after_seven = flat(IDS[:, :-1] == 7)
    noise = np.random.default_rng(1).choice(1_200, 60, replace=False)
    moved = np.union1d(after_seven, noise)
    found = shared_contexts(IDS, moved)
    expected = len(after_seven) * len(moved) / 1_200
    assert found[0] == Context("previous", 7, len(after_seven), len(after_seven), pytest.approx(expected))


def test_a_token_s_own_id_is_found() -> None:
    own = flat(IDS[:, 1:] == 3)
    found = [one for one in shared_contexts(IDS, own) if one.kind == "own"]
    assert [(one.token_id, one.n_moved, one.n_tokens) for one in found] == [(3, len(own), len(own))]


def test_chance_and_a_single_document_are_no_context() -> None:
    drawn = np.random.default_rng(2).choice(1_200, 300, replace=False)
    assert shared_contexts(IDS, drawn) == []
    single = IDS.copy()
    single[4, :60:2] = 39
    single[np.arange(12) != 4] %= 39
    of_one = flat((single[:, :-1] == 39) & (np.arange(12) == 4)[:, None])
    assert len(of_one) > LEAST_MOVED
    assert [one for one in shared_contexts(single, of_one) if one.token_id == 39] == []


def test_no_more_of_a_kind_than_asked_for_and_none_of_nothing() -> None:
    moved = flat(np.isin(IDS[:, :-1], range(4)))
    kinds = [one.kind for one in shared_contexts(IDS, moved, most=2)]
    assert kinds.count("previous") == 2
    assert shared_contexts(IDS, []) == []


def test_tokens_that_are_not_there_are_named() -> None:
    with pytest.raises(InvalidInput, match=r"0 … 1199, not 5 … 1200"):
        shared_contexts(IDS, [1_200, 5])
    with pytest.raises(InvalidInput, match="whole sequences"):
        shared_contexts(IDS[0], [1])
