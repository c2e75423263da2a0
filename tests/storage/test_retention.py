"""Retention: which weights the rules keep, and that files, rows and reported bytes agree whatever happens."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import pytest
from sqlalchemy import func, select, update

from phasewatch.detection import PhaseChange
from phasewatch.storage.artifacts import Artifacts
from phasewatch.storage.checkpoints import NewCheckpoint, list_checkpoints, put_checkpoint, store_weights, weights_name
from phasewatch.storage.codecs import DEFAULT_CODEC, SMALL_CODEC
from phasewatch.storage.database import Database
from phasewatch.storage.jobs import NewJob, enqueue
from phasewatch.storage.losses import get_losses, list_loss_slices, put_losses
from phasewatch.storage.phase_changes import store_scan
from phasewatch.storage.retention import (
    Retained,
    RetentionRules,
    apply_retention,
    kept_steps,
    plan_retention,
)
from phasewatch.storage.runs import get_run, open_segment, set_status
from phasewatch.storage.schema import LossBlock, LossSlice, utc_now
from tests.conftest import MakeRun, make_probes

STEPS = list(range(0, 100, 10))


@pytest.mark.parametrize(
    ("rules", "changes", "kept"),
    [
        ({}, [], STEPS),
        ({"keep_last": 2}, [], [80, 90]),
        ({"keep_every": 3}, [], [0, 30, 60, 90]),
        ({"keep_every": 4, "keep_last": 1}, [], [0, 40, 80, 90]),
        ({"keep_last": 1}, [(25, 42)], [20, 30, 40, 50, 90]),
        ({"keep_last": 1}, [(20, 40)], [20, 30, 40, 90]),
        ({"keep_last": 1}, [(65, None)], [60, 70, 80, 90]),
        ({"keep_last": 1, "keep_around_changes": False}, [(25, 42)], [90]),
        ({"keep_every": 100}, [(5, 7), (33, 35)], [0, 10, 30, 40]),
    ],
)
def test_any_rule_keeps(rules: dict[str, Any], changes: list[tuple[int, int | None]], kept: list[int]) -> None:
    assert sorted(kept_steps(STEPS, STEPS, changes, RetentionRules(**rules))) == kept


def test_every_kth_stays_the_same_when_the_others_are_gone() -> None:
    rules = RetentionRules(keep_every=3)
    first = kept_steps(STEPS, STEPS, [], rules)
    assert kept_steps(STEPS, first, [], rules) == first


def record(database: Database, artifacts: Artifacts, run: UUID, steps: list[int], segment: int = 0) -> None:
    """Checkpoints with weights of 1,000 bytes each."""
    for step in steps:
        weights = artifacts.put(weights_name(run, segment, step), bytes([step % 256]) * 1_000)
        with database.transaction() as session:
            put_checkpoint(session, run, NewCheckpoint(step, weights=weights))


def steps_with_weights(database: Database, run: UUID) -> list[int]:
    with database.reading() as session:
        return [row.step for row in list_checkpoints(session, run) if row.artifact_url is not None]


def files(artifacts: Artifacts) -> list[str]:
    return sorted(path.name for path in Path(artifacts.url).rglob("*") if path.is_file())


def disk_bytes(artifacts: Artifacts) -> int:
    return sum(path.stat().st_size for path in Path(artifacts.url).rglob("*") if path.is_file())


def test_weights_go_with_their_rows_and_the_freed_bytes_are_the_disks(
    database: Database, artifacts: Artifacts, make_run: MakeRun
) -> None:
    run, other = make_run(), make_run()
    record(database, artifacts, run, STEPS)
    record(database, artifacts, other, STEPS)
    change = PhaseChange(25, 30, 42, "level", "drop", 1.0, "nats", "mean_loss:text")
    with database.transaction() as session:
        store_scan(session, run, [change], STEPS, detector_version=1, ended=True)
    rules = RetentionRules(keep_every=9, keep_last=1)
    with database.reading() as session:
        plan = plan_retention(session, run, rules, utc_now())
    assert [one.step for one in plan.weights] == [10, 60, 70, 80]
    assert (plan.n_kept, plan.weights_bytes, plan.n_loss_slices, plan.loss_bytes) == (6, 4_000, 0, 0)
    assert steps_with_weights(database, run) == STEPS  # a plan changes nothing
    before, told = disk_bytes(artifacts), []
    done = apply_retention(database, artifacts, run, rules, lambda part, text: told.append((part, text)))
    assert done == Retained(4, 4_000, 0, 0)
    assert before - disk_bytes(artifacts) == done.artifacts_bytes
    assert steps_with_weights(database, run) == [0, 20, 30, 40, 50, 90]
    assert steps_with_weights(database, other) == STEPS
    with database.reading() as session:
        for row in list_checkpoints(session, run):
            if row.artifact_url is not None:
                assert artifacts.get(row.artifact_url, row.sha256) == bytes([row.step]) * 1_000
    assert told == [(1.0, "4 weights removed, 0 loss slices made smaller")]
    assert apply_retention(database, artifacts, run, rules) == Retained()


def test_what_is_still_needed_stays(database: Database, artifacts: Artifacts, make_run: MakeRun) -> None:
    """Weights that a job is to read, and those that training may go on from."""
    run = make_run()
    record(database, artifacts, run, [0, 10, 20])
    state = artifacts.put(f"{run}/state", b"state")
    weights = artifacts.put(weights_name(run, 0, 30), b"30")
    with database.transaction() as session:
        put_checkpoint(session, run, NewCheckpoint(30, weights=weights, state=state))
        enqueue(session, NewJob("score:10", "score", run, 0, 10))
    record(database, artifacts, run, [40])
    apply_retention(database, artifacts, run, RetentionRules(keep_last=1))
    assert steps_with_weights(database, run) == [10, 30, 40]
    with database.transaction() as session:
        set_status(session, get_run(session, run, lock=True), "completed")
    apply_retention(database, artifacts, run, RetentionRules(keep_last=1))
    assert steps_with_weights(database, run) == [10, 40]


def test_hidden_weights_go(database: Database, artifacts: Artifacts, make_run: MakeRun) -> None:
    run = make_run()
    record(database, artifacts, run, [0, 10, 20])
    with database.transaction() as session:
        open_segment(session, run, 10)
    record(database, artifacts, run, [10], segment=1)
    assert apply_retention(database, artifacts, run, RetentionRules(keep_every=1)).n_weights == 2
    assert files(artifacts) == ["0-0000000000.safetensors", "1-0000000010.safetensors"]


def test_a_removal_that_was_cut_short_is_finished_by_the_next(
    database: Database, artifacts: Artifacts, make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run()
    record(database, artifacts, run, STEPS)
    rules = RetentionRules(keep_last=8)

    def die(self: Artifacts, name: str) -> int:
        raise KeyboardInterrupt

    def upload_in_vain() -> None:
        with database.transaction() as session:
            put_checkpoint(session, run, NewCheckpoint(10_000))
            store_weights(session, artifacts, run, 10_000, b"an upload that is cut short")
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Artifacts, "delete", die)
        with pytest.raises(KeyboardInterrupt):
            apply_retention(database, artifacts, run, rules)
    assert steps_with_weights(database, run) == STEPS[2:]  # no row names what may be gone
    assert len(files(artifacts)) == len(STEPS)
    apply_retention(database, artifacts, run, rules)
    assert len(files(artifacts)) == len(STEPS)  # these might be about to be named
    own = artifacts.put(f"{run}/notes.txt", b"of somebody else")
    with pytest.raises(KeyboardInterrupt):
        upload_in_vain()
    assert len(files(artifacts)) == len(STEPS) + 2
    two_days_ago = (utc_now() - timedelta(days=2)).timestamp()
    for path in Path(artifacts.url).rglob("*"):
        os.utime(path, (two_days_ago, two_days_ago))
    done = apply_retention(database, artifacts, run, rules)
    assert done.artifacts_bytes == 2_000 + len(b"an upload that is cut short")
    assert len(files(artifacts)) == len(STEPS) - 2 + 1
    assert own.name.rpartition("/")[2] in files(artifacts)


def test_old_losses_take_less_and_stay_what_they_were(
    database: Database, artifacts: Artifacts, make_run: MakeRun
) -> None:
    run = make_run(probes=make_probes(4, 5_001))
    random = np.random.default_rng(0)
    values = {step: random.gamma(2.0, 1.5, 20_000).astype(np.float32) for step in (0, 10, 20)}
    values[0][:3] = [np.nan, np.inf, 70_000.0]  # beyond float16: its block stays as precise as it was
    with database.transaction() as session:
        for step, losses in values.items():
            put_losses(session, run, "text", step, losses)
        session.execute(update(LossSlice).where(LossSlice.step < 20).values(created_at=utc_now() - timedelta(days=8)))
    before = stored_bytes(database)
    rules = RetentionRules(losses_float16_after_days=7)
    with database.reading() as session:
        plan = plan_retention(session, run, rules, utc_now())
    assert (plan.weights, plan.n_loss_slices) == ((), 2)
    assert before * 0.6 < plan.loss_bytes < before * 0.7
    done = apply_retention(database, artifacts, run, rules)
    after = stored_bytes(database)
    assert (done.n_weights, done.n_loss_slices) == (0, 2)
    assert after < before * 0.92  # two of the three loss slices, and some blocks of one of them cannot
    assert done.database_bytes == before - after or database.is_sqlite  # SQLite gives whole pages back
    with database.reading() as session:
        rows = list_loss_slices(session, run, "text")
        assert [row.codec for row in rows] == [SMALL_CODEC, SMALL_CODEC, DEFAULT_CODEC]
        for step, losses in values.items():
            found = get_losses(session, run, "text", step).reshape(-1)
            finite = np.isfinite(losses)
            assert (np.isfinite(found) == finite).all()
            error = np.abs(found[finite] - losses[finite]) / np.maximum(losses[finite], 1e-3)
            assert error.max() < 2**-11 + 2**-13  # of float16, and of what it was stored with before
        first = get_losses(session, run, "text", 0).reshape(-1)[:3]
        assert np.isnan(first[0])
        assert np.isinf(first[1])
        assert first[2] == pytest.approx(70_000, rel=2e-4)
    with database.transaction() as session:
        assert not put_losses(session, run, "text", 10, values[10])  # the same as was received
    assert apply_retention(database, artifacts, run, rules) == Retained()


def stored_bytes(database: Database) -> int:
    with database.reading() as session:
        return int(session.scalar(select(func.sum(func.length(LossBlock.payload)))) or 0)


def test_the_file_of_a_sqlite_database_shrinks_by_what_is_reported(
    sqlite_database: Database, artifacts: Artifacts, make_run: MakeRun
) -> None:
    run = make_run(probes=make_probes(4, 20_001))
    random = np.random.default_rng(0)
    with sqlite_database.transaction() as session:
        for step in range(10):
            put_losses(session, run, "text", step, random.gamma(2.0, 1.5, 80_000).astype(np.float32))
    sqlite_database.give_back_space()
    path = Path(str(sqlite_database.url.database))
    before = path.stat().st_size
    done = apply_retention(sqlite_database, artifacts, run, RetentionRules(losses_float16_after_days=0))
    assert done.database_bytes > 0.03 * before  # less than the values shrink, because pages are as large as blocks
    assert before - path.stat().st_size == done.database_bytes
