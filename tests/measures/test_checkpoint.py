"""Measures by name: each family's own values, whatever is asked for together; names that ask for nothing refused."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest

from phasewatch.errors import InvalidInput, NotFound
from phasewatch.measures import ablation, checkpoint, registry, score_circuits, score_copying, score_heads
from phasewatch.measures.checkpoint import PARAMETRISED, check_name, plain_names, score_model, thinned
from phasewatch.measures.evidence import to_measurement
from phasewatch.measures.registry import Cost
from phasewatch.probes import ProbeSet
from tests.server.small_run import small_model, small_probes


def of_model(cost: Cost) -> list[str]:
    return [name for name in plain_names(cost) if registry.get(name).needs != "losses"]


def test_every_measure_of_a_model_can_be_asked_for_by_its_name() -> None:
    """Whoever registers one with a need that no family answers for hears of it here."""
    text = np.random.default_rng(0).integers(0, 40, (4, 32))
    probes = ProbeSet.from_tokens(text, vocab_size=40, n_repeats=4, copy_length=6, n_copies=3)
    names = [name for cost in get_args(Cost) for name in of_model(cost)]
    assert len(names) > 15
    short = {name for name in names if registry.get(name).needs == "generation"}  # the small model's context is short
    found = score_model(small_model(0), probes, names)
    assert set(names) - short <= set(found)
    assert set(found) <= set(names)


def test_together_or_alone_a_measure_is_what_its_family_gives() -> None:
    model, probes = small_model(1), small_probes()
    heads = score_heads(model, probes)
    circuits = score_circuits(model, previous_token=heads["previous_token"].values)
    expected = {**heads, **circuits, **score_copying(model, probes)}
    found = score_model(model, probes, ["prefix_matching", "qk_trace", "k_composition", "copying"])
    assert list(found) == ["prefix_matching", "qk_trace", "k_composition", "copying"]
    for name, one in found.items():
        np.testing.assert_array_equal(one.values, expected[name].values)
    known = score_model(model, probes, ["qk_trace"], previous_token=np.zeros((2, 2)))
    np.testing.assert_array_equal(known["qk_trace"].values, 0)


def test_an_ablation_is_asked_for_by_its_heads() -> None:
    model, probes = small_model(1), small_probes()
    found = score_model(model, probes, ["ablation:L1H0", "ablation:L0H0+L1H1:pattern_preserving"])
    expected = {
        "ablation:L1H0": ablation(model, probes, [(1, 0)]),
        "ablation:L0H0+L1H1:pattern_preserving": ablation(model, probes, [(0, 0), (1, 1)], mode="pattern_preserving"),
    }
    assert set(found) == set(expected)
    for name, one in expected.items():
        np.testing.assert_array_equal(found[name].values, to_measurement(one).values)


def test_names_without_their_parameters_or_with_useless_ones_are_refused() -> None:
    with pytest.raises(NotFound, match="'colour'"):
        check_name("colour")
    wrong = ("ablation", "ablation:", "token_group", "token_group:", "icl_score:x", "ablation:H1", "trajectory")
    for name in (*wrong, "attention_pattern", "attention_pattern:L1", "attention_pattern:L01H0"):
        with pytest.raises(InvalidInput, match=name.partition(":")[0]):
            check_name(name)
    for name in ("icl_score", "token_group:closing", "ablation:L1H0", "natural_attention_pattern:L1H0"):
        assert check_name(name).name == name.partition(":")[0]
    assert not set(PARAMETRISED) & {name for cost in get_args(Cost) for name in plain_names(cost)}


def test_heads_are_silenced_on_an_even_spread_of_a_large_probe_set(monkeypatch: pytest.MonkeyPatch) -> None:
    probes = small_probes()
    assert thinned(probes).sha256 == probes.sha256
    monkeypatch.setattr(checkpoint, "ABLATION_TOKENS", 3 * 24)
    few = thinned(probes)
    np.testing.assert_array_equal(few.slices["text"].tokens, probes.slices["text"].tokens[[0, 2, 5]])
    found = score_model(small_model(1), probes, ["ablation:L1H0"])["ablation:L1H0"]
    np.testing.assert_array_equal(found.values, to_measurement(ablation(small_model(1), few, [(1, 0)])).values)
