"""What jobs do: a score is what the measures give, a scan what the detector gives, and a repeat changes nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import select

from phasewatch.detection import find_run_changes, loss_source, signs, token_timing
from phasewatch.errors import Conflict, InvalidInput, ModelNotRebuilt, NotFound, Unavailable
from phasewatch.measures import Measurement, score_copying, score_heads, score_logits, score_losses
from phasewatch.probes import Layout, ProbeSet, Slice
from phasewatch.storage import loss_columns
from phasewatch.storage.artifacts import Artifacts
from phasewatch.storage.checkpoints import weights_name
from phasewatch.storage.database import Database
from phasewatch.storage.jobs import NewJob, cancel_job, claim_jobs, enqueue, get_job
from phasewatch.storage.losses import get_losses, put_losses
from phasewatch.storage.measurements import StoredMeasurement, list_measures, load_measure, put_measurements
from phasewatch.storage.phase_changes import list_phase_changes, row_to_change, scan_notes
from phasewatch.storage.runs import open_segment, set_status
from phasewatch.storage.schema import Event, JobState, MeasurementRow, Run
from phasewatch.storage.series import put_series
from server.jobs import Work, attempt, scan
from server.jobs.score import fingerprint
from server.jobs.work import MAX_TRACEBACK_LINES, job, run_work
from tests.conftest import MakeRun
from tests.server.small_run import CONFIG, SmallRun, small_model

RECORDED = Path(__file__).parent.parent / "data"


def claimed(run: SmallRun, kind: str, step: int, segment: int = 0, **parameters: Any) -> Work:
    """A job that this test holds the lease of."""
    with run.database.transaction() as session:
        key = f"{kind}:{segment}:{step}:{parameters}"
        job_id = enqueue(session, NewJob(key, kind, run.run_id, segment, step, parameters))
        assert job_id is not None
        (row,) = claim_jobs(session, "me", 1, 60.0)
        assert row.id == job_id
        return Work.from_row(row, "me")


def do(run: SmallRun, kind: str, step: int, segment: int = 0, **parameters: Any) -> None:
    run_work(claimed(run, kind, step, segment, **parameters), run.database, run.artifacts)


def state_of(database: Database, work: Work) -> tuple[JobState, int]:
    with database.reading() as session:
        row = get_job(session, work.job_id)
        return row.state, row.attempts


def measured(run: SmallRun) -> dict[str, Any]:
    """Every measure of the run's visible history."""
    with run.database.reading() as session:
        return {name: load_measure(session, run.run_id, name) for name, *_ in list_measures(session, run.run_id)}


@pytest.fixture
def run(database: Database, artifacts: Artifacts) -> SmallRun:
    return SmallRun.create(database, artifacts)


@pytest.fixture
def sqlite_run(sqlite_database: Database, artifacts: Artifacts) -> SmallRun:
    return SmallRun.create(sqlite_database, artifacts)


# Scores.


def test_a_score_is_what_the_measures_give(run: SmallRun) -> None:
    run.record(30, seed=4)
    work = claimed(run, "score", 30)
    run_work(work, run.database, run.artifacts)
    with run.database.reading() as session:
        stored = {name: get_losses(session, run.run_id, name, 30) for name in run.probes.slices}
    model = small_model(4)
    expected: dict[str, Measurement] = {**score_heads(model, run.probes), **score_losses(stored, run.probes)}
    expected |= {**score_copying(model, run.probes), **score_logits(model, run.probes)}
    found = measured(run)
    assert set(found) == set(expected)
    assert {"prefix_matching", "natural_prefix_matching", "icl_score", "repeat_gain"} <= set(found)
    for name, one in expected.items():
        assert found[name].steps.tolist() == [30]
        np.testing.assert_array_equal(found[name].values[0], one.values)
        np.testing.assert_array_equal(found[name].chance[0], np.nan if one.chance is None else one.chance)
        if one.interval is not None:
            np.testing.assert_array_equal(found[name].interval[0], one.interval)
    assert state_of(run.database, work) == ("done", 1)


def test_a_score_is_told_to_those_who_watch(run: SmallRun) -> None:
    run.record(30)
    do(run, "score", 30)
    with run.database.reading() as session:
        told = session.scalars(select(Event).where(Event.kind == "measurement")).all()
    assert [(event.run_id, event.payload["step"]) for event in told] == [(run.run_id, 30)]
    assert told[0].payload["measures"] == sorted(measured(run))


