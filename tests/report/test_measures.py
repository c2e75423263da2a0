"""docs/measures.md says what the registry says, and its pictures show what the measures read."""

from __future__ import annotations

from pathlib import Path

import pytest

from phasewatch.measures import registry
from phasewatch.report import measures

DOCUMENT = Path(__file__).parents[2] / "docs" / "measures.md"


@pytest.fixture(scope="module")
def document() -> str:
    return measures.measures_document()


def test_the_page_in_the_repository_is_the_one_that_is_written_now(document: str) -> None:
    assert DOCUMENT.read_text(encoding="utf-8") == document, "run `make docs`"


@pytest.mark.parametrize("one", registry.select(), ids=lambda one: one.name)
def test_every_measure_is_documented(document: str, one: registry.Measure) -> None:
    assert one.formula
    assert one.source == "phasewatch" or any(short in one.source for short in registry.SOURCES) or ";" in one.source
    assert f"### {one.name}\n\n{one.summary}" in document


@pytest.mark.parametrize(
    ("name", "chance"), [("prefix_matching", 0.030721), ("duplicate_token", 0.030721), ("induction_stripe", 0.017905)]
)
def test_chance_levels_are_those_of_the_literature_layout(name: str, chance: float) -> None:
    assert float(measures.chance_level(registry.get(name))) == pytest.approx(chance, abs=5e-7)


def test_chance_on_text_is_the_mean_of_uniform_attention() -> None:
    expected = sum(1 / (i + 1) for i in range(1, measures.TEXT_TOKENS)) / (measures.TEXT_TOKENS - 1)
    assert float(measures.chance_level(registry.get("previous_token"))) == pytest.approx(expected, abs=5e-7)


def test_the_pictures_are_written_beside_the_page(tmp_path: Path) -> None:
    measures.write(tmp_path)
    assert {path.name for path in (tmp_path / "pictures").iterdir()} == {
        "measures_attention.png",
        "measures_losses.png",
    }
