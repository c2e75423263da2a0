"""Patterns of heads: the formula's test is in test_references.py; here what is cut, left out and refused."""

from __future__ import annotations

import numpy as np
import pytest

from phasewatch.errors import InvalidInput
from phasewatch.hand_built import INDUCTION, induction_probes, perfect_induction
from phasewatch.measures import attention_pattern, natural_attention_pattern
from phasewatch.measures.checkpoint import score_model
from phasewatch.measures.patterns import MOST_TOKENS, head_of, pattern_name
from phasewatch.probes import ProbeSet
from phasewatch.training import ModelConfig
from phasewatch.transformer import Transformer
from tests.server.small_run import small_model, small_probes


def test_the_pattern_of_an_induction_head_is_bright_after_the_earlier_copies() -> None:
    probes = induction_probes()
    part = probes.slices["repeats"]
    length = part.layout.copy_length
    pattern = attention_pattern(perfect_induction(), probes, INDUCTION).values
    queries = np.arange(1 + length, part.n_tokens)
    after = sum(
        np.where(queries - back * length + 1 > 0, pattern[queries, np.maximum(queries - back * length + 1, 0)], 0)
        for back in range(1, part.layout.n_copies)
    )
    assert np.min(after) > 0.9


def test_rows_sum_to_one_and_see_nothing_later() -> None:
    found = natural_attention_pattern(small_model(3), small_probes(), (0, 1))
    assert found.values.shape == (24, 24)
    assert found.chance is None
    np.testing.assert_allclose(found.values.sum(1), 1, atol=1e-6)
    assert not np.triu(found.values, 1).any()


def test_a_long_sequence_is_cut() -> None:
    text = np.random.default_rng(0).integers(0, 40, (2, 200))
    model = Transformer(ModelConfig(d_model=8, n_heads=2, context=200), 40, seed=0)
    cut = natural_attention_pattern(model, ProbeSet.from_tokens(text, vocab_size=40), (1, 1)).values
    short = ProbeSet.from_tokens(text[:, :MOST_TOKENS], vocab_size=40)
    assert cut.shape == (MOST_TOKENS, MOST_TOKENS)
    np.testing.assert_array_equal(cut, natural_attention_pattern(model, short, (1, 1)).values)


def test_a_head_that_is_not_there_and_a_slice_that_is_absent() -> None:
    with pytest.raises(InvalidInput, match="no head 2 in layer 1"):
        attention_pattern(small_model(0), small_probes(), (1, 2))
    with pytest.raises(InvalidInput, match="no head 0 in layer 7"):
        attention_pattern(small_model(0), small_probes(), (7, 0))
    text = ProbeSet.from_tokens(small_probes().slices["text"].tokens)
    with pytest.raises(InvalidInput, match="the slice repeats, which the probe set lacks"):
        attention_pattern(small_model(0), text, (1, 0))
    names = ["attention_pattern:L1H0", "natural_attention_pattern:L1H0"]
    assert list(score_model(small_model(0), text, names)) == names[1:]


def test_a_name_is_written_in_one_way() -> None:
    assert head_of(pattern_name("attention_pattern", (3, 12))) == (3, 12)
    for name in ("attention_pattern:L01H0", "attention_pattern:L1H0+L1H1", "attention_pattern:", "attention_pattern"):
        with pytest.raises(InvalidInput, match="names no head's pattern"):
            head_of(name)