def test_scoring_again_changes_nothing_and_tells_nobody(run: SmallRun) -> None:
    def content() -> tuple[list[Any], int]:
        with run.database.reading() as session:
            rows = session.scalars(select(MeasurementRow).order_by(MeasurementRow.measure)).all()
            told = session.scalars(select(Event).where(Event.kind == "measurement")).all()
            return [(row.measure, row.payload, row.interval, row.source, row.created_at) for row in rows], len(told)

    run.record(30)
    do(run, "score", 30)
    first = content()
    do(run, "score", 30, again=True)
    assert content() == first


def test_what_the_recorder_measured_stays(sqlite_run: SmallRun) -> None:
    run = sqlite_run
    run.record(30)
    own = np.full((2, 2), 0.25)
    with run.database.transaction() as session:
        values = {"prefix_matching": StoredMeasurement(1, own, 0.1)}
        put_measurements(session, run.run_id, 30, values, source="recorder")
    do(run, "score", 30)
    np.testing.assert_array_equal(measured(run)["prefix_matching"].values[0], own)
    assert "induction_stripe" in measured(run)


def test_losses_alone_are_scored_from_losses_and_the_rest_when_it_comes(sqlite_run: SmallRun) -> None:
    run = sqlite_run
    run.record_losses(30, None, "text")
    do(run, "score", 30)
    assert {"icl_score", "position_profile"} <= set(measured(run))
    assert not {"repeat_gain", "prefix_matching"} & set(measured(run))
    run.record_losses(30, None, "repeats")
    do(run, "score", 30, losses=2)
    assert "repeat_gain" in measured(run)
    run.record_weights(30, spec={"kind": "somebody's own"})
    do(run, "score", 30, weights=True)
    assert "prefix_matching" not in measured(run)


def test_a_diverged_model_is_scored_as_it_is(sqlite_run: SmallRun) -> None:
    run = sqlite_run
    with run.database.transaction() as session:
        for name, part in run.probes.slices.items():
            lost = np.full((part.n_sequences, part.n_positions), np.nan, np.float32)
            put_losses(session, run.run_id, name, 30, lost)
    do(run, "score", 30)
    assert np.isnan(measured(run)["icl_score"].values).all()


def test_a_checkpoint_hidden_meanwhile_is_left_alone(sqlite_run: SmallRun) -> None:
    run = sqlite_run
    run.record(30)
    work = claimed(run, "score", 30)
    with run.database.transaction() as session:
        open_segment(session, run.run_id, 20)
    run_work(work, run.database, run.artifacts)
    assert measured(run) == {}
    assert state_of(run.database, work) == ("done", 1)


def test_weights_that_cannot_be_used_are_named(sqlite_run: SmallRun) -> None:
    run = sqlite_run
    for step in (10, 20, 30, 40):
        run.record_losses(step)
    run.record_weights(40, spec=small_model(0).spec() | {"model": CONFIG.model_dump(mode="json") | {"d_model": 8_192}})
    run.record_weights(10, spec={"kind": "phasewatch.transformer", "vocabulary_size": 40})
    wider = small_model(0).spec() | {"vocabulary_size": 41}
    run.record_weights(20, spec=wider)
    run.record_weights(30)
    name = weights_name(run.run_id, 0, 30)
    run.artifacts.put(name, run.artifacts.get(name)[:-1] + b"?")
    for step, error, message in (
        (10, ModelNotRebuilt, "not usable"),
        (20, ModelNotRebuilt, "step 20"),
        (30, Unavailable, "damaged"),
        (40, ModelNotRebuilt, r"parameters .* bytes"),
    ):
        with pytest.raises(error, match=message):
            do(run, "score", step)
    assert measured(run) == {}


def test_the_fingerprint_changes_with_what_is_measured() -> None:
    assert len(fingerprint({})) == 12
    assert fingerprint({}) == fingerprint({})
    assert fingerprint({}) != fingerprint({"batch_size": 2})


# The frame of every job.


def test_results_and_end_are_one_transaction_and_only_the_holder_stores(run: SmallRun) -> None:
    run.record(30)
    work = claimed(run, "score", 30)
    with run.database.transaction() as session:
        cancel_job(session, work.job_id)
    with pytest.raises(Conflict, match="no longer held"):
        run_work(work, run.database, run.artifacts)
    assert measured(run) == {}


def test_an_error_is_readable(sqlite_run: SmallRun) -> None:
    work = claimed(sqlite_run, "score", 30)
    nameless = Work(work.job_id, "score", "me")
    failure = attempt(nameless, sqlite_run.database, sqlite_run.artifacts)
    assert failure is not None
    assert failure.error == f"InvalidInput: job {work.job_id} (score) names no run, segment and step"
    assert failure.traceback is not None
    assert len(failure.traceback.splitlines()) <= MAX_TRACEBACK_LINES
    assert "score.py" in failure.traceback


