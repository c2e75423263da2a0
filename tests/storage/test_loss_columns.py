"""Stored losses as a detector reads them: the columns of the matrix that was written, and the same changes."""

from __future__ import annotations

from uuid import UUID

import numpy as np
import pytest

from phasewatch.detection import find_phase_changes
from phasewatch.detection.loss_source import LossSource
from phasewatch.detection.synthetic import Planted, make_run
from phasewatch.storage import loss_columns
from phasewatch.storage.codecs import EXACT_CODEC
from phasewatch.storage.database import Database
from phasewatch.storage.loss_columns import StoredLosses
from phasewatch.storage.losses import put_losses
from phasewatch.storage.runs import open_segment
from tests.conftest import MakeRun, make_probes

RUN = make_run(0, n_tokens=1_270, n_steps=40, last_step=2_000, planted=[Planted(np.arange(0, 1_270, 25), 400, 0.3, -2)])


def recorded(database: Database, make_run: MakeRun, steps: slice = slice(None)) -> UUID:
    """A run with the losses of RUN at some of its steps."""
    run_id = make_run(probes=make_probes(10, 128))
    with database.transaction() as session:
        for step, losses in zip(RUN.steps[steps].tolist(), RUN.losses[steps], strict=True):
            put_losses(session, run_id, "text", step, losses.reshape(10, 127), codec=EXACT_CODEC)
    return run_id


def test_a_detector_reads_the_store_as_it_reads_the_matrix(database: Database, make_run: MakeRun) -> None:
    stored = StoredLosses(database, recorded(database, make_run), "text")
    assert isinstance(stored, LossSource)
    assert stored.shape == RUN.losses.shape
    assert np.array_equal(stored.steps, RUN.steps)
    assert np.array_equal(stored[:, 100:300], RUN.losses[:, 100:300])
    assert np.array_equal(stored[3:5, 1_200:], RUN.losses[3:5, 1_200:])
    found = find_phase_changes(stored, stored.steps)
    expected = find_phase_changes(RUN.losses, RUN.steps)
    assert [change.to_dict() for change in found] == [change.to_dict() for change in expected]
    assert [change.kind for change in found] == ["hidden"]


def test_steps_without_losses_are_nan_and_later_segments_change_nothing(database: Database, make_run: MakeRun) -> None:
    run_id = recorded(database, make_run, slice(None, None, 2))
    stored = StoredLosses(database, run_id, "text", RUN.steps)
    with database.transaction() as session:
        open_segment(session, run_id, int(RUN.steps[10]))
    expected = np.where((np.arange(len(RUN.steps)) % 2 == 0)[:, None], RUN.losses, np.nan)
    np.testing.assert_array_equal(stored[:, 40:90], expected[:, 40:90])
    np.testing.assert_array_equal(stored[15:18, 40:90], expected[15:18, 40:90])
    assert StoredLosses(database, run_id, "text").steps.tolist() == RUN.steps[:10:2].tolist()


def test_what_is_kept_of_a_small_run_is_bounded(
    sqlite_database: Database, make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = StoredLosses(sqlite_database, recorded(sqlite_database, make_run), "text")
    monkeypatch.setattr(loss_columns, "_KEPT_VALUES", 100 * len(RUN.steps))
    reads = []
    monkeypatch.setattr(loss_columns, "read_losses", lambda *given: reads.append(given) or RUN.losses[:, :100])
    for _ in range(2):
        stored[:, 0:100], stored[2:4, 0:100], stored[:, 100:200]
    assert len(reads) == 3  # the first hundred once, and what no room was left for every time
