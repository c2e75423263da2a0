"""The pictures show what they were given: bands at the changes, heads as rows, colours that tell gain from loss."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from matplotlib.collections import QuadMesh
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from phasewatch.detection.phase_change import PhaseChange
from phasewatch.report import head_picture, loss_picture, position_picture, slope_picture, token_picture
from phasewatch.report.pictures import CHANGE_COLOUR, INDUCTION_COLOUR, position_edges, step_edges

STEPS = np.array([0, 1, 2, 4, 10, 50, 100, 200, 400, 700])


def change(*, induction: bool = True, end: int | None = 400) -> PhaseChange:
    return PhaseChange(
        100, 200, end, kind="level", direction="rise", effect=0.5, unit="share", measure="m", induction=induction
    )


def band(figure: Figure) -> tuple[float, float, str]:
    from matplotlib.colors import to_hex

    spans = [patch for patch in figure.axes[0].patches if isinstance(patch, Rectangle)]
    assert len(spans) == 1
    return spans[0].get_x(), spans[0].get_x() + spans[0].get_width(), to_hex(spans[0].get_facecolor()).upper()


def test_a_change_is_a_band_from_its_start_to_its_end() -> None:
    figure = loss_picture({"run": (STEPS, np.linspace(6, 2, 10), [change()])})
    assert band(figure) == (100, 400, INDUCTION_COLOUR)


def test_a_change_not_over_yet_reaches_to_the_last_step() -> None:
    figure = loss_picture({"run": (STEPS, np.linspace(6, 2, 10), [change(induction=False, end=None)])})
    assert band(figure) == (100, 700, CHANGE_COLOUR)


def test_each_run_has_its_panel_and_each_head_its_row() -> None:
    scores = np.random.default_rng(0).random((10, 2, 3))
    figure = head_picture({"two": (STEPS, scores, []), "one": (STEPS, scores[:, :1], [])}, "prefix_matching")
    assert [axes.get_title() for axes in figure.axes[:2]] == ["two", "one"]
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == [
        "L0H0",
        "L0H1",
        "L0H2",
        "L1H0",
        "L1H1",
        "L1H2",
    ]
    mesh = next(child for child in figure.axes[0].collections if isinstance(child, QuadMesh))
    np.testing.assert_array_equal(np.asarray(mesh.get_array()).reshape(6, 10)[4], scores[:, 1, 1])


def test_the_position_map_is_relative_to_each_checkpoint() -> None:
    profile = np.random.default_rng(0).random((10, 16)) + STEPS[:, None]
    figure = position_picture({"run": (STEPS, profile, [])})
    mesh = next(child for child in figure.axes[0].collections if isinstance(child, QuadMesh))
    edges = position_edges(16)
    shown = np.asarray(mesh.get_array()).reshape(len(edges) - 1, 10)
    for row, (first, end) in enumerate(pairwise(edges.tolist())):
        np.testing.assert_allclose(shown[row], profile[:, first:end].mean(axis=1) - profile.mean(axis=1))


def test_the_map_of_slopes_is_the_slopes_and_zero_is_its_middle() -> None:
    slopes = np.random.default_rng(0).normal(size=(10, 8))
    figure = slope_picture({"run": (STEPS, slopes, [])})
    mesh = next(child for child in figure.axes[0].collections if isinstance(child, QuadMesh))
    shown = np.asarray(mesh.get_array()).reshape(-1, 10)
    edges = position_edges(8)
    for row, (first, end) in enumerate(pairwise(edges.tolist())):
        np.testing.assert_allclose(shown[row], slopes[:, first:end].mean(axis=1))
    low, high = mesh.get_clim()
    later = np.stack([slopes[:, 4:6].mean(axis=1), slopes[:, 6:8].mean(axis=1)])
    assert (low, high) == pytest.approx((-np.abs(later).max(), np.abs(later).max()))


def test_bars_show_how_well_start_middle_and_end_are_known() -> None:
    known = change().evolve(start_interval=(90.0, 120.0), step_interval=(150.0, 260.0), end_interval=(300.0, np.inf))
    figure = loss_picture({"run": (STEPS, np.linspace(6, 2, 10), [known])})
    bars = [line.get_xdata() for line in figure.axes[0].lines if line.get_label() == "_interval"]
    assert [list(np.asarray(ends)) for ends in bars] == [[90, 120], [150, 260], [300, 700]]


def test_position_bins_grow_and_end_with_the_context() -> None:
    assert position_edges(16).tolist() == [0, 1, 2, 3, 4, 6, 9, 13, 16]


def test_map_cells_meet_half_way_between_checkpoints() -> None:
    np.testing.assert_array_equal(step_edges(np.array([0, 10, 30])), [0, 5, 20, 30])


def test_tokens_that_gained_and_tokens_that_lost_differ_in_colour() -> None:
    gain = np.array([[2.0, -2.0, 0.0]])
    figure = token_picture([["first", "gained", "lost", "even"]], gain, "title", sequences=1)
    gained, lost, even = (patch.get_facecolor()[:3] for patch in figure.axes[0].patches)
    assert gained[2] > gained[1]  # purple
    assert lost[0] > lost[2]  # orange
    assert min(even) > 0.9
    assert "".join(text.get_text() for text in figure.axes[0].texts) == "firstgainedlosteven"


def test_the_sequences_that_gained_most_are_shown() -> None:
    gain = np.array([[0.0, 0.0], [1.0, 1.0], [0.5, 0.5]])
    figure = token_picture([["a", "a", "a"], ["b", "b", "b"], ["c", "c", "c"]], gain, "title", sequences=2)
    assert "".join(text.get_text() for text in figure.axes[0].texts) == "bbbccc"


def test_the_step_axis_has_as_many_ticks_as_have_room() -> None:
    def ticks(last: int) -> list[str]:
        figure = loss_picture({"run": (np.array([0, last]), np.ones(2), [])})
        return [label.get_text() for label in figure.axes[0].get_xticklabels()]

    assert ticks(700) == ["0", "10", "20", "50", "100", "200", "500"]
    assert ticks(143_000) == ["0", "10", "100", "1,000", "10,000", "100,000"]