def test_an_unknown_kind_and_a_kind_taken_twice_are_named(sqlite_run: SmallRun) -> None:
    with pytest.raises(NotFound, match="kind 'dance'"):
        do(sqlite_run, "dance", 0)
    with pytest.raises(InvalidInput, match=r"server\.jobs\.score"):
        job("score")(lambda work, database, artifacts: lambda session: None)


# Scans.


def recorded_run(database: Database, make_run: MakeRun, name: str, keep: slice, n_sequences: int) -> tuple[Any, ...]:
    """A recorded run of tests/data, stored as a recorder would, and the arrays that were stored."""
    with np.load(RECORDED / f"{name}.npz") as z:
        steps, tokens = z["steps"][keep], z["token_ids"][:n_sequences]
        losses = z["losses"][keep, : tokens.shape[0] * (tokens.shape[1] - 1)].astype(np.float32)
        scores = {measure: z[measure][keep].astype(float) for measure in ("natural_prefix_matching", "prefix_matching")}
        columns = {str(column): z["table"][keep, i] for i, column in enumerate(z["columns"])}
    probes = ProbeSet(slices={"text": Slice(tokens.astype(np.int32), Layout("text"))}, vocab_size=512)
    run_id = make_run(probes=probes)
    with database.transaction() as session:
        for row, step in enumerate(steps.tolist()):
            put_losses(session, run_id, "text", step, losses[row], codec="float32-zstd")
            found = {measure: StoredMeasurement(1, values[row], 0.01) for measure, values in scores.items()}
            found["icl_score"] = StoredMeasurement(1, np.array(columns["icl_score"][row]))
            put_measurements(session, run_id, step, found, source="recorder")
        put_series(session, run_id, {step: {"learning_rate": 0.01 * min(1, step / 50)} for step in range(0, 700, 5)})
    return run_id, steps, losses, scores, columns["icl_score"].astype(float), tokens


def scan_now(database: Database, artifacts: Artifacts, run_id: Any, *, ended: bool = False) -> None:
    run = SmallRun(database, artifacts, ProbeSet(slices={}, vocab_size=2), run_id)
    do(run, "scan", 0, ended=ended, number=str(np.random.default_rng().integers(1 << 60)))


def stored_changes(database: Database, run_id: Any) -> list[Any]:
    with database.reading() as session:
        return [(row, row_to_change(row)) for row in list_phase_changes(session, run_id)]


def as_dicts(changes: list[Any]) -> list[dict[str, Any]]:
    return [change.to_dict() for change in changes]


