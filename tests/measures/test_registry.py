"""The registry: a measure is one function with one decorator, and every name of MEASURES.md is there."""

from __future__ import annotations

import pytest

from phasewatch.errors import InvalidInput, NotFound
from phasewatch.measures import registry
from phasewatch.measures.registry import Measure, measure


@pytest.fixture
def own_registry(monkeypatch: pytest.MonkeyPatch) -> dict[str, Measure]:
    measures = dict(registry._MEASURES)
    monkeypatch.setattr(registry, "_MEASURES", measures)
    return measures


def test_one_function_with_one_decorator_is_a_measure(own_registry: dict[str, Measure]) -> None:
    @measure("brightness", version=3, section="9", needs="losses", cost="on_request", slice="text", unit="nats")
    def brightness() -> float:
        """How bright
        it is.

        More words.
        """
        return 7.0

    found = registry.get("brightness")
    assert (found.name, found.version, found.section, found.needs) == ("brightness", 3, "9", "losses")
    assert (found.cost, found.slice, found.shape, found.unit) == ("on_request", "text", (), "nats")
    assert found.summary == "How bright it is."
    assert found.function is brightness
    assert brightness() == 7.0
    assert found in registry.select(needs="losses", cost="on_request")
    assert found not in registry.select(cost="every_checkpoint")
    assert found not in registry.select(needs="attention")


def test_a_name_is_taken_once(own_registry: dict[str, Measure]) -> None:
    with pytest.raises(InvalidInput, match=r"'icl_score' is registered already, by phasewatch\.measures\.losses"):
        measure("icl_score", section="2", needs="losses", unit="nats")(lambda: None)


def test_a_measure_says_what_it_is(own_registry: dict[str, Measure]) -> None:
    with pytest.raises(InvalidInput, match="'silent' has no docstring"):
        measure("silent", section="2", needs="losses", unit="nats")(lambda: None)


def test_parameters_belong_to_the_name() -> None:
    assert registry.get("prefix_matching:anything").name == "prefix_matching"


def test_an_unknown_name_is_told_which_there_are() -> None:
    with pytest.raises(NotFound, match=r"no measure is called 'icl'; there are .*icl_score"):
        registry.get("icl")


def test_the_names_that_other_programs_rely_on_are_there() -> None:
    heads = {one.name for one in registry.select(needs="attention", cost="every_checkpoint")}
    assert heads >= {
        "prefix_matching",
        "induction_stripe",
        "natural_prefix_matching",
        "previous_token",
        "duplicate_token",
        "first_token",
        "attention_entropy",
    }
    losses = {one.name for one in registry.select(needs="losses", cost="every_checkpoint")}
    assert losses >= {"icl_score", "repeat_gain", "position_profile", "induction_predictable"}


@pytest.mark.parametrize("one", registry.select(), ids=lambda one: one.name)
def test_every_measure_is_described(one: Measure) -> None:
    assert one.summary.endswith((".", ":")) or one.summary[-1].isalnum()
    assert len(one.summary) > 20
    assert one.unit
    assert one.section in {"2", "3", "4", "5"}
    assert (one.reads is not None) == (one.needs == "attention" and one.cost == "every_checkpoint")