def test_a_scan_stores_what_the_detector_finds(database: Database, artifacts: Artifacts, make_run: MakeRun) -> None:
    run_id, steps, losses, scores, icl, tokens = recorded_run(
        database, make_run, "L2_bpe512_s0", slice(None, None, 2), 24
    )
    rate = 0.01 * np.minimum(1, steps // 5 * 5 / 50)
    expected = find_run_changes(
        steps,
        {"text": losses},
        scores,
        {"icl_score": icl, "learning_rate": np.where(steps < 700, rate, 0.01)},
        documents={"text": np.repeat(np.arange(24), tokens.shape[1] - 1)},
        tokens={"text": tokens},
        chance=dict.fromkeys(scores, 0.01),
    )
    assert [change.induction for change in expected].count(True) == 1
    scan_now(database, artifacts, run_id)
    found = stored_changes(database, run_id)
    assert as_dicts([change for _, change in found]) == as_dicts(list(expected))
    assert {row.slice for row, change in found if change.tokens is not None} == {"text"}
    assert {row.detector_version for row, _ in found} == {scan.DETECTOR_VERSION}


def test_scanning_again_keeps_every_change_and_the_end_makes_them_final(
    sqlite_database: Database, artifacts: Artifacts, make_run: MakeRun
) -> None:
    database = sqlite_database
    run_id, *_ = recorded_run(database, make_run, "L2_bpe512_s0", slice(0, 20), 8)  # the change is under way
    scan_now(database, artifacts, run_id)
    first = [(row.id, row.state) for row, _ in stored_changes(database, run_id)]
    assert {state for _, state in first} == {"provisional"}
    scan_now(database, artifacts, run_id, ended=True)  # it has not ended: nothing is final yet
    assert [(row.id, row.state) for row, _ in stored_changes(database, run_id)] == first
    with database.transaction() as session:
        set_status(session, session.get_one(Run, run_id), "completed")
    scan_now(database, artifacts, run_id, ended=True)
    assert [(row.id, row.state) for row, _ in stored_changes(database, run_id)] == [
        (change_id, "confirmed") for change_id, _ in first
    ]


def test_too_few_checkpoints_store_no_change_and_the_reason(
    database: Database, artifacts: Artifacts, make_run: MakeRun
) -> None:
    run_id, *_ = recorded_run(database, make_run, "L2_bpe512_s0", slice(0, 7), 8)
    assert notes_of(database, run_id) == ["the run has not been scanned yet"]
    scan_now(database, artifacts, run_id)
    assert stored_changes(database, run_id) == []
    assert notes_of(database, run_id) == ["the run has 7 checkpoints, a change needs at least 8"]


def test_a_run_without_losses_says_so(sqlite_database: Database, artifacts: Artifacts, make_run: MakeRun) -> None:
    run_id = make_run()
    scan_now(sqlite_database, artifacts, run_id)
    assert notes_of(sqlite_database, run_id) == ["the run has 0 checkpoints, a change needs at least 8"]


def notes_of(database: Database, run_id: Any) -> list[str]:
    with database.reading() as session:
        return scan_notes(session, run_id)


def test_what_was_not_measured_at_a_step_is_nan(sqlite_run: SmallRun) -> None:
    run = sqlite_run
    for step in range(0, 100, 10):
        run.record_losses(step, None, *(("text",) if step % 20 else ("text", "repeats")))
    with run.database.transaction() as session:
        put_measurements(session, run.run_id, 30, {"prefix_matching": StoredMeasurement(1, np.ones((2, 2)), 0.25)})
        put_measurements(session, run.run_id, 35, {"repeat_gain": StoredMeasurement(1, np.array(1.0))})
        put_series(session, run.run_id, {15: {"lr": 0.5}, 40: {"lr": 0.25}})
    with run.database.reading() as session:
        inputs = scan.load_inputs(run.database, session, run.run_id)
    assert inputs.steps.tolist() == list(range(0, 100, 10))
    assert list(inputs.losses) == ["text", "repeats"]
    assert inputs.main_slice == "text"
    assert np.isnan(inputs.losses["repeats"][:, :]).all(1).tolist() == [False, True] * 5
    assert not np.isnan(inputs.losses["text"][:, :]).any()
    assert np.isnan(inputs.scores["prefix_matching"]).all((1, 2)).tolist() == [n != 3 for n in range(10)]
    assert inputs.chance == {"prefix_matching": 0.25}
    assert np.isnan(inputs.series["repeat_gain"]).all()
    np.testing.assert_array_equal(inputs.series["lr"], [np.nan, np.nan, 0.5, 0.5] + [0.25] * 6)


def test_a_scan_reads_the_store_block_by_block_and_finds_what_the_matrix_shows(
    database: Database, artifacts: Artifacts, make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In blocks of one document, with nothing kept between two looks: never the whole slice at a time."""
    run_id, steps, losses, scores, icl, tokens = recorded_run(database, make_run, "L2_bpe512_s0", slice(0, 40), 24)
    at_once: list[int] = []
    read = loss_columns.read_losses

    def noted(*given: Any) -> Any:
        values = read(*given)
        at_once.append(values.size)
        return values

    monkeypatch.setattr(loss_columns, "_KEPT_VALUES", 0)
    monkeypatch.setattr(loss_columns, "read_losses", noted)
    monkeypatch.setattr(loss_source, "_BLOCK_VALUES", 256 * len(steps))
    monkeypatch.setattr(token_timing, "_BLOCK", 256)
    monkeypatch.setattr(signs, "_BLOCK", 256)
    scan_now(database, artifacts, run_id)
    assert max(at_once) == 256 * len(steps)
    assert len(at_once) > losses.size // (256 * len(steps))
    found = [change for _, change in stored_changes(database, run_id)]
    rate = 0.01 * np.minimum(1, steps // 5 * 5 / 50)
    expected = find_run_changes(
        steps,
        {"text": losses},
        scores,
        {"icl_score": icl, "learning_rate": np.where(steps < 700, rate, 0.01)},
        documents={"text": np.repeat(np.arange(24), tokens.shape[1] - 1)},
        tokens={"text": tokens},
        chance=dict.fromkeys(scores, 0.01),
    )
    assert as_dicts(found) == as_dicts(list(expected))
    assert any(change.tokens is not None for change in found)
    assert notes_of(database, run_id) == expected.notes
